"""Predict augmented views by outer steps without gradient, and turn the results into grids of the original tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from hrm_offline.answers.invariants import Doubts
from hrm_offline.answers.vote import Votes, key_of
from hrm_offline.common.tokens import Canvas
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import Batch, PuzzleSet, unpack
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.device import free_cache
from hrm_offline.model.graphs import WARM_UP, GraphChoice, Outcome, Recorder, compare_outcomes, settle
from hrm_offline.model.halting import Sequences, wants_to_halt
from hrm_offline.model.recursive import Output, RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.ops.faults import KernelFault, is_out_of_memory

_TRIED_CALLS = 3  # recorded, and as many plain
_MOST_DOUBT = 60.0  # nats; a vote still counts for more than nothing


def doubts_of(puzzles: PuzzleSet) -> Doubts:
    """Return the doubts about outputs for the test inputs of a puzzle set, by their index there."""
    return Doubts(puzzles.tasks, puzzles.tests.puzzles, [pair.input for pair in puzzles.tests.pairs])


@dataclass(frozen=True, eq=False)
class OuterStep:
    """The outcome of one outer step for the A sequences that took it.

    rows int64 [A]: their rows in the batch.
    output: the model's output for them.
    ends int64 [E]: which of the A end with this step; None where none does.
    """

    rows: torch.Tensor
    output: Output
    ends: torch.Tensor | None


class Predictor:
    """Predicts batches of a puzzle set's test inputs (see `PredictionPlan`), `outer_steps` from fresh states.

    `sequence_steps` counts the outer steps that were computed, summed over sequences. `graphs` says whether batches are
    recorded as CUDA graphs. By default the recipe's setting holds, and nothing is measured unless `try_graphs` is
    called. Early halting waits for the device, so nothing is recorded with it.
    """

    def __init__(
        self, model: RecursiveModel, puzzles: PuzzleSet, recipe: AdaptConfig, graphs: GraphChoice | None = None
    ):
        self.model = model
        self.recipe = recipe
        self.maker = BatchMaker(puzzles, puzzles.tests, model.device)
        self.sequence_steps = 0
        self._doubt = doubts_of(puzzles)
        self._doubts: dict[tuple, float] = {}  # by test input and grid: many views agree
        never = GraphChoice(None, False)
        graphs = graphs or GraphChoice.of(recipe.cuda_graphs, model.device)
        self.recorder = Recorder(never if recipe.early_halting else graphs)

    def predict(self, batch: Batch) -> Votes:
        """Return one vote for each sequence of the batch, as a grid of the original task.

        A batch that does not fit into memory is computed without recordings, and then in halves. Raises
        `torch.OutOfMemoryError` where a single sequence does not fit. An operation whose kernel fails is demoted to
        plain PyTorch, and the batch is computed again.
        """
        try:
            return self._predict(batch)
        except KernelFault as fault:
            dispatch.demote_after(fault)
            self.recorder.clear()
            parts = [batch]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or (len(batch) == 1 and not self.recorder.on):
                raise
            parts = self._instead_of(batch)
        free_cache(self.model.device)
        return Votes.joined([self.predict(part) for part in parts])

    def _instead_of(self, batch: Batch) -> list[Batch]:
        """Return what to predict instead of a batch that ran out of memory."""
        if self.recorder.on:
            self.recorder.turn_off("recordings and batches do not fit into memory together")
            return [batch]
        half = len(batch) // 2
        return [batch.rows(slice(half)), batch.rows(slice(half, None))]

    def rehearse(self, batch: Batch) -> None:
        """Predict a batch to see how long that takes."""
        self.predict(batch)

    @property
    def records(self) -> bool:
        """Return whether batches are recorded."""
        return self.recorder.on

    def try_graphs(self, batch: Batch) -> None:
        """Decide whether batches are recorded from now on, where that is to be measured."""
        choice = self.recorder.choice
        if choice.serves is None:
            settle(choice, lambda: self._try_recording(batch))
            self.recorder.clear()
            self.recorder.on = choice.serves

    @torch.inference_mode()
    def _try_recording(self, batch: Batch) -> tuple[bool, str]:
        """Predict a batch plain and recorded, each time with its sequences in other rows."""
        recorder, sequences = self.recorder, self.maker.make(batch)

        def take(calls: int, recorded: bool) -> Outcome:
            recorder.on = recorded
            numbers = []

            def run() -> None:
                for turn in range(calls):
                    turned = sequences.turned(turn)
                    numbers.extend(result.clone() for result in self._answer(turned, batch.canvas))

            seconds = recorder.choice.cuda.seconds(run)
            return Outcome(seconds, tuple(result.cpu() for result in numbers))

        take(1, recorded=False)
        plain = take(_TRIED_CALLS, recorded=False)
        take(WARM_UP + 1, recorded=True)
        if not recorder.on:
            return False, recorder.choice.reason
        return compare_outcomes(plain, take(_TRIED_CALLS, recorded=True), lambda: take(_TRIED_CALLS, recorded=False))

    @torch.inference_mode()
    def trace(self, batch: Batch) -> list[Votes]:
        """Return the votes that the batch would have after each outer step. No sequence ends before the last step."""
        votes = []
        for step in self.outer_steps(self.maker.make(batch), batch.canvas, early_halting=False):
            self.sequence_steps += len(step.rows)
            votes.append(self._read(batch, *_answers(step.output)))
        return votes

    @torch.inference_mode()
    def _predict(self, batch: Batch) -> Votes:
        sequences = self.maker.make(batch)
        if not self.recipe.early_halting:
            self.sequence_steps += len(batch) * self.recipe.outer_steps
            return self._read(batch, *self._answer(sequences, batch.canvas))
        tokens = sequences.inputs.new_zeros(len(batch), batch.canvas[0] * batch.canvas[1])  # [B, S]
        confidence = torch.zeros(len(tokens), device=tokens.device)  # [B]
        for step in self.outer_steps(sequences, batch.canvas, early_halting=True):
            self.sequence_steps += len(step.rows)
            rows = step.rows[step.ends]
            ended, confidence[rows] = _answers(step.output, step.ends)
            tokens[rows] = ended.to(tokens.dtype)
        return self._read(batch, tokens, confidence)

    def _answer(self, sequences: Sequences, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens int64 [B, S] and the confidence float32 [B] after the last outer step of all sequences.

        A recording is replayed where there is one. Its results hold until the next call.
        """

        def compute(inputs: torch.Tensor, identifiers: torch.Tensor, cells: torch.Tensor | None):
            given = Sequences(inputs, None, identifiers, cells)
            for step in self.outer_steps(given, canvas, early_halting=False):
                output = step.output
            return _answers(output)

        key = (canvas, len(sequences.inputs))
        return self.recorder.run(key, (sequences.inputs, sequences.puzzle_identifiers, sequences.cells), compute)

    def _read(self, batch: Batch, tokens: torch.Tensor, confidence: torch.Tensor) -> Votes:
        """Return the votes that tokens [B, S] and confidence [B] make."""
        shown = unpack(torch.from_numpy(batch.packed).to(self.model.device).long())
        sides, cells = self.maker.read(tokens, shown.views, shown.corners, batch.canvas)
        votes = Votes(batch.examples, sides.cpu().numpy(), cells.cpu().numpy(), confidence.cpu().numpy())
        if not self.recipe.vote_doubts:
            return votes
        doubts = [self._doubt_of(test, votes.grid(i)) for i, test in enumerate(batch.examples.tolist())]
        return replace(votes, weight=np.exp(-np.array(doubts)).astype(np.float32))

    def _doubt_of(self, test: int, grid: np.ndarray) -> float:
        """Return the doubt about a grid, `_MOST_DOUBT` at most and for an empty grid, which can be no answer."""
        key = test, key_of(grid)
        if key not in self._doubts:
            self._doubts[key] = min(self._doubt(test, grid), _MOST_DOUBT) if grid.size else _MOST_DOUBT
        return self._doubts[key]

    def outer_steps(self, sequences: Sequences, canvas: Canvas, early_halting: bool) -> Iterator[OuterStep]:
        """Yield one outer step after another, up to the recipe's number of them.

        With `early_halting` a sequence that wants to halt leaves the batch. That costs one wait for the device per
        outer step.
        """
        model, last = self.model, self.recipe.outer_steps
        vectors = model.puzzle_vectors(sequences.puzzle_identifiers)
        z_H, z_L = model.initial_states(len(sequences.inputs), canvas)  # [B, T, D]
        inputs, cells = sequences.inputs, sequences.cells
        rows = torch.arange(len(inputs), device=inputs.device)
        for step in range(1, last + 1):
            z_H, z_L, output = model(z_H, z_L, inputs, vectors, canvas, cells)
            if step == last:
                yield OuterStep(rows, output, torch.arange(len(rows), device=rows.device))
            elif not early_halting:
                yield OuterStep(rows, output, None)
            else:
                ends, stays = _partition(wants_to_halt(model, output))
                yield OuterStep(rows, output, ends)
                if not len(stays):
                    return
                rows, z_H, z_L, inputs, vectors, cells = (
                    None if tensor is None else tensor[stays] for tensor in (rows, z_H, z_L, inputs, vectors, cells)
                )


def _partition(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where bool [A] is true and where it is false, both in order. Waits once for the device."""
    order = chosen.int().argsort(stable=True)  # those that are false come first
    return order.tensor_split([len(chosen) - int(chosen.sum())])[::-1]


def _answers(output: Output, which: torch.Tensor | slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens int64 [B, S] and the confidence float32 [B] of some of the sequences."""
    return output.logits[which].argmax(-1), output.q_halt[which].sigmoid()
