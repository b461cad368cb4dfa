"""Compare the arms of a study: how far apart they are, and whether that agrees with a finding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.study.studies import Finding
from tools.support.intervals import bootstrap

MIN_SEEDS = 3
MIN_PARTED = 6  # tasks; with fewer, no sign test reaches 5%, and the interval of a bootstrap is too narrow
NULL = "the null baseline"


@dataclass(frozen=True, eq=False)
class Result:
    """The runs of an arm by seed, lines of runs.jsonl. The null baseline has one run, which holds for all seeds."""

    name: str
    runs: dict[int, dict]

    def measured(self, what: int, seeds: list[int] | None = None) -> np.ndarray:
        """Return [seeds, tasks]: the share of each task's outputs that are right, or of their cells if `what` is 1.

        `seeds` chooses runs; without it, all runs are taken.
        """
        chosen = self.runs.values() if seeds is None else [self.runs[seed] for seed in seeds]
        return np.array([[outcome[what] for outcome in run["outcomes"].values()] for run in chosen])

    def test_losses(self, seeds: list[int] | None = None) -> np.ndarray | None:
        """Return the test loss of each task [seeds, tasks], or None where a run did not measure them."""
        chosen = self.runs.values() if seeds is None else [self.runs[seed] for seed in seeds]
        if any("test losses" not in run for run in chosen):
            return None
        return np.array([list(run["test losses"].values()) for run in chosen])

    def mean(self, name: str) -> float:
        """Return the mean over the runs of a number in their lines, for example "seconds"."""
        return float(np.mean([run[name] for run in self.runs.values()]))


@dataclass(frozen=True)
class Difference:
    """The difference of two arms, paired over tasks and averaged over the seeds that both have.

    `points` is the difference of pass@2, in percentage points, with the two ends of its 95% interval over resampled
    tasks. `cells` is the same for the cells that are right, and `test_loss` for the test loss, in nats per token: below
    0 means better. `seeds` is the number of seeds, and `parted` the number of tasks that tell the two arms apart.
    """

    points: tuple[float, float, float]
    cells: tuple[float, float, float]
    seeds: int
    parted: int
    test_loss: tuple[float, float, float] | None = None


def compare(arm: Result, baseline: Result) -> Difference | None:
    """Return how far `arm` is above `baseline`, or None if the two have no seed in common."""
    is_null = baseline.name == NULL
    seeds = [seed for seed in arm.runs if is_null or seed in baseline.runs]
    if not seeds:
        return None
    gains = []  # per task, in percentage points: of the outputs right, and of the cells right
    for what in (0, 1):
        base = baseline.measured(what) if is_null else baseline.measured(what, seeds)
        gains.append(100 * (arm.measured(what, seeds) - base).mean(axis=0))
    points, cells = ((float(gain.mean()), *bootstrap(gain)) for gain in gains)
    return Difference(points, cells, len(seeds), int(np.count_nonzero(gains[0])), _of_test_losses(arm, baseline, seeds))


def _of_test_losses(arm: Result, baseline: Result, seeds: list[int]) -> tuple[float, float, float] | None:
    """Return the difference of the test losses with its interval, or None where either arm has none."""
    if baseline.name == NULL:
        return None
    losses, base = arm.test_losses(seeds), baseline.test_losses(seeds)
    if losses is None or base is None:
        return None
    gain = (losses - base).mean(axis=0)  # [tasks]
    return float(gain.mean()), *bootstrap(gain)


def verdict(finding: Finding, difference: Difference | None) -> str:
    """Return in words whether the interval lies where the finding says.

    A finding without a margin says that the difference is above 0, one with a margin that the difference is within the
    margin on both sides of 0. Too few seeds, or too few tasks that tell the two apart, are not evidence.
    """
    if difference is None:
        return "not run"
    if not finding.published:
        return "open question"
    if difference.seeds < MIN_SEEDS or difference.parted < MIN_PARTED:
        return "cannot tell"
    _, low, high = difference.points
    margin = finding.margin
    agrees = low > 0 if margin is None else -margin <= low and high <= margin
    disagrees = high < 0 if margin is None else low > margin or high < -margin
    if disagrees:
        return "disagree"
    smaller = finding.size is not None and high < finding.size
    return ("agree" if agrees else "cannot tell") + ", but less than published" * smaller
