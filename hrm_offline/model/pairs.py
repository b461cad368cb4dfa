"""A decoder's sequences, made on the device and packed end to end: no token is padding, and no loop runs over examples.

A pair is one sequence: START, the rows of the input, SEPARATOR, the rows of the output, and EOS, which is predicted
and never read. NEW_ROW ends each row. A token's position is (row, column, part of the sequence).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from hrm_offline.common.tokens import COLOURS, EOS, FIRST_COLOUR, NEW_ROW, SEPARATOR, START
from hrm_offline.data import grids
from hrm_offline.data.puzzles import Batch, Examples, PuzzleSet
from hrm_offline.model.batching import OfferedBatch, to_device, to_grids
from hrm_offline.ops.encode_views import Grids

_FINENESS = 8  # a padded batch has at most one eighth more tokens, or `_LEAST_TOKENS`
_LEAST_TOKENS = 64

# The parts of a sequence, by which positions tell its grids apart.
PART_START, PART_INPUT, PART_SEPARATOR, PART_OUTPUT = range(4)


@dataclass
class PackedPairs:
    """B sequences on a device, N tokens in all.

    tokens int64 [N]; positions int64 [N, 3]: row, column and part of each token.
    owners int64 [N]: the sequence that each token belongs to.
    bounds int32 [B + 1]: where each sequence starts and ends. longest: the tokens of the longest.
    identifiers int64 [B, ids]: rows of the puzzle embedding table.
    answers int64 [M]: the tokens that predict the output, its EOS included: SEPARATOR up to the output's last NEW_ROW.
    targets int64 [N]: the token after each token.
    counts: how many of the M answers each sequence has, on the host, int64 [B].
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    owners: torch.Tensor
    bounds: torch.Tensor
    longest: int
    identifiers: torch.Tensor
    answers: torch.Tensor
    targets: torch.Tensor
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def padded(self) -> PackedPairs:
        """Return the batch with further tokens, so that many batches have one shape.

        The tokens, the sequences and `longest` are rounded up. The new tokens are sequences of their own, of up to
        `longest` tokens; others of the new sequences are empty. There are no new answers.
        """
        tokens, longest = len(self.tokens), _power_of_two(max(self.longest, _LEAST_TOKENS))
        grain = max(_LEAST_TOKENS, _power_of_two(tokens) // (2 * _FINENESS))
        more = -tokens % grain
        sequences = _power_of_two(len(self) + -(-more // longest))
        device = self.tokens.device
        place = torch.arange(max(more, sequences - len(self)), device=device)
        bounds = (tokens + (place[: sequences - len(self)] + 1) * longest).clamp_max(tokens + more)
        return PackedPairs(
            tokens=F.pad(self.tokens, (0, more), value=START),
            positions=F.pad(self.positions, (0, 0, 0, more)),
            owners=torch.cat([self.owners, len(self) + place[:more] // longest]),
            bounds=torch.cat([self.bounds, bounds.int()]),
            longest=longest,
            identifiers=F.pad(self.identifiers, (0, 0, 0, sequences - len(self))),
            answers=self.answers,
            targets=F.pad(self.targets, (0, more), value=EOS),
            counts=np.pad(self.counts, (0, sequences - len(self))),
        )

    def turned(self, turn: int) -> PackedPairs:
        """Return the same sequences with other colours, each `turn` colours further."""
        tokens, targets = (_other_colours(tokens, turn) for tokens in (self.tokens, self.targets))
        return replace(self, tokens=tokens, targets=targets)

    def continued(self, rows: torch.Tensor, written: torch.Tensor, counts: torch.Tensor) -> PackedPairs:
        """Return some of these prompts, by index int64 [A], each followed by the first tokens that it wrote.

        written int64 [A, L] holds the tokens of outputs, and counts int64 [A] says how many of them follow. Waits for
        the device.
        """
        device, starts, lengths = written.device, self.bounds.long()[rows], self.bounds.long().diff()[rows]
        ends = torch.cumsum(lengths + counts, 0)  # [A]
        owners = torch.arange(len(rows), device=device).repeat_interleave(lengths + counts)  # [N]
        first = (ends - lengths - counts)[owners]
        place = torch.arange(len(owners), device=device) - first  # [N], within its sequence
        beyond = place - lengths[owners]  # [N], within its output from 0 on
        is_written, source = beyond >= 0, starts[owners] + place.minimum(lengths[owners] - 1)
        beyond = beyond.clamp_min(0)
        tokens, positions = self.tokens[source], self.positions[source]
        if written.shape[1]:
            tokens = torch.where(is_written, written[owners, beyond], tokens)
            positions = torch.where(is_written[:, None], output_positions(written)[owners, beyond], positions)
        bounds = torch.cat([ends.new_zeros(1), ends])
        targets = torch.cat([tokens[1:], tokens.new_full((1,), EOS)])
        targets.index_fill_(0, bounds[1:] - 1, EOS)
        return PackedPairs(
            tokens=tokens,
            positions=positions,
            owners=owners,
            bounds=bounds.int(),
            longest=int((lengths + counts).max()),
            identifiers=self.identifiers[rows],
            answers=(place >= lengths[owners] - 1).nonzero()[:, 0],
            targets=targets,
            counts=(counts + 1).cpu().numpy(),
        )


def _power_of_two(number: int) -> int:
    """Return the least power of two that is no less than a number of 1 or more."""
    return 1 << (number - 1).bit_length()


def _other_colours(tokens: torch.Tensor, turn: int) -> torch.Tensor:
    colour = tokens - FIRST_COLOUR
    is_colour = (colour >= 0) & (colour < COLOURS)
    return torch.where(is_colour, FIRST_COLOUR + (colour + turn) % COLOURS, tokens)


def output_positions(written: torch.Tensor) -> torch.Tensor:
    """Return the positions int64 [A, L, 3] of the tokens of outputs, int64 [A, L]."""
    ends = (written == NEW_ROW).long()
    row = ends.cumsum(1) - ends  # rows that ended before
    place = torch.arange(written.shape[1], device=written.device)
    after_end = torch.where(ends > 0, place + 1, 0).cummax(1).values  # where the row after each token begins
    begins = torch.cat([torch.zeros_like(after_end[:, :1]), after_end[:, :-1]], dim=1)
    return torch.stack([row, place - begins, torch.full_like(row, PART_OUTPUT)], dim=2)


class _Numbers(NamedTuple):
    """What is known of sequences before their tokens are made, each int64 [B], or [N] by token."""

    views: torch.Tensor
    examples: torch.Tensor  # whose inputs they show
    chosen: torch.Tensor  # whose outputs
    start: torch.Tensor  # their first tokens in the batch
    inputs: torch.Tensor  # tokens of their inputs
    counts: torch.Tensor  # tokens of their outputs, with EOS
    first_answer: torch.Tensor  # their first answers among those of the batch
    input_cols: torch.Tensor
    output_cols: torch.Tensor


class PairMaker:
    """Makes sequences on `device` of batches over some examples of a puzzle set, or of inputs with given outputs."""

    def __init__(self, puzzles: PuzzleSet, examples: Examples, device: torch.device):
        self.device = device
        self.views = puzzles.all_views
        self.transposes = grids.TRANSPOSES[self.views.elements]  # bool [views], on the host
        self.elements = torch.from_numpy(self.views.elements).to(device)
        self.colours = torch.from_numpy(self.views.colours).to(device)
        self.identifiers = torch.from_numpy(puzzles.identifiers()).to(device)
        symmetries = np.stack([grids.TRANSPOSES, grids.FLIPS_ROW, grids.FLIPS_COL], axis=1)
        self.symmetries = torch.from_numpy(symmetries).to(device)
        self.inputs, self.input_sides = self._put([pair.input for pair in examples.pairs])
        outputs = [pair.output for pair in examples.pairs]
        unknown = any(output is None for output in outputs)
        self.outputs, self.output_sides = (None, None) if unknown else self._put(outputs)

    def offer(self, batch: Batch) -> OfferedBatch:
        """Return the batch; its sequences are made part by part when they are asked for."""
        sides = self._turned(self.output_sides[batch.examples], batch.views)
        answer_tokens = int((sides[:, 0] * (sides[:, 1] + 1) + 1).sum())
        return OfferedBatch(
            batch.bucket, batch.canvas, len(batch), lambda part: self.make(batch.rows(part)), answer_tokens
        )

    def make(self, batch: Batch) -> PackedPairs:
        """Make the sequences of a batch; without outputs where the output of any example is unknown."""
        shown = None if self.outputs is None else (self.outputs, self.output_sides, batch.examples)
        return self._pack(batch.examples, batch.views, shown)

    def prompts(self, batch: Batch) -> PackedPairs:
        """Make the sequences of a batch up to their SEPARATOR, whether outputs are known or not."""
        return self._pack(batch.examples, batch.views, None)

    def make_with(self, examples: np.ndarray, views: np.ndarray, outputs: list[np.ndarray]) -> PackedPairs:
        """Make sequences of the inputs of examples [B] with the given B grids as outputs, both in views [B]."""
        put, sides = self._put(outputs)
        return self._pack(examples, views, (put, sides, np.arange(len(outputs))))

    def _put(self, arrays: list[np.ndarray]) -> tuple[Grids, np.ndarray]:
        return to_grids(arrays, self.device), np.array([array.shape for array in arrays], dtype=np.int64)

    def _turned(self, sides: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return sides [B, 2] as the views [B] show them."""
        return np.where(self.transposes[views][:, None], sides[:, ::-1], sides)

    def _pack(self, examples: np.ndarray, views: np.ndarray, outputs) -> PackedPairs:
        """Make sequences. `outputs` is (grids, their sides, which of them), or None for prompts without outputs."""
        examples, views = examples.astype(np.int64), views.astype(np.int64)
        input_sides = self._turned(self.input_sides[examples], views)
        input_tokens = input_sides[:, 0] * (input_sides[:, 1] + 1)
        output_tokens = np.zeros_like(input_tokens)
        output_sides, chosen = np.zeros_like(input_sides), np.zeros_like(examples)
        if outputs is not None:
            chosen = outputs[2].astype(np.int64)
            output_sides = self._turned(outputs[1][chosen], views)
            output_tokens = output_sides[:, 0] * (output_sides[:, 1] + 1)
        lengths = 2 + input_tokens + output_tokens
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        counts = output_tokens + 1  # with EOS
        first_answers = np.cumsum(counts) - counts
        columns = [views, examples, chosen, bounds[:-1], input_tokens, counts, first_answers]
        columns += [input_sides[:, 1], output_sides[:, 1]]
        # All numbers per sequence cross to the device in one copy.
        table = to_device(torch.from_numpy(np.stack(columns)), self.device)  # int64 [9, B]
        owners = torch.arange(len(views), device=self.device).repeat_interleave(
            to_device(torch.from_numpy(lengths), self.device), output_size=int(bounds[-1])
        )  # [N]
        tokens, positions = self._tokens(_Numbers(*table[:, owners]), None if outputs is None else outputs[0])
        device_bounds = to_device(torch.from_numpy(bounds.astype(np.int32)), self.device)
        targets = torch.cat([tokens[1:], tokens.new_full((1,), EOS)])
        targets.index_fill_(0, device_bounds[1:].long() - 1, EOS)
        return PackedPairs(
            tokens=tokens,
            positions=positions,
            owners=owners,
            bounds=device_bounds,
            longest=int(lengths.max()),
            identifiers=self.identifiers[table[0]].long(),
            answers=_answers(_Numbers(*table), int(counts.sum())),
            targets=targets,
            counts=counts,
        )

    def _tokens(self, at: _Numbers, outputs: Grids | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens int64 [N] and positions int64 [N, 3] of sequences, whose numbers `at` holds by token."""
        place = torch.arange(len(at.start), device=self.device) - at.start  # [N], within its sequence
        is_start, is_separator, in_output = place == 0, place == at.inputs + 1, place > at.inputs + 1
        # A grid's tokens, counted row by row. A row's NEW_ROW counts too.
        cell = torch.where(in_output, place - at.inputs - 2, place - 1)
        cell = torch.where(is_start | is_separator, 0, cell)
        width = torch.where(in_output, at.output_cols, at.input_cols) + 1
        row, col = cell // width, cell % width
        symmetry = self.symmetries[self.elements[at.views].int()]  # [N, 3]
        colour = self._colours(self.inputs, at.examples, symmetry, row, col)
        if outputs is not None:
            colour = torch.where(in_output, self._colours(outputs, at.chosen, symmetry, row, col), colour)
        tokens = self.colours[at.views].gather(1, colour.long()[:, None])[:, 0].long() + FIRST_COLOUR
        tokens = torch.where(col == width - 1, NEW_ROW, tokens)
        tokens = torch.where(is_start, START, torch.where(is_separator, SEPARATOR, tokens))
        part = torch.where(in_output, PART_OUTPUT, torch.where(is_separator, PART_SEPARATOR, PART_INPUT))
        part = torch.where(is_start, PART_START, part)
        return tokens, torch.stack([row, col, part], dim=1)

    def _colours(self, of: Grids, index, symmetry, row, col) -> torch.Tensor:
        """Return the colour uint8 [N] of the original grids at rows and columns [N] of turned ones.

        A place beside the grid gives some colour of it, which is not used.
        """
        rows, cols = of.rows[index], of.cols[index]
        x = torch.where(symmetry[:, 0], col, row)
        y = torch.where(symmetry[:, 0], row, col)
        x = torch.where(symmetry[:, 1], rows - 1 - x, x)
        y = torch.where(symmetry[:, 2], cols - 1 - y, y)
        inside = x.clamp(min=0).minimum(rows - 1) * cols + y.clamp(min=0).minimum(cols - 1)
        return of.cells[of.start[index] + inside]


def _answers(of: _Numbers, count: int) -> torch.Tensor:
    """Return the `count` tokens of a batch that predict outputs: in each sequence from its SEPARATOR on."""
    offset = (of.start + of.inputs + 1 - of.first_answer).repeat_interleave(of.counts, output_size=count)
    return offset + torch.arange(count, device=offset.device)
