"""Learn the demonstrations of the hidden tasks at test time, in the time there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from hrm_offline.common.budget import Budget, Pace
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.batching import OfferedBatch
from hrm_offline.model.graphs import GraphChoice
from hrm_offline.model.network import Network, training_batches
from hrm_offline.train.decoder_learner import new_learner
from hrm_offline.train.distributed import World
from hrm_offline.train.learner import Learner, sum_metrics
from hrm_offline.train.memory import plan_memory

LOOK_EVERY = 50  # steps between two looks at the loss, since each look waits for the device
_AGREE_EVERY = 20  # steps after which several processes agree again on the step to end at
# The first step after which long examples may lose visits. The first steps are slow, where kernels are compiled. So the
# length up to which examples keep all visits is found again at each look, and changed where it differs by such a share.
_FIRST_FAVOUR, _WORTH_CHANGING = 10, 0.2
_LEAST_STEPS_AHEAD = 20  # where the pace is not known, so that it can be measured
_FINAL_SHARE = 0.1  # the reported loss is a mean over this share of the looks, the last ones


class Diverged(Exception):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class AdaptReport:
    """The work of an adaptation, and the mean token loss per example."""

    planned_steps: int  # by the recipe
    steps: int  # taken
    examples: int  # offered
    loss: float  # over the last tenth of the steps, NaN where none was taken
    losses: tuple[float, ...]  # over each `LOOK_EVERY` steps


def adapt(
    model: Network, puzzles: PuzzleSet, recipe: AdaptConfig, budget: Budget, seed: int, pretrained: bool
) -> AdaptReport:
    """Train the model in place within a budget, and leave the averaged weights in it. Raises `Diverged`."""
    adaptation = Adaptation.of_model(model, puzzles, recipe, seed, pretrained)
    adaptation.clock, adaptation.until = budget.elapsed, budget.total
    for _ in adaptation.run():
        pass
    return adaptation.finish()


@dataclass
class Adaptation:
    """An adaptation that can be watched, told to end earlier or later, and continued.

    The work is `planned` steps, a number that does not depend on the machine. If the pace so far says that they will
    not fit in before `until`, the schedule is shortened to the steps that do. A `source` whose recipe says so then
    offers long examples less often (see `ExampleSource.favour_short`). `clock` and `until` may be changed while
    running.
    """

    learner: Learner
    offer: Callable[[int], OfferedBatch]  # from a step to its batch
    planned: int
    embeddings_only: float = 0.0  # share of the steps, from the first on, in which only puzzle embeddings learn
    clock: Callable[[], float] = lambda: 0.0  # in seconds
    until: float = math.inf  # on `clock`
    source: ExampleSource | None = None
    full_lengths: list[tuple[int, int]] = field(default_factory=list)  # from a step on, a length in tokens
    examples: int = 0
    losses: list[float] = field(default_factory=list)  # a mean for each stretch between two looks
    pace: Pace = field(default_factory=Pace)
    _sum: torch.Tensor | float = 0.0  # of the losses since the last look; on the device, so that no step waits
    _since: int = 0  # examples since the last look

    @classmethod
    def of_model(
        cls,
        model: Network,
        puzzles: PuzzleSet,
        recipe: AdaptConfig,
        seed: int,
        pretrained: bool,
        world: World | None = None,
        graphs: GraphChoice | None = None,
    ) -> Adaptation:
        """Return the recipe's adaptation to a puzzle set: `recipe.visits` visits of every demonstration pair.

        `world` and `graphs` are as for `Learner`.
        """
        source = ExampleSource(puzzles, seed)
        planned = max(1, round(source.steps_per_visit * recipe.visits)) if recipe.visits else 0
        # Random weights have nothing to protect: without `pretrained` the network learns from the first step.
        embeddings_only = recipe.embeddings_only if pretrained and model.config.puzzle_columns else 0.0
        learner = new_learner(model, recipe, planned, seed, world, graphs)
        learner.memory = plan_memory(source, model, learner.world)
        return cls(learner, training_batches(source, model.device), planned, embeddings_only, source=source)

    def run(self) -> Iterator[int]:
        """Take the steps, and yield after each the number taken. Raises `Diverged`."""
        learner = self.learner
        self._agree()
        while learner.step < learner.total_steps:
            learner.embeddings_only = learner.step < self.embeddings_only * learner.total_steps
            batch = self.offer(learner.step)
            parts = learner.learn(batch)
            self._sum = self._sum + sum_metrics(parts)["lm_loss"]
            self._since += batch.size
            self.examples += batch.size
            self.pace.tick(self.clock())
            if learner.world.size == 1 or learner.step % _AGREE_EVERY == 0:
                self._agree()
            if learner.step == _FIRST_FAVOUR or learner.step % LOOK_EVERY == 0:
                self._favour_short()
            if learner.step % LOOK_EVERY == 0 or learner.step == learner.total_steps:
                self._look()
            yield learner.step

    def finish(self) -> AdaptReport:
        """Leave the averaged weights in the model, and return the report."""
        if self.learner.ema and self.learner.step:
            self.learner.ema.swap()
        looks = max(1, round(_FINAL_SHARE * len(self.losses)))
        final = self.losses[-looks:]
        return AdaptReport(
            planned_steps=self.planned,
            steps=self.learner.step,
            examples=self.examples,
            loss=sum(final) / len(final) if final else float("nan"),
            losses=tuple(round(mean, 4) for mean in self.losses),
        )

    @property
    def is_sound(self) -> bool:
        """Return whether the loss was looked at since the last step, so that a state saved now is known to be good."""
        return self._since == 0

    def progress(self) -> dict:
        """Return what a saved state has to hold beside the learner, as JSON."""
        return {
            "total_steps": self.learner.total_steps,
            "examples": self.examples,
            "losses": self.losses,
            "micro_batches": self.learner.micro_batches,
            "full_lengths": self.full_lengths,
        }

    def resume(self, progress: dict) -> None:
        """Continue from the `progress` of a saved state, once its tensors are loaded into the learner."""
        self.learner.total_steps = progress["total_steps"]
        self.examples, self.losses = progress["examples"], list(progress["losses"])
        for step, length in progress.get("full_lengths", ()):
            self._favour_up_to(step, length)
        if progress["micro_batches"] != self.learner.micro_batches:
            self.learner.carries.clear()  # the saved ones are for parts of another size

    def _agree(self) -> None:
        """Set the step to end at. The first process decides for all."""
        self.learner.total_steps = self.learner.world.agree(self._affordable(), self.learner.model.device)

    def _favour_short(self) -> None:
        """Offer long examples less often from now on, where the steps do not suffice to offer all often enough.

        All processes have agreed on the steps, so they agree on this too.
        """
        length = self.source and self.source.affordable_length(self.learner.total_steps)
        if not length:
            return
        last = self.full_lengths[-1][1] if self.full_lengths else self.source.affordable_length(self.planned)
        if abs(length - last) > _WORTH_CHANGING * min(length, last):
            self._favour_up_to(self.learner.step, length)

    def _favour_up_to(self, step: int, length: int) -> None:
        """From a step on, offer examples of more than `length` tokens less often."""
        self.full_lengths.append((step, length))
        self.source.favour_short(step, length)

    def _affordable(self) -> int:
        """Return the step that can be reached in the time left, `planned` at most."""
        step, left = self.learner.step, self.until - self.clock()
        if left <= 0:
            return step
        seconds_per_step = self.pace.seconds()
        if not seconds_per_step:  # not known yet, or too short to be measured: as planned, or as a saved state had it
            return min(self.planned, max(self.learner.total_steps, step + _LEAST_STEPS_AHEAD))
        more = round(min(left / seconds_per_step, self.planned))  # `left` may be infinite, which cannot be rounded
        return min(self.planned, step + more)

    def _look(self) -> None:
        """Note the mean loss since the last look. Raises `Diverged` unless it is a finite number."""
        total = self.learner.world.sum_metrics({"loss": torch.as_tensor(self._sum)})["loss"]
        loss = total / self._since
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {self.learner.step}")
        self.losses.append(loss)
        self._sum, self._since = 0.0, 0
