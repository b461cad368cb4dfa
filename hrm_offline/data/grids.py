"""Grids as token sequences on a canvas, and back.

Tokens: PAD 0 around the grid, EOS 1 along its lower and right edge, colour c as c + 2. The
published canvas is 30 x 30. These work on one grid and say what is meant; `hrm_offline.model.batching`
does the same to whole batches on the device.
"""

from __future__ import annotations

import numpy as np

from hrm_offline.common.tokens import EOS, FIRST_COLOUR, PAD, VOCABULARY, Canvas

# The dihedral group as gathers: transformed[i, j] = grid[x, y], where (x, y) is (j, i) if the
# element transposes, else (i, j), and each of x, y is then counted from the far side if flipped.
# Numbered as in the published code: identity, three rotations (counter-clockwise), left-right,
# up-down, transpose, anti-transpose.
TRANSPOSES = np.array([0, 1, 0, 1, 0, 0, 1, 1], dtype=bool)
FLIPS_ROW = np.array([0, 0, 1, 1, 0, 1, 0, 1], dtype=bool)
FLIPS_COL = np.array([0, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


def symmetries(rotations: bool, flips: bool) -> tuple[int, ...]:
    """Elements of the dihedral group that quarter turns, flips along the two axes, or both generate."""
    if rotations and flips:
        return tuple(range(8))
    if rotations:
        return 0, 1, 2, 3
    return (0, 2, 4, 5) if flips else (0,)


def dihedral(grid: np.ndarray, element: int) -> np.ndarray:
    """Transform a grid [rows, cols] by one of the eight elements of the dihedral group."""
    if FLIPS_ROW[element]:
        grid = grid[::-1]
    if FLIPS_COL[element]:
        grid = grid[:, ::-1]
    return grid.T if TRANSPOSES[element] else grid


def encode(grid: np.ndarray, canvas: Canvas, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Tokens uint8 [rows x cols] of a grid that lies within the canvas, its corner at `offset`. The
    EOS edge is left out where it would lie beyond."""
    board = np.full(canvas, PAD, dtype=np.uint8)
    (top, left), (height, width) = offset, grid.shape
    board[top : top + height + 1, left : left + width + 1] = EOS
    board[top + height :, left + width :] = PAD
    board[top : top + height, left : left + width] = grid + FIRST_COLOUR
    return board.ravel()


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
