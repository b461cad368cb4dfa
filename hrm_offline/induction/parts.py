"""Parts of a grid: equal pieces, shapes, and what can be measured of shapes.

Grids are uint8 [rows, cols]. Black (0) is the ground; shapes are connected cells that are not black. A `label` int64
[rows, cols] numbers the shapes from 1 on (see `hrm_offline.data.shapes.components`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import dihedral
from hrm_offline.data.shapes import bounding_box, components, sizes

Grid = np.ndarray
Operation = Callable[[Grid], "Grid | None"]
Feature = Callable[[Grid], np.ndarray]  # a number 0 or more for each cell, [rows, cols]
Measure = Callable[[Grid, np.ndarray], np.ndarray]  # of a grid and its label: a number for each shape, [shapes]

_MOST_SHAPES = 24  # that an operation on each shape takes


def pieces_of(grid: Grid, count: int, axis: int) -> list[Grid] | None:
    """Cut a grid along an axis into equal parts, side by side or one line apart; None where that cannot be."""
    side = grid.shape[axis]
    gap = 1 if side % count else 0
    length = (side - gap * (count - 1)) // count
    if length < 1 or length * count + gap * (count - 1) != side:
        return None
    turned = grid.T if axis else grid
    parts = [turned[start : start + length] for start in range(0, side, length + gap)]
    return [part.T for part in parts] if axis else parts


def box_of(grid: Grid, mask: np.ndarray) -> Grid | None:
    """Return the rectangle around the cells of a mask; None where there is none."""
    return grid[bounding_box(mask)] if mask.any() else None


def labels_of(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Return `components` of a mask, remembered: several operations in a row ask for the same."""
    return _remembered_labels(mask.tobytes(), mask.shape, diagonal)


@lru_cache(256)
def _remembered_labels(mask: bytes, shape: tuple[int, int], diagonal: bool) -> np.ndarray:
    return components(np.frombuffer(mask, dtype=bool).reshape(shape), diagonal)


def shapes_of(grid: Grid, diagonal: bool) -> list[tuple[np.ndarray, tuple[slice, slice]]]:
    """Return the mask and the rectangle of each shape, or none where there are more than `_MOST_SHAPES`."""
    label = labels_of(grid != 0, diagonal)
    masks = [label == number for number in range(1, label.max() + 1)] if label.max() <= _MOST_SHAPES else []
    return [(mask, bounding_box(mask)) for mask in masks]


def crop_shape(grid: Grid, measure: str, most: bool, diagonal: bool) -> Grid | None:
    """Return the rectangle around the shape whose measure is the most, or the least.

    None where there are fewer than two shapes, or where two share the extreme.
    """
    box = _extremes(grid.tobytes(), grid.shape, diagonal).get((measure, most))
    return None if box is None else grid[box]


@lru_cache(256)
def _extremes(grid: bytes, shape: tuple[int, int], diagonal: bool) -> dict[tuple[str, bool], tuple[slice, slice]]:
    """Return the rectangles of `crop_shape` by measure and `most`. Remembered: all of them are asked for in a row."""
    cells = np.frombuffer(grid, dtype=np.uint8).reshape(shape)
    label = labels_of(cells != 0, diagonal)
    found: dict[tuple[str, bool], tuple[slice, slice]] = {}
    if label.max() < 2:
        return found
    for name in MEASURES:
        measured = measured_of(cells, name, diagonal)
        for most in (True, False):
            chosen = np.flatnonzero(measured == (measured.max() if most else measured.min()))
            if len(chosen) == 1:
                found[name, most] = bounding_box(label == chosen[0] + 1)
    return found


def extreme_of(grid: Grid, measure: str, most: bool, diagonal: bool) -> np.ndarray | None:
    """Return the mask of the shapes whose measure is the most, or the least; None where all shapes share it."""
    label = labels_of(grid != 0, diagonal)
    if label.max() < 2:
        return None
    measured = measured_of(grid, measure, diagonal)
    chosen = np.flatnonzero(measured == (measured.max() if most else measured.min()))
    return None if len(chosen) == len(measured) else np.isin(label, chosen + 1)


# ----- measures


def measured_of(grid: Grid, measure: str, diagonal: bool) -> np.ndarray:
    """Return a measure of each shape, by its label less 1. Remembered: several operations in a row ask for the same."""
    return _measured(grid.tobytes(), grid.shape, measure, diagonal)


@lru_cache(1024)
def _measured(grid: bytes, shape: tuple[int, int], measure: str, diagonal: bool) -> np.ndarray:
    cells = np.frombuffer(grid, dtype=np.uint8).reshape(shape)
    return MEASURES[measure](cells, labels_of(cells != 0, diagonal))


def _cells(grid: Grid, label: np.ndarray) -> np.ndarray:
    """Return how many cells each shape has, by its label less 1."""
    return sizes(label)[1:]


def _colours(grid: Grid, label: np.ndarray) -> np.ndarray:
    """Return how many colours each shape has, by its label less 1."""
    pairs = np.unique(label.astype(np.int64) * COLOURS + grid)  # the distinct (label, colour)
    return np.bincount(pairs // COLOURS)[1:]


def _alike(grid: Grid, label: np.ndarray) -> np.ndarray:
    """Return how many shapes look like each shape, itself included, by its label less 1."""
    cells = _cells(grid, label)
    alike = np.ones(len(cells), dtype=np.int64)
    looks = {}
    for number in np.flatnonzero(np.bincount(cells)[cells] > 1).tolist():  # others differ in their number of cells
        mask = label == number + 1
        box = bounding_box(mask)
        looks[number] = mask[box].shape, (grid[box] * mask[box]).tobytes()
    everything = list(looks.values())
    for number, look in looks.items():
        alike[number] = everything.count(look)
    return alike


def _spans(grid: Grid, label: np.ndarray) -> np.ndarray:
    """Return the first row, the first column, the rows and the columns of each shape, [shapes, 4]."""
    boxes = [bounding_box(label == number) for number in range(1, label.max() + 1)]
    return np.array([(r.start, c.start, r.stop - r.start, c.stop - c.start) for r, c in boxes])


def _span(grid: Grid, label: np.ndarray, index: int) -> np.ndarray:
    """Return one of the columns of `_spans`."""
    return _spans(grid, label)[:, index]


def _density(grid: Grid, label: np.ndarray) -> np.ndarray:
    """Return the share of its rectangle that each shape fills, in thousandths."""
    return 1000 * _cells(grid, label) // _spans(grid, label)[:, 2:].prod(1)


def _symmetries(grid: Grid, label: np.ndarray) -> np.ndarray:
    """Return how many turns and flips leave each shape as it is; 0 for all where there are more than `_MOST_SHAPES`."""
    if label.max() > _MOST_SHAPES:
        return np.zeros(label.max(), dtype=np.int64)
    found = []
    for number in range(1, label.max() + 1):
        mask = label == number
        box = bounding_box(mask)
        piece = grid[box] * mask[box]
        found.append(sum(np.array_equal(dihedral(piece, element), piece) for element in range(1, 8)))
    return np.array(found)


MEASURES: dict[str, Measure] = {
    "cells": _cells,
    "colours": _colours,
    "alike": _alike,
    **{name: partial(_span, index=index) for index, name in enumerate(("top", "left", "rows", "cols"))},
    "density": _density,
    "symmetries": _symmetries,
}
