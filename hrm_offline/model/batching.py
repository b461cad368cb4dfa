"""Batches made on the device, and grids read back from it: no loop over examples, no waiting.

Grids and views are put there once. What crosses from the host for a step is a plan of four numbers
an example. What each gather means for one grid is written plainly in `hrm_offline.data` (`encode`,
`crop`, `View.apply`, `View.invert`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hrm_offline.common.tokens import COLOURS, FIRST_COLOUR, IGNORE, PAD, VOCABULARY, Canvas
from hrm_offline.data import grids
from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.puzzles import Batch, Examples, ExampleSource, PuzzleSet
from hrm_offline.model.halting import Sequences
from hrm_offline.ops.encode_views import Grids, TurnedGrids, encode_views


@dataclass(frozen=True)
class OfferedBatch:
    """`size` sequences of one bucket; `sequences` makes the rows of a slice on the device."""

    bucket: int
    canvas: Canvas
    size: int
    sequences: Callable[[slice], Sequences]


def fixed_batch(sequences: Sequences, canvas: Canvas) -> OfferedBatch:
    """The given sequences as a batch of bucket 0."""
    return OfferedBatch(0, canvas, len(sequences.inputs), sequences.rows)


def training_batches(source: ExampleSource, device: torch.device) -> Callable[[int], OfferedBatch]:
    """A function from a step to the batch offered at it."""
    maker = BatchMaker(source.puzzles, source.examples, device)
    return lambda step: maker.offer(source.batch(step))


class BatchMaker:
    """Turns plans over `examples` of a puzzle set into sequences on `device`, and tokens back into grids."""

    def __init__(self, puzzles: PuzzleSet, examples: Examples, device: torch.device):
        views = puzzles.all_views
        self.device = device
        self.tight = puzzles.recipe.canvas == "tight"
        self.elements = torch.from_numpy(views.elements).to(device)
        self.colours = torch.from_numpy(views.colours).to(device)
        self.identifiers = torch.from_numpy(puzzles.identifiers()).to(device)
        self.rooms = torch.from_numpy(examples.rooms).to(device)
        self.inputs = _to_grids([pair.input for pair in examples.pairs], device)
        outputs = [pair.output for pair in examples.pairs]
        self.outputs = None if any(output is None for output in outputs) else _to_grids(outputs, device)
        self.context: tuple[Grids, Grids] | None = None  # inputs and outputs of the demonstrations
        if puzzles.context_pairs:
            pairs = puzzles.demonstrations.pairs
            self.context = (_to_grids([p.input for p in pairs], device), _to_grids([p.output for p in pairs], device))
        symmetries = np.stack([grids.TRANSPOSES, grids.FLIPS_ROW, grids.FLIPS_COL], axis=1)
        self.symmetries = torch.from_numpy(symmetries).to(device)

    def offer(self, batch: Batch) -> OfferedBatch:
        """The batch, whose sequences are made part by part as they are asked for."""
        return OfferedBatch(batch.bucket, batch.canvas, len(batch), lambda part: self.make(batch.rows(part)))

    def make(self, batch: Batch) -> Sequences:
        """The sequences of a batch. Labels are None where an output of the examples is unknown."""
        plan = to_device(torch.from_numpy(batch.plan), self.device)
        example, view, corner, context = plan[:, 0], plan[:, 1], plan[:, 2:4], plan[:, 4:]
        symmetry = self.symmetries[self.elements[view].int()]
        placed = (example, symmetry, self.colours[view], corner, batch.canvas)
        inputs = encode_views(self.inputs, *placed)
        if self.context is not None:
            inputs = torch.cat([self._context(context, symmetry, self.colours[view], batch.canvas), inputs], dim=1)
        labels = None
        if self.outputs is not None:
            labels = encode_views(self.outputs, *placed).long()
            labels = labels.masked_fill(labels == PAD, IGNORE)
        return Sequences(
            inputs,
            labels,
            self.identifiers[view].long(),
            self._cells(example, symmetry[:, 0], corner[:, 0], batch.canvas) if self.tight else None,
        )

    def _context(
        self, context: torch.Tensor, symmetry: torch.Tensor, colours: torch.Tensor, canvas: Canvas
    ) -> torch.Tensor:
        """Tokens int32 [B, 2 x pairs x S] of the demonstrations [B, pairs], each input before its output; PAD for
        those that are not there."""
        size, pairs = context.shape
        corner = torch.zeros(size * pairs, 2, dtype=torch.int32, device=self.device)
        turned = symmetry.repeat_interleave(pairs, 0), colours.repeat_interleave(pairs, 0)
        index = context.clamp_min(0).flatten()
        shown = torch.stack([encode_views(grids, index, *turned, corner, canvas) for grids in self.context], dim=1)
        missing = (context == NO_PAIR).view(-1, 1, 1)
        return shown.masked_fill(missing, PAD).view(size, -1)

    def _cells(self, example: torch.Tensor, transposes: torch.Tensor, top: torch.Tensor, canvas: Canvas):
        """Cells of the canvas, row by row, that exist for each example: down to the EOS edge of its room."""
        room = self.rooms[example]
        rows = top + torch.where(transposes, room[:, 1], room[:, 0]) + 1
        return (rows.clamp_max(canvas[0]) * canvas[1]).int()

    def read(
        self, tokens: torch.Tensor, view: torch.Tensor, corner: torch.Tensor, canvas: Canvas
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The grids that predicted tokens [B, S] show, in the original task's orientation and colours.

        view int [B], corner int [B, 2] where each was placed. Returns sides int32 [B, 2] and cells uint8
        [B, M, M] with M the canvas' longer side, zero outside the grid. The same as `crop` and then `View.invert`.
        """
        board = _moved_to_corner(tokens.view(-1, *canvas), corner)
        inverse = torch.tensor(grids.DIHEDRAL_INVERSE, device=self.device)[self.elements[view].int()]
        axis = torch.arange(max(canvas), device=self.device)[None]
        turned = TurnedGrids(*_corner_rectangle(board), self.symmetries[inverse], axis, axis)
        cell = board.flatten(1).gather(1, turned.source(canvas[1])) - FIRST_COLOUR
        back = self.colours[view].argsort(1)
        cells = back.gather(1, cell.clamp(0, COLOURS - 1).long()).view(len(board), max(canvas), max(canvas))
        return (
            torch.stack([turned.height, turned.width], 1).int(),
            torch.where(turned.inside, cells, 0).to(torch.uint8),
        )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor of the host on the device, without waiting for what the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _to_grids(arrays: list[np.ndarray], device: torch.device) -> Grids:
    rows, cols = np.array([array.shape for array in arrays], dtype=np.int32).T.copy()
    start = np.concatenate([[0], np.cumsum(rows * cols)[:-1]]).astype(np.int32)
    cells = np.concatenate([array.ravel() for array in arrays]).astype(np.uint8)
    return Grids(*(torch.from_numpy(part).to(device) for part in (cells, start, rows, cols)))


def _moved_to_corner(board: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """Boards [B, R, C] moved up and left so that `corner` [B, 2] comes to lie at (0, 0); PAD comes in."""
    row, col = (
        torch.arange(length, device=board.device) + corner[:, axis, None] for axis, length in enumerate(board.shape[1:])
    )
    inside = (row < board.shape[1]).unsqueeze(2) & (col < board.shape[2]).unsqueeze(1)
    row, col = row.clamp_max(board.shape[1] - 1), col.clamp_max(board.shape[2] - 1)
    index = (row * board.shape[2]).unsqueeze(2) + col.unsqueeze(1)
    moved = board.flatten(1).gather(1, index.flatten(1).long()).view(board.shape)
    return torch.where(inside, moved, PAD)


def _corner_rectangle(board: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width [B] of the largest rectangle of colours at the corner of boards [B, R, C];
    the smallest height wins among equal areas."""
    is_colour = (board >= FIRST_COLOUR) & (board < VOCABULARY)
    run = is_colour.int().cumprod(2).sum(2)
    width = run.cummin(1).values
    area = width * torch.arange(1, board.shape[1] + 1, device=board.device)
    row = area.argmax(1, keepdim=True)  # the first among equals
    width = width.gather(1, row).squeeze(1)
    return torch.where(width > 0, row.squeeze(1) + 1, 0), width
