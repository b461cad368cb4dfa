"""Features: what can be said of a cell beside its colour, by which a program may recolour a grid.

A feature returns a number 0 or more for each cell, [rows, cols]. To add a feature, write its function and name it in
`FEATURES`.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from hrm_offline.data.shapes import bounding_box, ringed, sizes
from hrm_offline.induction.parts import Feature, Grid, labels_of, measured_of


def neighbours(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Return the cells of a mask and the cells beside them, with `diagonal` across corners too."""
    padded = ringed(mask, False)
    column = padded[2:] | padded[:-2] | padded[1:-1]  # here, above or below; [rows, cols + 2]
    if diagonal:
        return column[:, 2:] | column[:, :-2] | column[:, 1:-1]
    return column[:, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]


def _ends(grid: Grid, diagonal: bool) -> np.ndarray:
    """Return 1 in the smallest shapes, 2 in the largest ones, 3 where all shapes have one size, 0 outside."""
    label = labels_of(grid != 0, diagonal)
    cells = sizes(label)
    least, most = min(cells[1:], default=0), max(cells[1:], default=0)
    end = (cells == least) + 2 * (cells == most)  # by label
    return end[label] * (label > 0)


def enclosed(grid: Grid) -> np.ndarray:
    """Return how many cells the region has in black regions that do not reach the edge, 0 elsewhere."""
    # With a black ring around the grid, all regions that reach its edge are one component, the first.
    label = labels_of(ringed(grid == 0, True), False)
    cells = sizes(label)
    cells[1] = 0
    return cells[label[1:-1, 1:-1]]


def has_hole(grid: Grid) -> np.ndarray:
    """Tell whether a cell's shape borders on an enclosed region."""
    label = labels_of(grid != 0, True)
    bordering = label[neighbours(enclosed(grid) > 0, False)]
    return np.isin(label, bordering) & (label > 0)


def _is_box(grid: Grid) -> np.ndarray:
    """Tell whether a cell's shape fills the rectangle around it."""
    label = labels_of(grid != 0, False)
    found = np.zeros(grid.shape, dtype=bool)
    for number in range(1, label.max() + 1):
        mask = label == number
        found |= mask & mask[bounding_box(mask)].all()
    return found


def touches_edge(grid: Grid) -> np.ndarray:
    """Tell whether a cell's shape reaches the edge."""
    label = labels_of(grid != 0, False)
    edge = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    return np.isin(label, edge) & (label > 0)


def _count_near(grid: Grid, diagonal: bool) -> np.ndarray:
    """Return how many coloured cells lie beside a cell, with `diagonal` across its corners too."""
    wide = ringed((grid != 0).astype(np.uint8), 0)
    beside = wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2]
    across = wide[2:, 2:] + wide[:-2, 2:] + wide[2:, :-2] + wide[:-2, :-2]
    return beside + across if diagonal else beside


def _directions(grid: Grid) -> np.ndarray:
    """Return 1 where a coloured cell lies to the left or right, 2 where above or below, 3 where both, else 0."""
    wide = ringed(grid != 0, False)
    is_beside = wide[1:-1, 2:] | wide[1:-1, :-2]
    is_above_or_below = wide[2:, 1:-1] | wide[:-2, 1:-1]
    return is_beside + 2 * is_above_or_below


def _depth(grid: Grid) -> np.ndarray:
    """Return how many cells lie between a cell and the nearest edge of the grid."""
    rows, cols = np.ogrid[: grid.shape[0], : grid.shape[1]]
    return np.minimum(np.minimum(rows, rows[::-1]), np.minimum(cols, cols[:, ::-1]))


def _empty_lines(grid: Grid) -> np.ndarray:
    """Return 1 in black rows, 2 in black columns, 3 where both cross, else 0."""
    is_black_row, is_black_col = ~grid.any(1), ~grid.any(0)
    return is_black_row[:, None] + 2 * is_black_col


def _size(grid: Grid) -> np.ndarray:
    """Return how many cells a cell's shape has, 0 outside."""
    label = labels_of(grid != 0, False)
    return sizes(label)[label]


def _measured(grid: Grid, measure: str, diagonal: bool = True) -> np.ndarray:
    """Return a measure of each cell's shape, 0 outside."""
    label = labels_of(grid != 0, diagonal)
    if not label.any():
        return label
    return np.concatenate([[0], measured_of(grid, measure, diagonal)])[label]


# A feature that tells fewer cases apart comes first: of two that agree with the demonstrations it is the simpler rule.
FEATURES: dict[str, Feature] = {
    "enclosed": lambda grid: enclosed(grid) > 0,
    "has hole": has_hole,
    "is box": _is_box,
    "touches edge": touches_edge,
    "checkers": lambda grid: np.indices(grid.shape).sum(0) % 2,
    "ends": partial(_ends, diagonal=False),
    "ends diagonal": partial(_ends, diagonal=True),
    "odd rows": lambda grid: np.indices(grid.shape)[0] % 2,
    "odd cols": lambda grid: np.indices(grid.shape)[1] % 2,
    "empty lines": _empty_lines,
    "directions": _directions,
    "near": partial(_count_near, diagonal=False),
    "near diagonal": partial(_count_near, diagonal=True),
    "depth": _depth,
    "size": _size,
    "enclosed cells": enclosed,
    "alike": partial(_measured, measure="alike"),
    "symmetries": partial(_measured, measure="symmetries"),
    "rows": partial(_measured, measure="rows"),
    "cols": partial(_measured, measure="cols"),
}
