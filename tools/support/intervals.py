"""Confidence intervals of what a study measures."""

from __future__ import annotations

import math

import numpy as np

_Z95 = 1.959963984540054  # the normal's two-sided 95%
_RESAMPLES = 10_000


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """95% interval of a share of `trials` independent trials (Wilson 1927), 0 to 1."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(values, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean of `values` (one a task, say), by the percentiles of resampled means."""
    values = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
