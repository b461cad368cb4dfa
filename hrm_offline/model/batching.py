"""Batches made on the device, and grids read back from it: no loop over examples, no waiting.

Grids and views are put on the device once. For a step, four numbers per sequence cross from the host (and one more for
each demonstration of its context; see `Batch`). Each gather here does to a whole batch what a function of
`hrm_offline.data` does plainly to one grid: `encode_grid`, `decode_grid`, `View.apply`, `View.invert`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hrm_offline.common.tokens import COLOURS, FIRST_COLOUR, IGNORE, PAD, VOCABULARY, Canvas
from hrm_offline.data import grids
from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.puzzles import Batch, Examples, PuzzleSet, unpack
from hrm_offline.model.halting import Sequences
from hrm_offline.ops.encode_views import Grids, TurnedGrids, encode_views


@dataclass(frozen=True)
class OfferedBatch:
    """`size` sequences of one bucket; `sequences` makes those of a slice on the device.

    `answer_tokens` is how many tokens of a decoder's sequences are outputs to learn, over all `size`.
    """

    bucket: int
    canvas: Canvas
    size: int
    sequences: Callable[[slice], Sequences]
    answer_tokens: int = 0


def fixed_batch(sequences: Sequences, canvas: Canvas) -> OfferedBatch:
    """Return the given sequences as a batch of bucket 0."""
    return OfferedBatch(0, canvas, len(sequences.inputs), sequences.rows)


class BatchMaker:
    """Makes sequences on `device` of batches over some examples of a puzzle set, and reads predicted tokens back."""

    def __init__(self, puzzles: PuzzleSet, examples: Examples, device: torch.device):
        views = puzzles.all_views
        self.device = device
        self.tight = puzzles.recipe.canvas == "tight"
        self.elements = torch.from_numpy(views.elements).to(device)
        self.colours = torch.from_numpy(views.colours).to(device)
        self.identifiers = torch.from_numpy(puzzles.identifiers()).to(device)
        self.rooms = torch.from_numpy(examples.rooms).to(device)
        self.inputs = to_grids([pair.input for pair in examples.pairs], device)
        outputs = [pair.output for pair in examples.pairs]
        self.outputs = None if any(output is None for output in outputs) else to_grids(outputs, device)
        self.context: tuple[Grids, Grids] | None = None  # inputs and outputs of the demonstrations
        if puzzles.context_pairs:
            pairs = puzzles.demonstrations.pairs
            self.context = (to_grids([p.input for p in pairs], device), to_grids([p.output for p in pairs], device))
        symmetries = np.stack([grids.TRANSPOSES, grids.FLIPS_ROW, grids.FLIPS_COL], axis=1)
        self.symmetries = torch.from_numpy(symmetries).to(device)

    def offer(self, batch: Batch) -> OfferedBatch:
        """Return the batch; its sequences are made part by part when they are asked for."""
        return OfferedBatch(batch.bucket, batch.canvas, len(batch), lambda part: self.make(batch.rows(part)))

    def make(self, batch: Batch) -> Sequences:
        """Make the sequences of a batch. Labels are None where the output of any example is unknown."""
        examples, views, corners, contexts = unpack(to_device(torch.from_numpy(batch.packed), self.device))
        symmetry, colours = self.symmetries[self.elements[views].int()], self.colours[views]  # [B, 3], [B, 10]
        placed = (examples, symmetry, colours, corners, batch.canvas)
        inputs = encode_views(self.inputs, *placed)  # [B, S]
        if self.context is not None:
            inputs = torch.cat([self._context(contexts, symmetry, colours, batch.canvas), inputs], dim=1)
        labels = None
        if self.outputs is not None:
            labels = encode_views(self.outputs, *placed).long()
            labels = labels.masked_fill(labels == PAD, IGNORE)
        cells = self._cells(examples, symmetry[:, 0], corners[:, 0], batch.canvas) if self.tight else None
        return Sequences(inputs, labels, self.identifiers[views].long(), cells)

    def _context(
        self, contexts: torch.Tensor, symmetry: torch.Tensor, colours: torch.Tensor, canvas: Canvas
    ) -> torch.Tensor:
        """Return the tokens int32 [B, 2 x pairs x S] of the demonstrations [B, pairs], each input before its output.

        PAD stands in place of a demonstration that is not there.
        """
        size, pairs = contexts.shape
        corner = torch.zeros(size * pairs, 2, dtype=torch.int32, device=self.device)
        placed = (symmetry.repeat_interleave(pairs, 0), colours.repeat_interleave(pairs, 0), corner, canvas)
        index = contexts.clamp_min(0).flatten()  # [B x pairs]; any demonstration where there is none
        shown = torch.stack([encode_views(part, index, *placed) for part in self.context], dim=1)  # [B x pairs, 2, S]
        missing = (contexts == NO_PAIR).view(-1, 1, 1)
        return shown.masked_fill(missing, PAD).view(size, -1)

    def _cells(self, examples: torch.Tensor, transposes: torch.Tensor, top: torch.Tensor, canvas: Canvas):
        """Return how many cells of the canvas, row by row, exist for each example: down to the EOS edge of its room."""
        room = self.rooms[examples]
        rows = top + torch.where(transposes, room[:, 1], room[:, 0]) + 1
        return (rows.clamp_max(canvas[0]) * canvas[1]).int()

    def read(
        self, tokens: torch.Tensor, views: torch.Tensor, corners: torch.Tensor, canvas: Canvas
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the grids that predicted tokens show, in the original task's orientation and colours.

        tokens [B, S], views int [B], and corners int [B, 2] where each grid was placed. Returns sides int32 [B, 2] and
        cells uint8 [B, M, M], zero outside the grid; M is the longer side of the canvas. The same as `decode_grid` and
        then `View.invert` from the corner on.
        """
        board = _moved_to_corner(tokens.view(-1, *canvas), corners)  # [B, R, C]
        height, width = _corner_rectangle(board)  # of the grid as the view shows it
        inverse = torch.tensor(grids.DIHEDRAL_INVERSE, device=self.device)[self.elements[views].int()]
        axis = torch.arange(max(canvas), device=self.device)[None]
        # The place on the board of each cell of the original grid.
        turned = TurnedGrids(height, width, self.symmetries[inverse], axis, axis)
        shown = board.flatten(1).gather(1, turned.source(canvas[1])) - FIRST_COLOUR  # [B, M x M]
        original_of = self.colours[views].argsort(1)  # [B, 10]: the colour that became each colour
        cells = original_of.gather(1, shown.clamp(0, COLOURS - 1).long()).view(turned.inside.shape)
        sides = torch.stack([turned.height, turned.width], 1).int()
        return sides, torch.where(turned.inside, cells, 0).to(torch.uint8)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor from the host to the device, without waiting for the work that the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_grids(arrays: list[np.ndarray], device: torch.device) -> Grids:
    """Put grids on the device, all cells one after another."""
    rows, cols = np.array([array.shape for array in arrays], dtype=np.int32).T.copy()
    start = np.concatenate([[0], np.cumsum(rows * cols)[:-1]]).astype(np.int32)
    cells = np.concatenate([array.ravel() for array in arrays]).astype(np.uint8)
    return Grids(*(torch.from_numpy(part).to(device) for part in (cells, start, rows, cols)))


def _moved_to_corner(board: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """Move boards [B, R, C] up and left so that `corner` [B, 2] comes to lie at (0, 0). PAD comes in."""
    rows, cols = board.shape[1:]
    row = torch.arange(rows, device=board.device) + corner[:, 0, None]  # [B, R]: where each row comes from
    col = torch.arange(cols, device=board.device) + corner[:, 1, None]  # [B, C]
    inside = (row < rows).unsqueeze(2) & (col < cols).unsqueeze(1)  # [B, R, C]
    index = (row.clamp_max(rows - 1) * cols).unsqueeze(2) + col.clamp_max(cols - 1).unsqueeze(1)
    moved = board.flatten(1).gather(1, index.flatten(1).long()).view(board.shape)
    return torch.where(inside, moved, PAD)


def _corner_rectangle(board: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the height and width [B] of the largest rectangle of colours at the corner (0, 0) of boards [B, R, C].

    The smallest height wins among equal areas; both are 0 where the corner holds no colour.
    """
    is_colour = (board >= FIRST_COLOUR) & (board < VOCABULARY)
    run = is_colour.int().cumprod(2).sum(2)  # [B, R]: colours from the left edge on
    width = run.cummin(1).values  # [B, R]: of the rectangle down to each row
    area = width * torch.arange(1, board.shape[1] + 1, device=board.device)
    last_row = area.argmax(1, keepdim=True)  # the first among equals
    width = width.gather(1, last_row).squeeze(1)
    return torch.where(width > 0, last_row.squeeze(1) + 1, 0), width
