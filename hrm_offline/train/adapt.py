"""Test-time adaptation: learn the hidden tasks' demonstration pairs, within a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from hrm_offline.common.budget import Budget, Pace
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.batching import OfferedBatch, training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.train.distributed import World
from hrm_offline.train.learner import Learner, sum_metrics

LOOK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device
_AGREE_EVERY = 20  # steps between two agreements of several processes on where to end


class Diverged(Exception):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class AdaptReport:
    """Steps planned by the recipe, steps that were taken, examples offered, and the token loss an
    example had: averaged over the last tenth of the steps, and over each `LOOK_EVERY` of them."""

    planned_steps: int
    steps: int
    examples: int
    loss: float
    losses: tuple[float, ...]


def adapt(
    model: RecursiveModel, puzzles: PuzzleSet, config: AdaptConfig, budget: Budget, seed: int, pretrained: bool
) -> AdaptReport:
    """Train the model in place within a budget and leave the averaged weights in it (see `Adaptation`)."""
    adaptation = Adaptation.of_model(model, puzzles, config, seed, pretrained)
    adaptation.clock, adaptation.until = budget.elapsed, budget.total
    for _ in adaptation.run():
        pass
    return adaptation.finish()


@dataclass
class Adaptation:
    """One adaptation, which can be watched, told to end earlier or later, and continued.

    The work is `planned` steps of the `learner` on what `offer` gives for a step: a number that does not
    depend on the machine. Only where the pace so far says that they will not fit in before `until`
    on `clock` (seconds; both may be changed while running) is the schedule shortened to what does. For
    the first `embeddings_only` of the steps only puzzle embeddings learn.
    """

    learner: Learner
    offer: Callable[[int], OfferedBatch]
    planned: int
    embeddings_only: float = 0.0
    clock: Callable[[], float] = lambda: 0.0
    until: float = math.inf
    examples: int = 0
    losses: list[float] = field(default_factory=list)  # a mean for each stretch between two looks
    pace: Pace = field(default_factory=Pace)
    _sum: torch.Tensor | float = 0.0
    _since: int = 0

    @classmethod
    def of_model(
        cls,
        model: RecursiveModel,
        puzzles: PuzzleSet,
        config: AdaptConfig,
        seed: int,
        pretrained: bool,
        world: World | None = None,
    ) -> Adaptation:
        """The recipe's adaptation to a puzzle set: `config.visits` of every demonstration pair. Random weights have
        nothing to protect, so with them the network learns from the first step."""
        source = ExampleSource(puzzles, seed)
        planned = max(1, round(source.steps_per_visit * config.visits)) if config.visits else 0
        embeddings_only = config.embeddings_only if pretrained and model.config.puzzle_columns else 0.0
        return cls(
            Learner(model, config, planned, seed, world),
            training_batches(source, model.device),
            planned,
            embeddings_only,
        )

    def run(self) -> Iterator[int]:
        """Take the steps; yields the number taken after each. Raises `Diverged`."""
        learner = self.learner
        self._agree()
        while learner.step < learner.total_steps:
            learner.embeddings_only = learner.step < self.embeddings_only * learner.total_steps
            batch = self.offer(learner.step)
            self._sum = self._sum + sum_metrics(learner.learn(batch))["lm_loss"]
            self._since += batch.size
            self.examples += batch.size
            self.pace.tick(self.clock())
            if learner.world.size == 1 or learner.step % _AGREE_EVERY == 0:
                self._agree()
            if learner.step % LOOK_EVERY == 0 or learner.step == learner.total_steps:
                self._look()
            yield learner.step

    def finish(self) -> AdaptReport:
        """Leave the averaged weights in the model."""
        if self.learner.ema and self.learner.step:
            self.learner.ema.swap()
        last = self.losses[-max(1, round(0.1 * len(self.losses))) :]
        loss = sum(last) / len(last) if last else float("nan")
        return AdaptReport(
            self.planned, self.learner.step, self.examples, loss, tuple(round(mean, 4) for mean in self.losses)
        )

    @property
    def is_sound(self) -> bool:
        """Whether the loss has been looked at since the last step, so that a state saved now is worth keeping."""
        return self._since == 0

    def progress(self) -> dict:
        """What a saved state has to hold beside the learner, in JSON."""
        return {
            "total_steps": self.learner.total_steps,
            "examples": self.examples,
            "losses": self.losses,
            "micro_batches": self.learner.micro_batches,
        }

    def resume(self, progress: dict) -> None:
        """Continue from a saved state that was loaded into the learner."""
        self.learner.total_steps = progress["total_steps"]
        self.examples, self.losses = progress["examples"], list(progress["losses"])
        if progress["micro_batches"] != self.learner.micro_batches:
            self.learner.carries.clear()  # they are of parts of another size

    def _agree(self) -> None:
        """Set the step to end at: the first process' reckoning where there are several."""
        self.learner.total_steps = self.learner.world.agree(self._affordable(), self.learner.model.device)

    def _affordable(self) -> int:
        step, left = self.learner.step, self.until - self.clock()
        if left <= 0:
            return step
        pace = self.pace.seconds()
        return self.planned if not pace else min(self.planned, step + round(min(left / pace, self.planned)))

    def _look(self) -> None:
        total = self.learner.world.sum_metrics({"loss": torch.as_tensor(self._sum)})["loss"]
        loss = total / self._since
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {self.learner.step}")
        self.losses.append(loss)
        self._sum, self._since = 0.0, 0
