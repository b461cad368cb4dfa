"""Grids as token sequences on a canvas, and back; and the eight ways to turn or mirror a grid.

Tokens: PAD 0 around the grid, EOS 1 along its lower and right edge, colour c as c + 2. The published canvas is
30 x 30. The functions here work on one grid and are plain to read. `hrm_offline.model.batching` does the same to whole
batches on the device, and is tested against them.
"""

from __future__ import annotations

import numpy as np

from hrm_offline.common.tokens import EOS, FIRST_COLOUR, PAD, VOCABULARY, Canvas

# The dihedral group, numbered as in the published code: identity, three rotations (counter-clockwise), left-right,
# up-down, transpose, anti-transpose. Each element is a gather, transformed[i, j] = grid[x, y]: (x, y) is (j, i) where
# the element transposes, else (i, j); then x is counted from the last row where it flips rows, and y from the last
# column where it flips columns.
TRANSPOSES = np.array([0, 1, 0, 1, 0, 0, 1, 1], dtype=bool)
FLIPS_ROW = np.array([0, 0, 1, 1, 0, 1, 0, 1], dtype=bool)
FLIPS_COL = np.array([0, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


def symmetries(rotations: bool, flips: bool) -> tuple[int, ...]:
    """Return the elements of the dihedral group that quarter turns, flips along the two axes, or both generate."""
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


def encode_grid(grid: np.ndarray, canvas: Canvas, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return the tokens uint8 [canvas rows x canvas cols] of a grid whose upper left cell lies at `corner`.

    The grid must lie within the canvas. Its EOS edge is cut off where it would lie beyond.
    """
    board = np.full(canvas, PAD, dtype=np.uint8)
    (top, left), (height, width) = corner, grid.shape
    board[top : top + height + 1, left : left + width + 1] = EOS
    board[top + height :, left + width :] = PAD  # the cell where the two edges would meet stays empty, as published
    board[top : top + height, left : left + width] = grid + FIRST_COLOUR
    return board.ravel()


def decode_grid(tokens: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Return the grid uint8 [r, c] that tokens [canvas rows x canvas cols] show.

    The grid is the largest rectangle of colours whose upper left cell is (0, 0). Among rectangles of equal area the
    one with fewest rows wins. The grid is empty, (0, 0), where the cell (0, 0) holds no colour. This is the
    reference's rule (`crop` in its arc_eval.ipynb).
    """
    board = np.asarray(tokens).reshape(canvas)
    is_colour = (board >= FIRST_COLOUR) & (board < VOCABULARY)
    # Cells of colour from the left edge on, row by row; a rectangle is as wide as the narrowest of its rows.
    run = np.where(is_colour.all(axis=1), canvas[1], is_colour.argmin(axis=1))
    width = np.minimum.accumulate(run)
    area = width * np.arange(1, canvas[0] + 1)
    last = int(area.argmax())
    if area[last] == 0:
        return np.zeros((0, 0), dtype=np.uint8)
    return (board[: last + 1, : width[last]] - FIRST_COLOUR).astype(np.uint8)
