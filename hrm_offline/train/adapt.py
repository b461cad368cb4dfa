"""Test-time adaptation: learn the hidden tasks' demonstration pairs, within a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hrm_offline.batching import training_batches
from hrm_offline.budget import Budget
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.hrm import HRM
from hrm_offline.train.learner import Learner, sum_metrics

_COLD_STEPS = 5  # the first steps are slow and say nothing of the pace
_LOG_EVERY = 50  # steps between two looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class AdaptReport:
    """Steps planned by the recipe, steps that were taken, examples offered, and the token loss an
    example had, averaged over the last tenth of the steps."""

    planned_steps: int
    steps: int
    examples: int
    loss: float


def adapt(model: HRM, puzzles: PuzzleSet, config: AdaptConfig, budget: Budget, seed: int,
          pretrained: bool, progress: Callable[[int, int, float], None] = lambda *_: None) -> AdaptReport:
    """Train the model in place and leave the averaged weights in it.

    The work is `config.visits` of every demonstration pair, a number of steps that does not
    depend on the machine. Only where the pace so far says that they will not fit in `budget` is
    the schedule shortened to what does. `progress` gets (step, total, loss).
    """
    source = ExampleSource(puzzles, seed)
    planned = max(1, round(source.steps_a_visit * config.visits))
    learner = Learner(model, config, planned, seed)
    offer = training_batches(source, model.device)
    embeddings_only = config.embeddings_only if pretrained and model.config.puzzle_columns else 0.0
    examples, cold, log = 0, 0.0, _LossLog()
    while learner.step < learner.total_steps and budget.remaining() > 0:
        batch = offer(learner.step)
        learner.embeddings_only = learner.step < embeddings_only * learner.total_steps
        log.add(sum_metrics(learner.learn(batch))["lm_loss"], batch.size)
        examples += batch.size
        if learner.step == _COLD_STEPS:
            cold = budget.elapsed()
        elif learner.step > _COLD_STEPS:
            pace = (budget.elapsed() - cold) / (learner.step - _COLD_STEPS)
            affordable = int(budget.remaining() / pace) if pace > 0 else planned
            learner.total_steps = min(planned, learner.step + max(0, affordable))
        if learner.step % _LOG_EVERY == 0 or learner.step == learner.total_steps:
            progress(learner.step, learner.total_steps, log.read())
    if learner.ema and learner.step:
        learner.ema.swap()
    return AdaptReport(planned, learner.step, examples, log.mean_of_last(0.1))


class _LossLog:
    """The mean loss of each stretch of steps, summed on the device until it is read."""

    def __init__(self):
        self.total: torch.Tensor | float = 0.0
        self.examples = 0
        self.stretches: list[float] = []

    def add(self, loss: torch.Tensor, examples: int) -> None:
        self.total = self.total + loss
        self.examples += examples

    def read(self) -> float:
        """Close a stretch and return its mean loss an example."""
        self.stretches.append(float(self.total) / self.examples)
        self.total, self.examples = 0.0, 0
        return self.stretches[-1]

    def mean_of_last(self, share: float) -> float:
        """Mean over the last `share` of the stretches, NaN without any."""
        last = self.stretches[-max(1, round(share * len(self.stretches))) :]
        return sum(last) / len(last) if last else float("nan")
