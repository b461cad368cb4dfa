"""Compare the arms of a study: how far apart they are, and whether that agrees with a finding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tools.study.studies import Finding
from tools.support.intervals import clustered_bootstrap

MIN_SEEDS = 3
MIN_PARTED = (
    6  # tasks, to judge by points; with fewer, no sign test reaches 5%, and the interval of a bootstrap is too narrow
)
NULL = "the null baseline"
AGREE, DISAGREE, CANNOT_TELL = "agree", "disagree", "cannot tell"


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


Measured = tuple[float, float, float]  # a mean and the two ends of its 95% interval


@dataclass(frozen=True)
class Difference:
    """The difference of two arms: the mean over tasks and over the seeds that both have, paired by both.

    `points` is the difference of pass@2, in percentage points, and `cells` that of the cells that are right.
    `test_loss` is that of the test loss, in nats per token, where below 0 means better; None where the two have no
    test loss that could differ, for the reason `no_loss`. `base_loss` is the baseline's. Intervals are over other
    tasks and other seeds (`clustered_bootstrap`). `seeds` is the number of seeds, and `parted` the number of tasks
    whose points tell the two arms apart.
    """

    points: Measured
    cells: Measured
    seeds: int
    parted: int
    test_loss: Measured | None = None
    base_loss: float | None = None
    no_loss: str = ""

    @property
    def has_points(self) -> bool:
        """Whether there are enough seeds and tasks for points to be evidence."""
        return self.seeds >= MIN_SEEDS and self.parted >= MIN_PARTED

    @property
    def sides(self) -> dict[str, int]:
        """By measure: 1 where the arm is better than its baseline, -1 where it is worse, 0 where it is neither.

        It is one of the two where the whole interval lies on one side of 0.
        """
        enough = self.seeds >= MIN_SEEDS
        sides = {"points": _side(self.points) * self.has_points, "cells": _side(self.cells) * enough}
        if self.test_loss is not None:
            sides["test loss"] = -_side(self.test_loss) * enough
        return sides

    @property
    def side(self) -> int:
        """1 where the arm is better than its baseline, -1 where it is worse, 0 where the two cannot be told apart.

        The test loss decides, or else the points. A test loss is contradicted where points or cells lie on the other
        side: such an arm is less sure of its answers, and they are not better. Then the two cannot be told apart.
        """
        side = self.sides.get("test loss", self.sides["points"])
        return 0 if -side in self.sides.values() else side


def compare(arm: Result, baseline: Result) -> Difference | None:
    """Return how far `arm` is above `baseline`, or None if the two have no seed in common."""
    is_null = baseline.name == NULL
    seeds = [seed for seed in arm.runs if is_null or seed in baseline.runs]
    if not seeds:
        return None
    base_seeds = None if is_null else seeds
    points, cells = (100 * (arm.measured(what, seeds) - baseline.measured(what, base_seeds)) for what in (0, 1))
    parted = int(np.count_nonzero(points.mean(axis=0)))
    found = Difference(_measure(points), _measure(cells), len(seeds), parted)
    losses, base = arm.test_losses(seeds), baseline.test_losses(base_seeds)
    if losses is None or base is None:
        return replace(found, no_loss=f"{(arm if losses is None else baseline).name} has no test loss")
    if np.array_equal(losses, base):
        return replace(found, no_loss="they are the same networks and differ in voting alone")
    return replace(found, test_loss=_measure(losses - base), base_loss=float(base.mean()))


def _side(measured: Measured) -> int:
    """Return 1 or -1 where a whole interval lies above or below 0, else 0."""
    _, low, high = measured
    return (low > 0) - (high < 0)


def _measure(gains: np.ndarray) -> Measured:
    """Return the mean of [seeds, tasks] with its interval."""
    return float(gains.mean()), *clustered_bootstrap(gains)


def verdict(finding: Finding, difference: Difference | None) -> str:
    """Return in words whether the difference is what the finding says.

    A finding without a margin says which arm is better: see `Difference.side`. One with a margin says that the two are
    about alike, within so many points, which no test loss can confirm. So there the interval of the points has to lie
    within the margin on both sides of 0, or beyond it. A published size is compared with the points too.
    """
    if difference is None:
        return "not run"
    if not finding.published:
        return "open question"
    _, low, high = difference.points
    margin = finding.margin
    if margin is None:
        agreement = difference.side
    else:
        agreement = ((-margin <= low and high <= margin) - (low > margin or high < -margin)) * difference.has_points
    smaller = finding.size is not None and difference.has_points and high < finding.size and agreement >= 0
    return {1: AGREE, -1: DISAGREE, 0: CANNOT_TELL}[agreement] + ", but less than published" * smaller
