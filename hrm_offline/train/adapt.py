"""Test-time adaptation: learn the hidden tasks' demonstration pairs, within a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hrm_offline.budget import Budget
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.hrm import HRM
from hrm_offline.train.learner import Learner, sum_metrics

_COLD_STEPS = 5  # the first steps are slow and say nothing of the pace


@dataclass(frozen=True)
class AdaptReport:
    """Steps planned by the recipe, steps that were taken, examples offered, and the loss an
    example of the last steps had."""

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
    embeddings_only = config.embeddings_only if pretrained and model.config.puzzle_columns else 0.0
    examples, loss, cold = 0, float("nan"), 0.0
    while learner.step < learner.total_steps and budget.remaining() > 0:
        batch = source.batch(learner.step)
        learner.embeddings_only = learner.step < embeddings_only * learner.total_steps
        parts = learner.learn(batch)
        size = len(batch.inputs)
        examples += size
        if learner.step == _COLD_STEPS:
            cold = budget.elapsed()
        elif learner.step > _COLD_STEPS:
            pace = (budget.elapsed() - cold) / (learner.step - _COLD_STEPS)
            affordable = int(budget.remaining() / pace) if pace > 0 else planned
            learner.total_steps = min(planned, learner.step + max(0, affordable))
        if learner.step % 50 == 0 or learner.step == learner.total_steps:
            recent = float(sum_metrics(parts)["lm_loss"]) / size
            loss = recent if loss != loss else 0.9 * loss + 0.1 * recent
            progress(learner.step, learner.total_steps, loss)
    if learner.ema and learner.step:
        learner.ema.swap()
    return AdaptReport(planned, learner.step, examples, loss)
