"""Compute confidence intervals for measured means."""

from __future__ import annotations

import numpy as np

_RESAMPLES = 10_000


def bootstrap(values, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval (low, high) of the mean of `values` [n], for example one value per task.

    Draws 10,000 samples of n values with replacement and takes the 2.5th and 97.5th percentile of their means (the
    percentile bootstrap, Efron 1979).
    """
    values = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    samples = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))]  # [10,000, n]
    low, high = np.percentile(samples.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
