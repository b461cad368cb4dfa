"""Grids as token sequences on a canvas, and back.

Tokens: PAD 0 around the grid, EOS 1 along its lower and right edge, colour c as c + 2. The
published canvas is 30 x 30.
"""

from __future__ import annotations

import numpy as np

from hrm_offline.tokens import EOS, FIRST_COLOUR, PAD, VOCABULARY, Canvas

# The dihedral group as gathers: transformed[i, j] = grid[x, y], where (x, y) is (j, i) if the
# element transposes, else (i, j), and each of x, y is then counted from the far side if flipped.
# Numbered as in the published code: identity, three rotations (counter-clockwise), left-right,
# up-down, transpose, anti-transpose.
TRANSPOSES = np.array([0, 1, 0, 1, 0, 0, 1, 1], dtype=bool)
FLIPS_ROW = np.array([0, 0, 1, 1, 0, 1, 0, 1], dtype=bool)
FLIPS_COL = np.array([0, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


def dihedral(grid: np.ndarray, element: int) -> np.ndarray:
    """Transform a grid [rows, cols] by one of the eight elements of the dihedral group."""
    if FLIPS_ROW[element]:
        grid = grid[::-1]
    if FLIPS_COL[element]:
        grid = grid[:, ::-1]
    return grid.T if TRANSPOSES[element] else grid


class GridStore:
    """Many grids in one flat uint8 array, so that a batch is a gather and not a loop."""

    def __init__(self, grids: list[np.ndarray]):
        self.rows = np.array([g.shape[0] for g in grids], dtype=np.int32)
        self.cols = np.array([g.shape[1] for g in grids], dtype=np.int32)
        sizes = self.rows * self.cols
        self.start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.cells = np.concatenate([g.reshape(-1) for g in grids]).astype(np.uint8)

    def encode(self, index: np.ndarray, element: np.ndarray, colours: np.ndarray,
               offset: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Tokens of augmented grids, each placed on its own canvas.

        index [B] which grid; element [B] dihedral transform; colours [B, 10] the new colour of
        each colour; offset [B, 2] row and column of the grid's corner. Returns uint8
        [B, rows x cols]. Whatever falls beyond the canvas is cut off: callers choose canvases
        that hold the grid (see `hrm_offline.data.puzzles`).
        """
        rows, cols = (a[index][:, None, None] for a in (self.rows, self.cols))
        transposes = TRANSPOSES[element][:, None, None]
        height, width = np.where(transposes, cols, rows), np.where(transposes, rows, cols)
        i = np.arange(canvas[0])[None, :, None] - offset[:, 0][:, None, None]
        j = np.arange(canvas[1])[None, None, :] - offset[:, 1][:, None, None]
        in_rows, in_cols = (i >= 0) & (i < height), (j >= 0) & (j < width)
        inside = in_rows & in_cols
        edge = (in_rows & (j == width)) | (in_cols & (i == height))

        x, y = np.where(transposes, j, i), np.where(transposes, i, j)
        x = np.where(FLIPS_ROW[element][:, None, None], rows - 1 - x, x)
        y = np.where(FLIPS_COL[element][:, None, None], cols - 1 - y, y)
        cell = self.cells[np.where(inside, self.start[index][:, None, None] + x * cols + y, 0)]
        colour = np.take_along_axis(colours, cell.reshape(len(index), -1).astype(np.intp), axis=1)
        tokens = np.where(edge, EOS, PAD).reshape(len(index), -1)
        return np.where(inside.reshape(len(index), -1), colour + FIRST_COLOUR, tokens).astype(np.uint8)


_SAME_COLOURS = np.arange(10, dtype=np.uint8)[None]


def encode(grid: np.ndarray, canvas: Canvas, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Tokens [rows x cols] of one grid with its corner at `offset` of the canvas."""
    return GridStore([grid]).encode(np.array([0]), np.array([0]), _SAME_COLOURS, np.array([offset]), canvas)[0]


def crop(tokens: np.ndarray, canvas: Canvas) -> np.ndarray:
    """The grid that a token sequence shows: the largest rectangle of colours at the corner (0, 0).

    tokens [rows x cols] -> uint8 [r, c]; the smallest r wins among equal areas, and (0, 0) is the
    shape where the corner is no colour. This is the reference's rule (arc_eval.ipynb, `crop`).
    """
    board = np.asarray(tokens).reshape(canvas)
    is_colour = (board >= FIRST_COLOUR) & (board < VOCABULARY)
    run = np.where(is_colour.all(axis=1), canvas[1], is_colour.argmin(axis=1))
    width = np.minimum.accumulate(run)
    area = width * np.arange(1, canvas[0] + 1)
    best = int(area.argmax())
    if area[best] == 0:
        return np.zeros((0, 0), dtype=np.uint8)
    return (board[: best + 1, : width[best]] - FIRST_COLOUR).astype(np.uint8)
