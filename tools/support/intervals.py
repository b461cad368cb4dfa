"""Compute confidence intervals for measured means."""

from __future__ import annotations

import numpy as np

_RESAMPLES = 10_000


def bootstrap(values, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval (low, high) of the mean of `values` [n], for example one value per task.

    Draws 10,000 samples of n values with replacement and takes the 2.5th and 97.5th percentile of their means (the
    percentile bootstrap, Efron 1979).
    """
    return _middle(_means(np.asarray(values, dtype=float), np.random.default_rng(seed)))


def clustered_bootstrap(values, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval (low, high) of the mean of `values` [seeds, tasks], whose tasks and seeds are samples.

    Tasks are resampled as in `bootstrap`, each averaged over its seeds. Each sample also gets a normal number, with the
    variance of the seeds' own part in the mean: what a seed does to all tasks alike.
    """
    values, rng = np.asarray(values, dtype=float), np.random.default_rng(seed)
    means = _means(values.mean(axis=0), rng)
    return _middle(means + rng.normal(0, _variance_of_seeds(values) ** 0.5, len(means)))


def _variance_of_seeds(values: np.ndarray) -> float:
    """Return the part of the variance of the mean of `values` [seeds, tasks] that seeds make, at least 0.

    It is the variance among the seeds' means less what chance within tasks makes of it (the two-way analysis of
    variance without repeats), over the number of seeds.
    """
    seeds, tasks = values.shape
    if min(seeds, tasks) < 2:
        return 0.0
    of_seeds, of_tasks = values.mean(axis=1, keepdims=True), values.mean(axis=0)
    chance = ((values - of_seeds - of_tasks + values.mean()) ** 2).sum() / ((seeds - 1) * (tasks - 1))
    return max(0.0, float(of_seeds.var(ddof=1) - chance / tasks)) / seeds


def _means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the means of samples of `values` [n] with replacement, float64 [10,000]."""
    return values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)


def _middle(means: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
