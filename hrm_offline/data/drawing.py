"""Draw what made-up tasks are made of: shapes, colours, noise, connected pieces."""

from __future__ import annotations

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.shapes import components

Rng = np.random.Generator

BLACK = 0


def draw_shape(rng: Rng, max_side: int, low: int = 3) -> tuple[int, int]:
    """Draw rows and columns from `low` to `max_side`; half of the time they are made equal."""
    rows, cols = rng.integers(low, max(low, max_side) + 1, 2)
    return (rows, rows) if rng.random() < 0.5 else (rows, cols)


def draw_colours(rng: Rng, count: int) -> np.ndarray:
    """Draw `count` distinct colours, none of them black."""
    return rng.choice(np.arange(1, COLOURS), count, replace=False)


def draw_noise(rng: Rng, shape: tuple[int, int], colours, density: float) -> np.ndarray:
    """Draw a black grid with single cells of the colours; `density` is the share of cells that are not black."""
    return np.where(rng.random(shape) < density, rng.choice(colours, shape), BLACK)


def place_shapes(rng: Rng, shape: tuple[int, int], colours, count: int, side: int = 3) -> np.ndarray:
    """Draw a black grid with up to `count` connected shapes of at most `side` rows and columns.

    Each shape is of one colour, and none touches another. A shape that would touch one is left out.
    """
    grid = np.zeros(shape, dtype=np.int64)
    for _ in range(count):
        box = rng.integers(1, min(side, *shape) + 1, 2)
        piece = _blob(rng, box) * rng.choice(colours)
        top, left = (rng.integers(0, limit - size + 1) for limit, size in zip(shape, piece.shape))
        bottom, right = top + piece.shape[0], left + piece.shape[1]
        with_ring = grid[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
        if not with_ring.any():
            grid[top:bottom, left:right] = piece
    return grid


def _blob(rng: Rng, sides) -> np.ndarray:
    """Draw a connected shape in a rectangle, int64 [rows, cols] of 0 and 1: the largest one that random cells make."""
    cells = rng.random(sides) < 0.7
    cells[rng.integers(sides[0]), rng.integers(sides[1])] = True  # so that there is a cell
    label = components(cells)
    largest = np.bincount(label[label > 0]).argmax()
    return (label == largest).astype(np.int64)
