"""Prediction over augmented views: outer steps without gradient, then grids of the original tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hrm_offline.answers.vote import Votes
from hrm_offline.common.tokens import Canvas
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import Batch, PuzzleSet, unpack
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.halting import Sequences, wants_to_halt
from hrm_offline.model.recursive import Output, RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.ops.faults import KernelFault, is_out_of_memory


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

    `sequence_steps` counts the outer steps that were computed, summed over sequences.
    """

    def __init__(self, model: RecursiveModel, puzzles: PuzzleSet, config: AdaptConfig):
        self.model = model
        self.config = config
        self.maker = BatchMaker(puzzles, puzzles.tests, model.device)
        self.sequence_steps = 0

    def predict(self, batch: Batch) -> Votes:
        """Return one vote for each sequence of the batch, as a grid of the original task.

        A batch that does not fit into memory is computed in halves. Raises `torch.OutOfMemoryError` where a single
        sequence does not fit. An operation whose kernel fails is demoted to plain PyTorch, and the batch is computed
        again.
        """
        try:
            return self._predict(batch)
        except KernelFault as fault:
            dispatch.demote_after(fault)
            parts = [batch]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            half = len(batch) // 2
            parts = [batch.rows(slice(half)), batch.rows(slice(half, None))]
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return Votes.joined([self.predict(part) for part in parts])

    @torch.inference_mode()
    def trace(self, batch: Batch) -> list[Votes]:
        """Return the votes that the batch would have after each outer step. No sequence ends before the last step."""
        steps = self._outer_steps(self.maker.make(batch), batch.canvas, early_halting=False)
        return [self._read(batch, *_answers(step.output)) for step in steps]

    @torch.inference_mode()
    def _predict(self, batch: Batch) -> Votes:
        sequences = self.maker.make(batch)
        tokens = sequences.inputs.new_zeros(len(batch), batch.canvas[0] * batch.canvas[1])  # [B, S]
        confidence = torch.zeros(len(tokens), device=tokens.device)  # [B]
        for step in self._outer_steps(sequences, batch.canvas, self.config.early_halting):
            if step.ends is not None:
                rows = step.rows[step.ends]
                ended, confidence[rows] = _answers(step.output, step.ends)
                tokens[rows] = ended.to(tokens.dtype)
        return self._read(batch, tokens, confidence)

    def _read(self, batch: Batch, tokens: torch.Tensor, confidence: torch.Tensor) -> Votes:
        """Return the votes that tokens [B, S] and confidence [B] make."""
        shown = unpack(torch.from_numpy(batch.packed).to(self.model.device).long())
        sides, cells = self.maker.read(tokens, shown.views, shown.corners, batch.canvas)
        return Votes(batch.examples, sides.cpu().numpy(), cells.cpu().numpy(), confidence.cpu().numpy())

    def _outer_steps(self, sequences: Sequences, canvas: Canvas, early_halting: bool) -> Iterator[OuterStep]:
        """Yield one outer step after another.

        With `early_halting` a sequence that wants to halt leaves the batch. That costs one wait for the device per
        outer step.
        """
        model, last = self.model, self.config.outer_steps
        vectors = model.puzzle_vectors(sequences.puzzle_identifiers)
        z_H, z_L = model.initial_states(len(sequences.inputs), canvas)  # [B, T, D]
        inputs, cells = sequences.inputs, sequences.cells
        rows = torch.arange(len(inputs), device=inputs.device)
        for step in range(1, last + 1):
            z_H, z_L, output = model(z_H, z_L, inputs, vectors, canvas, cells)
            self.sequence_steps += len(rows)
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
