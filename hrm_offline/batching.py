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

from hrm_offline.data import grids
from hrm_offline.data.puzzles import Batch, Examples, ExampleSource, PuzzleSet
from hrm_offline.model.halting import Sequences
from hrm_offline.tokens import COLOURS, EOS, FIRST_COLOUR, IGNORE, PAD, VOCABULARY, Canvas


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
        self.inputs = _Grids([pair.input for pair in examples.pairs], device)
        outputs = [pair.output for pair in examples.pairs]
        self.outputs = None if any(output is None for output in outputs) else _Grids(outputs, device)
        self.symmetries = torch.from_numpy(np.stack([grids.TRANSPOSES, grids.FLIPS_ROW, grids.FLIPS_COL])).to(device)

    def offer(self, batch: Batch) -> OfferedBatch:
        """The batch, whose sequences are made part by part as they are asked for."""
        return OfferedBatch(batch.bucket, batch.canvas, len(batch), lambda part: self.make(batch.rows(part)))

    def make(self, batch: Batch) -> Sequences:
        """The sequences of a batch. Labels are None where an output of the examples is unknown."""
        example, view, *corner = to_device(torch.from_numpy(batch.plan), self.device).unbind(1)
        symmetry = self.symmetries[:, self.elements[view].int()]
        colours = self.colours[view]
        labels = None
        if self.outputs is not None:
            labels = self.outputs.encode(example, symmetry, colours, corner, batch.canvas).long()
            labels = labels.masked_fill(labels == PAD, IGNORE)
        return Sequences(
            self.inputs.encode(example, symmetry, colours, corner, batch.canvas),
            labels,
            self.identifiers[view].long(),
            self._cells(example, symmetry[0], corner[0], batch.canvas) if self.tight else None,
        )

    def _cells(self, example: torch.Tensor, transposes: torch.Tensor, top: torch.Tensor, canvas: Canvas):
        """Cells of the canvas, row by row, that exist for each example: down to the EOS edge of its room."""
        room = self.rooms[example]
        rows = top + torch.where(transposes, room[:, 1], room[:, 0]) + 1
        return (rows.clamp_max(canvas[0]) * canvas[1]).int()

    def read(self, tokens: torch.Tensor, view: torch.Tensor, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """The grids that predicted tokens [B, S] show, in the original task's orientation and colours.

        view int [B]. Returns sides int32 [B, 2] and cells uint8 [B, M, M] with M the canvas' longer
        side, zero outside the grid. The same as `crop` and then `View.invert`.
        """
        board = tokens.view(-1, *canvas)
        height, width = _corner_rectangle(board)
        element = self.elements[view].int()
        inverse = torch.tensor(grids.DIHEDRAL_INVERSE, device=self.device)[element]
        symmetry = self.symmetries[:, inverse]
        axis = torch.arange(max(canvas), device=self.device)[None]
        place = _Place(height, width, symmetry, axis, axis)
        cell = board.flatten(1).gather(1, place.flat(canvas[1])) - FIRST_COLOUR
        back = self.colours[view].argsort(1)
        cells = back.gather(1, cell.clamp(0, COLOURS - 1).long()).view(len(board), max(canvas), max(canvas))
        return (torch.stack([place.height, place.width], 1).int(),
                torch.where(place.inside, cells, 0).to(torch.uint8))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor of the host on the device, without waiting for what the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class _Place:
    """Where cells (i, j) of turned grids come from. height and width [B] are of the grids before;
    i [1 or B, I], j [1 or B, J]; symmetry bool [3, B] (transposes, flips rows, flips columns)."""

    def __init__(self, height, width, symmetry, i, j):
        self.transposes, flips_row, flips_col = symmetry.unsqueeze(-1).unbind()
        height, width = height.unsqueeze(-1), width.unsqueeze(-1)
        self.in_rows = (i >= 0) & (i < torch.where(self.transposes, width, height))
        self.in_cols = (j >= 0) & (j < torch.where(self.transposes, height, width))
        self.inside = self.in_rows.unsqueeze(2) & self.in_cols.unsqueeze(1)
        self.height, self.width = (torch.where(self.transposes, a, b).squeeze(1)
                                   for a, b in ((width, height), (height, width)))
        # A row i comes from column i of the grid where it transposes: counted from the far side if that is flipped.
        self.i = self._from(i, torch.where(self.transposes, flips_col, flips_row),
                            torch.where(self.transposes, width, height))
        self.j = self._from(j, torch.where(self.transposes, flips_row, flips_col),
                            torch.where(self.transposes, height, width))

    @staticmethod
    def _from(at, flips, length):
        return torch.where(flips, length - 1 - at, at)

    def flat(self, stride) -> torch.Tensor:
        """Index int64 [B, I x J] of the cell in a grid stored row by row, rows `stride` apart (a number
        or [B, 1]); 0 outside."""
        along_i = torch.where(self.transposes, self.i, self.i * stride)
        along_j = torch.where(self.transposes, self.j * stride, self.j)
        at = along_i.unsqueeze(2) + along_j.unsqueeze(1)
        return torch.where(self.inside, at, 0).flatten(1).long()


class _Grids:
    """Many grids in one flat uint8 tensor, so that a batch is a gather and not a loop."""

    def __init__(self, arrays: list[np.ndarray], device: torch.device):
        sides = np.array([array.shape for array in arrays], dtype=np.int32)
        start = np.concatenate([[0], np.cumsum(sides.prod(axis=1))[:-1]]).astype(np.int32)
        self.rows, self.cols, self.start = (torch.from_numpy(a.copy()).to(device) for a in (*sides.T, start))
        self.cells = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.uint8)).to(device)

    def encode(self, index, symmetry, colours, corner, canvas: Canvas) -> torch.Tensor:
        """Tokens int32 [B, rows x cols] of the grids `index` [B], recoloured by colours [B, 10] and turned,
        with their corner at corner (rows [B], columns [B])."""
        device = self.rows.device
        i, j = (torch.arange(length, device=device, dtype=torch.int32)[None] - start[:, None]
                for length, start in zip(canvas, corner))
        cols = self.cols[index]
        place = _Place(self.rows[index], cols, symmetry, i, j)
        cell = self.cells[place.flat(cols[:, None]) + self.start[index][:, None]].long()
        colour = colours.gather(1, cell).int().view(place.inside.shape) + FIRST_COLOUR
        below, right = i == place.height[:, None], j == place.width[:, None]
        edge = (place.in_rows.unsqueeze(2) & right.unsqueeze(1)) | (below.unsqueeze(2) & place.in_cols.unsqueeze(1))
        return torch.where(place.inside, colour, torch.where(edge, EOS, PAD)).flatten(1)


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
