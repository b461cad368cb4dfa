"""Grid operations that programs are composed of: each makes a grid of a grid, or None where it does not apply.

Grids are uint8 [rows, cols]. Black (0) is the ground; shapes are connected cells that are not black. To add an
operation, write its function and name it in one of the groups at the end of this file, by what it needs and by what it
can do to a grid (see `Repertoire`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, reduce

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral
from hrm_offline.data.shapes import bounding_box, components, ringed, sizes

Grid = np.ndarray
Operation = Callable[[Grid], "Grid | None"]
Feature = Callable[[Grid], np.ndarray]  # a number 0 or more for each cell, [rows, cols]


@dataclass(frozen=True)
class Repertoire:
    """Operations by name, grouped by what they can do to a grid.

    Of those that keep its shape, `moving` ones only move cells, `filling` ones only change black cells, `erasing` ones
    only make cells black, and `free` ones do anything. Of those that may change its shape, turns are among `sizing`,
    whose results have a shape that follows from the grid's shape. `cropping` ones cut out a rectangle, and `thinning`
    ones leave out rows and columns. Of all these only `framing` ones, which are sizing too, draw in a new colour.
    """

    moving: dict[str, Operation]
    filling: dict[str, Operation]
    erasing: dict[str, Operation]
    free: dict[str, Operation]
    sizing: dict[str, Operation]
    cropping: dict[str, Operation]
    thinning: dict[str, Operation]
    framing: dict[str, Operation]

    @classmethod
    def of_colours(cls, given: Sequence[int], wanted: Sequence[int]) -> Repertoire:
        """Return all operations, those that need a colour once for each.

        An operation that looks for a colour takes one of the inputs', `given`; an operation that draws in a colour
        takes one of the outputs', `wanted`.
        """
        return cls(
            _TURNS | _FALLS,
            _FILLING | _for_each(_FILLING_OF_WANTED, wanted),
            _ERASING | _for_each(_ERASING_OF_GIVEN, given),
            _FREE | _for_each(_FREE_OF_WANTED, wanted),
            _TURNS | _SIZING,
            _CROPPING | _for_each(_CROPPING_OF_GIVEN, given),
            _THINNING,
            _for_each(_FRAMING_OF_WANTED, wanted),
        )

    @cached_property
    def keeping(self) -> dict[str, Operation]:
        """All operations that keep a grid's shape. Of two that agree with the demonstrations, the first is simpler."""
        return self.moving | self.filling | self.erasing | self.free

    @cached_property
    def changing(self) -> dict[str, Operation]:
        """All operations that may change a grid's shape."""
        return self.sizing | self.framing | self.thinning | self.cropping

    @cached_property
    def all(self) -> dict[str, Operation]:
        """All operations."""
        return self.keeping | self.changing


def _for_each(operations: dict[str, Callable], colours: Sequence[int]) -> dict[str, Operation]:
    """Return each operation with each of the colours."""
    return {
        f"{name} {colour}": partial(operation, colour=colour)
        for name, operation in operations.items()
        for colour in colours
    }


# ----- parts of a grid


def _pieces(grid: Grid, count: int, axis: int) -> list[Grid] | None:
    """Cut a grid along an axis into equal parts, side by side or one line apart; None where that cannot be."""
    side = grid.shape[axis]
    gap = 1 if side % count else 0
    length = (side - gap * (count - 1)) // count
    if length < 1 or length * count + gap * (count - 1) != side:
        return None
    turned = grid.T if axis else grid
    parts = [turned[start : start + length] for start in range(0, side, length + gap)]
    return [part.T for part in parts] if axis else parts


def _piece(grid: Grid, count: int, axis: int, index: int) -> Grid | None:
    """Return one of the equal parts."""
    pieces = _pieces(grid, count, axis)
    return pieces and pieces[index]


def _overlay(grid: Grid, rule: Callable[[Grid, Grid], Grid], count: int, axis: int) -> Grid | None:
    """Lay the equal parts over one another by a rule."""
    pieces = _pieces(grid, count, axis)
    return pieces and reduce(rule, pieces)


# How two grids of one shape become one.
_RULES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "over": lambda a, b: np.where(a, a, b),
    "under": lambda a, b: np.where(b, b, a),
    "and": lambda a, b: np.where(b, a, 0),
    "without": lambda a, b: np.where(b, 0, a),
    "xor": lambda a, b: np.where(a, np.where(b, 0, a), b),
}


def _box(grid: Grid, mask: np.ndarray) -> Grid | None:
    """Return the rectangle around the cells of a mask; None where there is none."""
    return grid[bounding_box(mask)] if mask.any() else None


def _labels(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Return `components` of a mask, remembered: several operations in a row ask for the same."""
    return _labels_of(mask.tobytes(), mask.shape, diagonal)


@lru_cache(256)
def _labels_of(mask: bytes, shape: tuple[int, int], diagonal: bool) -> np.ndarray:
    return components(np.frombuffer(mask, dtype=bool).reshape(shape), diagonal)


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


def _crop_shape(grid: Grid, measure: str, most: bool, diagonal: bool) -> Grid | None:
    """Return the rectangle around the shape whose measure is the most, or the least.

    None where there are fewer than two shapes, or where two share the extreme.
    """
    box = _extremes(grid.tobytes(), grid.shape, diagonal).get((measure, most))
    return None if box is None else grid[box]


@lru_cache(256)
def _extremes(grid: bytes, shape: tuple[int, int], diagonal: bool) -> dict[tuple[str, bool], tuple[slice, slice]]:
    """Return the rectangles of `_crop_shape` by measure and `most`. Remembered: all of them are asked for in a row."""
    cells = np.frombuffer(grid, dtype=np.uint8).reshape(shape)
    label = _labels(cells != 0, diagonal)
    found: dict[tuple[str, bool], tuple[slice, slice]] = {}
    if label.max() < 2:
        return found
    for name, measure in _MEASURES.items():
        measured = measure(cells, label)
        for most in (True, False):
            chosen = np.flatnonzero(measured == (measured.max() if most else measured.min()))
            if len(chosen) == 1:
                found[name, most] = bounding_box(label == chosen[0] + 1)
    return found


# ----- whole grids


def _turned(operation: Operation, element: int) -> Operation:
    """Return the operation in another direction: on the grid as a dihedral element turns it, and turned back."""
    return lambda grid: dihedral(operation(dihedral(grid, element)), DIHEDRAL_INVERSE[element])


def _fall(grid: Grid) -> Grid:
    """Let coloured cells fall down, in their order."""
    order = np.argsort(grid != 0, axis=0, kind="stable")  # black cells first
    return np.take_along_axis(grid, order, 0)


def _smear(grid: Grid) -> Grid:
    """Give black cells the colour of the next cell above that has one."""
    row = np.arange(len(grid))[:, None]
    last_coloured = np.maximum.accumulate(np.where(grid, row, 0))
    return np.take_along_axis(grid, last_coloured, 0)


def _connect(grid: Grid) -> Grid:
    """Give black cells that lie in a column between two cells of one colour that colour."""
    down, up = _smear(grid), _smear(grid[::-1])[::-1]
    return np.where((grid == 0) & (down == up), down, grid)


def _connect_all(grid: Grid) -> Grid:
    """Connect along columns and along rows; where they cross, the column shows."""
    down, across = _connect(grid), _connect(grid.T).T
    return np.where(down, down, across)


def _symmetrise(grid: Grid, element: int) -> Grid | None:
    """Fill black cells from the grid's own mirror image."""
    image = dihedral(grid, element)
    return np.where(grid, grid, image) if image.shape == grid.shape else None


def _beside(grid: Grid, element: int, axis: int) -> Grid | None:
    """Put the grid's image beside it, or below."""
    image = dihedral(grid, element)
    return np.concatenate([grid, image], axis) if image.shape == grid.shape else None


def _thrice(grid: Grid, axis: int) -> Grid:
    """Put the grid beside itself twice, or below."""
    return np.concatenate([grid] * 3, axis)


def _edge_doubled(grid: Grid) -> Grid:
    """Repeat the rows and columns at the edge. `np.pad` does the same in four times the time."""
    rows = np.concatenate([grid[:1], grid, grid[-1:]])
    return np.concatenate([rows[:, :1], rows, rows[:, -1:]], 1)


def _enlarge(grid: Grid, factor: int) -> Grid:
    """Make a block of every cell."""
    return grid.repeat(factor, 0).repeat(factor, 1)


def _shrink(grid: Grid) -> Grid:
    """Leave out rows and columns that repeat the one before."""
    rows, cols = np.ones(grid.shape[0], dtype=bool), np.ones(grid.shape[1], dtype=bool)
    rows[1:] = (grid[1:] != grid[:-1]).any(1)
    cols[1:] = (grid[:, 1:] != grid[:, :-1]).any(0)
    return grid[rows][:, cols]


def _without_empty(grid: Grid) -> Grid:
    """Leave out rows and columns that are black."""
    return grid[grid.any(1)][:, grid.any(0)]


def _without_lines(grid: Grid) -> Grid:
    """Leave out rows and columns of one colour, but not black ones."""
    rows = (grid != grid[:, :1]).any(1) | (grid[:, 0] == 0)
    cols = (grid != grid[:1]).any(0) | (grid[0] == 0)
    return grid[rows][:, cols]


def _keep_colour(grid: Grid, rarest: bool) -> Grid | None:
    """Keep only the commonest, or the rarest, colour other than black; None where there is no single one."""
    counts = np.bincount(grid.ravel(), minlength=COLOURS)
    counts[0] = 0
    present = counts[counts > 0]
    if not len(present):
        return None
    chosen = np.flatnonzero(counts == (present.min() if rarest else present.max()))
    return np.where(grid == chosen[0], grid, 0) if len(chosen) == 1 else None


def _grounded(grid: Grid) -> Grid:
    """Let the commonest colour and black change places."""
    becomes = np.arange(COLOURS)
    commonest = np.bincount(grid.ravel()).argmax()
    becomes[[0, commonest]] = commonest, 0
    return becomes[grid]


def _swap(grid: Grid) -> Grid | None:
    """Let the two colours of a grid of two change places."""
    colours = np.unique(grid)
    return colours.sum(dtype=np.uint8) - grid if len(colours) == 2 else None


def _repeated(grid: Grid) -> Grid:
    """Fill black cells so that rows, columns or both repeat with the least period that the other cells allow."""
    return _repeated_rows(_repeated_rows(grid).T).T


def _repeated_rows(grid: Grid) -> Grid:
    """Fill black cells so that rows repeat; where no period fits the grid stays as it is."""
    for period in range(1, len(grid) // 2 + 1):
        one, other = grid[period:], grid[:-period]
        if ((one == other) | (one == 0) | (other == 0)).all():
            # The rows of one period, each cell coloured by the first of its repeats that is not black.
            unit = np.zeros((period, grid.shape[1]), dtype=np.uint8)
            for start in range(0, len(grid), period):
                piece = grid[start : start + period]
                unit[: len(piece)] = np.where(unit[: len(piece)], unit[: len(piece)], piece)
            return np.where(grid, grid, np.resize(unit, grid.shape))
    return grid


# ----- with a colour


def _fill(grid: Grid, colour: int) -> Grid:
    """Colour the black regions that do not reach the edge."""
    return np.where(_enclosed(grid), colour, grid)


def _neighbours(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Return the cells of a mask and the cells beside them, with `diagonal` across corners too."""
    padded = ringed(mask, False)
    column = padded[2:] | padded[:-2] | padded[1:-1]  # here, above or below; [rows, cols + 2]
    if diagonal:
        return column[:, 2:] | column[:, :-2] | column[:, 1:-1]
    return column[:, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]


def _outline(grid: Grid, colour: int, diagonal: bool) -> Grid:
    """Colour the black cells beside coloured ones."""
    return np.where((grid == 0) & _neighbours(grid != 0, diagonal), colour, grid)


def _interior(grid: Grid, colour: int) -> Grid:
    """Colour the cells that have no black cell and no edge beside them."""
    is_near = _neighbours(ringed(grid == 0, True), True)[1:-1, 1:-1]
    return np.where(is_near, grid, colour)


# ----- features: what can be said of a cell, beside its colour


def _ends(grid: Grid, diagonal: bool) -> np.ndarray:
    """Return 1 in the smallest shapes, 2 in the largest ones, 3 where all shapes have one size, 0 outside."""
    label = _labels(grid != 0, diagonal)
    cells = sizes(label)
    least, most = min(cells[1:], default=0), max(cells[1:], default=0)
    end = (cells == least) + 2 * (cells == most)  # by label
    return end[label] * (label > 0)


def _enclosed(grid: Grid) -> np.ndarray:
    """Return how many cells the region has in black regions that do not reach the edge, 0 elsewhere."""
    # With a black ring around the grid, all regions that reach its edge are one component, the first.
    label = _labels(ringed(grid == 0, True), False)
    cells = sizes(label)
    cells[1] = 0
    return cells[label[1:-1, 1:-1]]


def _has_hole(grid: Grid) -> np.ndarray:
    """Tell whether a cell's shape borders on an enclosed region."""
    label = _labels(grid != 0, True)
    bordering = label[_neighbours(_enclosed(grid) > 0, False)]
    return np.isin(label, bordering) & (label > 0)


def _is_box(grid: Grid) -> np.ndarray:
    """Tell whether a cell's shape fills the rectangle around it."""
    label = _labels(grid != 0, False)
    found = np.zeros(grid.shape, dtype=bool)
    for number in range(1, label.max() + 1):
        mask = label == number
        found |= mask & mask[bounding_box(mask)].all()
    return found


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
    label = _labels(grid != 0, False)
    return sizes(label)[label]


# A feature that tells fewer cases apart comes first: of two that agree with the demonstrations it is the simpler rule.
FEATURES: dict[str, Feature] = {
    "enclosed": lambda grid: _enclosed(grid) > 0,
    "has hole": _has_hole,
    "is box": _is_box,
    "checkers": lambda grid: np.indices(grid.shape).sum(0) % 2,
    "ends": partial(_ends, diagonal=False),
    "ends diagonal": partial(_ends, diagonal=True),
    "empty lines": _empty_lines,
    "directions": _directions,
    "near": partial(_count_near, diagonal=False),
    "near diagonal": partial(_count_near, diagonal=True),
    "depth": _depth,
    "size": _size,
    "enclosed cells": _enclosed,
}


# ----- the operations by name, in the order in which the search tries them

_SIDES = {"down": 0, "left": 1, "up": 2, "right": 3}  # the dihedral element that turns each side down
_MEASURES = {"cells": _cells, "colours": _colours, "alike": _alike}
_TURNS: dict[str, Operation] = {f"turn {element}": partial(dihedral, element=element) for element in range(1, 8)}
_FALLS = {f"fall {side}": _turned(_fall, element) for side, element in _SIDES.items()}
_FILLING: dict[str, Operation] = {
    **{f"smear {side}": _turned(_smear, element) for side, element in _SIDES.items()},
    "connect down": _connect,
    "connect across": _turned(_connect, 6),
    "connect": _connect_all,
    **{f"symmetrise {element}": partial(_symmetrise, element=element) for element in (2, 4, 5, 6, 7)},
    "repeated": _repeated,
}
_ERASING: dict[str, Operation] = {
    "keep commonest": partial(_keep_colour, rarest=False),
    "keep rarest": partial(_keep_colour, rarest=True),
}
_FREE: dict[str, Operation] = {"grounded": _grounded, "swap": _swap}
_SIZING: dict[str, Operation] = {
    **{
        f"part {index} of {count} along {axis}": partial(_piece, count=count, axis=axis, index=index)
        for count in (2, 3)
        for axis in (0, 1)
        for index in range(count)
    },
    **{
        f"{name} of {count} along {axis}": partial(_overlay, rule=rule, count=count, axis=axis)
        for name, rule in _RULES.items()
        for count in (2, 3)
        for axis in (0, 1)
    },
    **{
        f"beside {element} along {axis}": partial(_beside, element=element, axis=axis)
        for element in (0, 2, 4, 5)
        for axis in (0, 1)
    },
    **{f"thrice along {axis}": partial(_thrice, axis=axis) for axis in (0, 1)},
    **{f"enlarge {factor}": partial(_enlarge, factor=factor) for factor in (2, 3, 4, 5)},
    "fractal": lambda grid: np.kron(grid != 0, grid),
    "without border": lambda grid: grid[1:-1, 1:-1],
    "edge doubled": _edge_doubled,
}
_CROPPING: dict[str, Operation] = {
    "crop": lambda grid: _box(grid, grid != 0),
    **{
        f"crop {'most' if most else 'least'} {measure}{' diagonal' * diagonal}": partial(
            _crop_shape, measure=measure, most=most, diagonal=diagonal
        )
        for measure in _MEASURES
        for most in (True, False)
        for diagonal in (True, False)
    },
}
_THINNING: dict[str, Operation] = {
    "shrink": _shrink,
    "without empty": _without_empty,
    "without lines": _without_lines,
}
# Operations that need a colour, of the inputs ("given") or of the outputs ("wanted").
_FILLING_OF_WANTED = {
    "fill": _fill,
    "outline": partial(_outline, diagonal=False),
    "outline diagonal": partial(_outline, diagonal=True),
}
_ERASING_OF_GIVEN = {
    "keep": lambda grid, colour: np.where(grid == colour, grid, 0),
    "erase": lambda grid, colour: np.where(grid == colour, 0, grid),
}
_FREE_OF_WANTED = {"interior": _interior}
_CROPPING_OF_GIVEN = {"crop to": lambda grid, colour: _box(grid, grid == colour)}
_FRAMING_OF_WANTED = {"border": lambda grid, colour: ringed(grid, colour)}
