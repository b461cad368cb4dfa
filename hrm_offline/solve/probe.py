"""Measure how fast a device predicts, in a small share of the budget and before anything is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hrm_offline.data.puzzles import Batch
from hrm_offline.model.graphs import WARM_UP
from hrm_offline.predict.decoding import AnyPredictor
from hrm_offline.predict.plan import PredictionPlan

_PROBE_SECONDS = 0.1  # of the last size, where a device computes
# The time for adaptation depends on the measured speed until the first group is predicted, so calls are repeated where
# there is time.
_PROBES, _MORE_PROBES = 3, 7
# Shares of the budget: for the repeats of the first call of each size, and for the further ones of the last size.
_REPEATING_SHARE, _PROBING_SHARE = 0.02, 0.005


@dataclass
class Probe:
    """A measurement of the prediction that `plan` lists, on the batch with the largest canvas.

    `budget` is the budget of the run in seconds, and `clock` gives seconds. A CPU computes from the first row on. A GPU
    launches kernels for as long, whether they compute one row or many. So with `fits` the plan's `rows_per_step` is
    measured too.
    """

    predictor: AnyPredictor
    plan: PredictionPlan
    budget: float
    clock: Callable[[], float]
    on_cpu: bool
    fits: bool = False

    def measure(self) -> float:
        """Return the seconds per unit of the cost of prediction (see `PredictionPlan.cost_of`).

        The rows of a trial grow until it shows how fast the device computes.
        """
        batch, found, trials = self.plan.rounds[0][-1], math.inf, []
        full, rows = self.plan.buckets[batch.bucket].batch_size(self.plan.predict_tokens), 1
        while True:
            trial = batch.rows(np.arange(rows) % len(batch))
            first = self._seconds_of(1, trial)  # on a GPU this compiles kernels
            times = max(min(_PROBES, self._affordable(first, _REPEATING_SHARE)), int(not self.on_cpu))
            if not times:
                return min(found, first / self.plan.cost_of(trial))
            seconds = self._seconds_of(times, trial) / times
            more = self._affordable(seconds, _PROBING_SHARE)
            # While four times the rows take less than twice the time, launching is measured and not computing.
            computes = self.on_cpu or seconds > 2 * (trials[-1][1] if trials else math.inf)
            if rows >= full or (computes and seconds >= _PROBE_SECONDS) or not more:
                trials.append((trial, (times * seconds + self._seconds_of(more, trial)) / (times + more)))
                return self._finish(trials, has_time=more == _MORE_PROBES)
            trials.append((trial, seconds))
            found = seconds / self.plan.cost_of(trial)
            rows = full if self.fits else min(full, 4 * rows)

    def _finish(self, trials: list[tuple[Batch, float]], has_time: bool) -> float:
        """Return the seconds per unit of the cost by trials with ever more rows, each a batch and its seconds.

        With `has_time` it is tried whether batches are recorded, which takes about as long as the last repeats. Then
        the seconds so far, of plain batches, tell nothing, and are measured again. By the first and the last trial the
        plan's `rows_per_step` is set.
        """
        records = self.predictor.records
        if has_time:
            self.predictor.try_graphs(trials[-1][0])
        if self.predictor.records and not records:
            trials = [(batch, self._recorded_seconds(batch)) for batch, _ in trials[:1] + trials[1:][-1:]]
        if self.fits and len(trials) > 1:
            self.plan.rows_per_step = self.plan.fit_rows_per_step(*trials[0], *trials[-1])
        batch, seconds = trials[-1]
        return seconds / self.plan.cost_of(batch)

    def _seconds_of(self, times: int, batch: Batch) -> float:
        before = self.clock()
        for _ in range(times):
            self.predictor.rehearse(batch)
        return self.clock() - before

    def _recorded_seconds(self, batch: Batch) -> float:
        """Return the seconds of a batch, once it is recorded."""
        self._seconds_of(WARM_UP + 1, batch)
        return self._seconds_of(_PROBES, batch) / _PROBES

    def _affordable(self, seconds: float, share: float) -> int:
        """Return how many further trials of `seconds` each a share of the budget has time for."""
        return min(_MORE_PROBES, int(share * self.budget / max(seconds, 1e-6)))
