"""Grid operations that programs are composed of: each makes a grid of a grid, or None where it does not apply.

Black (0) is the ground; shapes are connected cells that are not black.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial, reduce

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral
from hrm_offline.data.shapes import bounding_box, components, ringed, sizes

Grid = np.ndarray
Operation = Callable[[Grid], "Grid | None"]


@dataclass(frozen=True)
class Repertoire:
    """Operations by name: those that keep a grid's shape, and those that may change it; turns are in both."""

    keeping: dict[str, Operation]
    changing: dict[str, Operation]

    @classmethod
    def of_colours(cls, given: Iterable[int], wanted: Iterable[int]) -> Repertoire:
        """All there are, with a colour of the inputs, `given`, or of the outputs, `wanted`, where they need one."""
        named = [
            {
                f"{name} {colour}": partial(operation, colour=colour)
                for name, operation in table.items()
                for colour in colours
            }
            for table, colours in (
                (_KEEPING_OF_GIVEN, given),
                (_KEEPING_OF_WANTED, wanted),
                (_CHANGING_OF_GIVEN, given),
                (_CHANGING_OF_WANTED, wanted),
            )
        ]
        return cls(_TURNS | _KEEPING | named[0] | named[1], _TURNS | _CHANGING | named[2] | named[3])


# ----- parts


def _pieces(grid: Grid, count: int, axis: int) -> list[Grid] | None:
    """Equal parts along an axis, side by side or one line apart."""
    side = grid.shape[axis]
    gap = int(side % count > 0)
    length = (side - gap * (count - 1)) // count
    if length < 1 or length * count + gap * (count - 1) != side:
        return None
    turned = grid.T if axis else grid
    parts = [turned[start : start + length] for start in range(0, side, length + gap)]
    return [part.T for part in parts] if axis else parts


def _piece(grid: Grid, count: int, axis: int, index: int) -> Grid | None:
    pieces = _pieces(grid, count, axis)
    return pieces and pieces[index]


def _overlay(grid: Grid, rule: Callable[[Grid, Grid], Grid], count: int, axis: int) -> Grid | None:
    pieces = _pieces(grid, count, axis)
    return pieces and reduce(rule, pieces)


_RULES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "over": lambda a, b: np.where(a, a, b),
    "under": lambda a, b: np.where(b, b, a),
    "and": lambda a, b: np.where(b, a, 0),
    "without": lambda a, b: np.where(b, 0, a),
    "xor": lambda a, b: np.where(a, np.where(b, 0, a), b),
}


def _box(grid: Grid, mask: np.ndarray) -> Grid | None:
    return grid[bounding_box(mask)] if mask.any() else None


def _labels(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    return _labels_of(mask.tobytes(), mask.shape, diagonal)


@lru_cache(256)  # several operations in a row ask the same
def _labels_of(mask: bytes, shape: tuple[int, int], diagonal: bool) -> np.ndarray:
    return components(np.frombuffer(mask, dtype=bool).reshape(shape), diagonal)


def _cells(grid: Grid, label: np.ndarray) -> np.ndarray:
    return sizes(label)[1:]


def _colours(grid: Grid, label: np.ndarray) -> np.ndarray:
    """How many each shape has."""
    pairs = np.unique(label.astype(np.int64) * COLOURS + grid)
    return np.bincount(pairs // COLOURS)[1:]


def _alike(grid: Grid, label: np.ndarray) -> np.ndarray:
    """How many shapes look like each."""
    looks = []
    for number in range(1, label.max() + 1):
        mask = label == number
        box = bounding_box(mask)
        looks.append((mask[box].shape, (grid * mask)[box].tobytes()))
    return np.array([looks.count(look) for look in looks])


def _crop_shape(grid: Grid, measure: Callable, most: bool, diagonal: bool) -> Grid | None:
    """The rectangle around the one shape that has most, or least, where there are several."""
    label = _labels(grid != 0, diagonal)
    if label.max() < 2:
        return None
    measured = measure(grid, label)
    chosen = np.flatnonzero(measured == (measured.max() if most else measured.min()))
    return grid[bounding_box(label == chosen[0] + 1)] if len(chosen) == 1 else None


# ----- whole grids


def _turned(operation: Operation, element: int) -> Operation:
    """The operation in another direction."""
    return lambda grid: dihedral(operation(dihedral(grid, element)), DIHEDRAL_INVERSE[element])


def _fall(grid: Grid) -> Grid:
    return np.take_along_axis(grid, np.argsort(grid != 0, axis=0, kind="stable"), 0)


def _smear(grid: Grid) -> Grid:
    """Black cells take the colour of the next cell above that has one."""
    last = np.maximum.accumulate(np.where(grid, np.arange(len(grid))[:, None], 0))
    return np.take_along_axis(grid, last, 0)


def _connect(grid: Grid) -> Grid:
    """Black cells between two cells of a colour, in a column, take it."""
    down, up = _smear(grid), _smear(grid[::-1])[::-1]
    return np.where((grid == 0) & (down == up), down, grid)


def _connect_all(grid: Grid) -> Grid:
    down, across = _connect(grid), _connect(grid.T).T
    return np.where(down, down, across)


def _symmetrise(grid: Grid, element: int) -> Grid | None:
    image = dihedral(grid, element)
    return np.where(grid, grid, image) if image.shape == grid.shape else None


def _beside(grid: Grid, element: int, axis: int) -> Grid | None:
    image = dihedral(grid, element)
    return np.concatenate([grid, image], axis) if image.shape == grid.shape else None


def _enlarge(grid: Grid, factor: int) -> Grid:
    return grid.repeat(factor, 0).repeat(factor, 1)


def _shrink(grid: Grid) -> Grid:
    """Without rows and columns that repeat the one before."""
    rows = np.r_[True, (grid[1:] != grid[:-1]).any(1)]
    cols = np.r_[True, (grid[:, 1:] != grid[:, :-1]).any(0)]
    return grid[rows][:, cols]


def _without_empty(grid: Grid) -> Grid:
    return grid[grid.any(1)][:, grid.any(0)]


def _without_lines(grid: Grid) -> Grid:
    """Without rows and columns of one colour, black ones stay."""
    rows = (grid != grid[:, :1]).any(1) | (grid[:, 0] == 0)
    cols = (grid != grid[:1]).any(0) | (grid[0] == 0)
    return grid[rows][:, cols]


def _keep_colour(grid: Grid, rarest: bool) -> Grid | None:
    """Only the commonest or rarest colour but black, where there is one."""
    counts = np.bincount(grid.ravel(), minlength=COLOURS)
    counts[0] = 0
    present = counts[counts > 0]
    chosen = np.flatnonzero(counts == (min if rarest else max)(present, default=-1))
    return np.where(grid == chosen[0], grid, 0) if len(chosen) == 1 else None


def _grounded(grid: Grid) -> Grid:
    """The commonest colour and black change places."""
    order = np.arange(COLOURS)
    commonest = np.bincount(grid.ravel()).argmax()
    order[[0, commonest]] = commonest, 0
    return order[grid]


def _swap(grid: Grid) -> Grid | None:
    colours = np.unique(grid)
    return colours.sum(dtype=np.uint8) - grid if len(colours) == 2 else None


def _repeated(grid: Grid) -> Grid:
    """Black cells are filled so that rows, columns or both repeat with the least period that the other cells allow."""
    return _repeated_rows(_repeated_rows(grid).T).T


def _repeated_rows(grid: Grid) -> Grid:
    for period in range(1, len(grid) // 2 + 1):
        one, other = grid[period:], grid[:-period]
        if ((one == other) | (one == 0) | (other == 0)).all():
            unit = np.zeros((period, grid.shape[1]), dtype=np.uint8)
            for start in range(0, len(grid), period):
                piece = grid[start : start + period]
                unit[: len(piece)] = np.where(unit[: len(piece)], unit[: len(piece)], piece)
            return np.where(grid, grid, np.resize(unit, grid.shape))
    return grid


# ----- with a colour


def _fill(grid: Grid, colour: int) -> Grid:
    return np.where(_enclosed(grid), colour, grid)


def _neighbours(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Cells beside a cell of the mask, and that cell."""
    padded = ringed(mask, False)
    down = padded[2:] | padded[:-2] | padded[1:-1]
    if diagonal:
        return down[:, 2:] | down[:, :-2] | down[:, 1:-1]
    return down[:, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]


def _outline(grid: Grid, colour: int, diagonal: bool) -> Grid:
    return np.where((grid == 0) & _neighbours(grid != 0, diagonal), colour, grid)


def _interior(grid: Grid, colour: int) -> Grid:
    """Coloured cells with no black cell and no edge beside them."""
    inside = ~_neighbours(ringed(grid == 0, True), True)[1:-1, 1:-1]
    return np.where(inside, colour, grid)


# ----- what can be said of a cell, beside its colour


def _ends(grid: Grid, diagonal: bool) -> np.ndarray:
    """1 in the smallest shapes, 2 in the largest ones, 3 where all are alike."""
    label = _labels(grid != 0, diagonal)
    cells = sizes(label)
    least, most = min(cells[1:], default=0), max(cells[1:], default=0)
    return ((cells == least) + 2 * (cells == most))[label] * (label > 0)


def _enclosed(grid: Grid) -> np.ndarray:
    """In black regions that do not reach the edge, how many cells they have."""
    label = _labels(ringed(grid == 0, True), False)
    cells = sizes(label)
    cells[1] = 0
    return cells[label[1:-1, 1:-1]]


def _has_hole(grid: Grid) -> np.ndarray:
    label = _labels(grid != 0, True)
    return np.isin(label, label[_neighbours(_enclosed(grid) > 0, False)]) & (label > 0)


def _is_box(grid: Grid) -> np.ndarray:
    """Whether a cell's shape fills the rectangle around it."""
    label = _labels(grid != 0, False)
    found = np.zeros(grid.shape, dtype=bool)
    for number in range(1, label.max() + 1):
        mask = label == number
        found |= mask & mask[bounding_box(mask)].all()
    return found


def _count_near(grid: Grid, diagonal: bool) -> np.ndarray:
    wide = ringed((grid != 0).astype(np.uint8), 0)
    beside = wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2]
    return beside + (wide[2:, 2:] + wide[:-2, 2:] + wide[2:, :-2] + wide[:-2, :-2]) * diagonal


def _directions(grid: Grid) -> np.ndarray:
    """1 with a coloured cell beside, 2 above or below, 3 both."""
    wide = ringed(grid != 0, False)
    return (wide[1:-1, 2:] | wide[1:-1, :-2]) + 2 * (wide[2:, 1:-1] | wide[:-2, 1:-1])


def _depth(grid: Grid) -> np.ndarray:
    rows, cols = np.ogrid[: grid.shape[0], : grid.shape[1]]
    return np.minimum(np.minimum(rows, rows[::-1]), np.minimum(cols, cols[:, ::-1]))


# Those that tell fewer cases apart come first: of two that agree with the demonstrations they are the simpler rule.
FEATURES: dict[str, Callable[[Grid], np.ndarray]] = {
    "enclosed": lambda grid: _enclosed(grid) > 0,
    "has hole": _has_hole,
    "is box": _is_box,
    "checkers": lambda grid: np.indices(grid.shape).sum(0) % 2,
    "ends": partial(_ends, diagonal=False),
    "ends diagonal": partial(_ends, diagonal=True),
    "empty lines": lambda grid: ~grid.any(1)[:, None] + 2 * ~grid.any(0),
    "directions": _directions,
    "near": partial(_count_near, diagonal=False),
    "near diagonal": partial(_count_near, diagonal=True),
    "depth": _depth,
    "size": lambda grid: sizes(_labels(grid != 0, False))[_labels(grid != 0, False)],
    "enclosed cells": _enclosed,
}

_SIDES = {"down": 0, "left": 1, "up": 2, "right": 3}
_MEASURES = {"cells": _cells, "colours": _colours, "alike": _alike}
_TURNS: dict[str, Operation] = {f"turn {element}": partial(dihedral, element=element) for element in range(1, 8)}

_KEEPING: dict[str, Operation] = {
    **{
        f"{name} {side}": _turned(operation, element)
        for name, operation in (("fall", _fall), ("smear", _smear))
        for side, element in _SIDES.items()
    },
    "connect down": _connect,
    "connect across": _turned(_connect, 6),
    "connect": _connect_all,
    **{f"symmetrise {element}": partial(_symmetrise, element=element) for element in (2, 4, 5, 6, 7)},
    "keep commonest": partial(_keep_colour, rarest=False),
    "keep rarest": partial(_keep_colour, rarest=True),
    "grounded": _grounded,
    "swap": _swap,
    "repeated": _repeated,
}
_CHANGING: dict[str, Operation] = {
    "crop": lambda grid: _box(grid, grid != 0),
    **{
        f"crop {'most' if most else 'least'} {name}{' diagonal' * diagonal}": partial(
            _crop_shape, measure=measure, most=most, diagonal=diagonal
        )
        for name, measure in _MEASURES.items()
        for most in (True, False)
        for diagonal in (True, False)
    },
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
    "thrice along 0": lambda grid: np.tile(grid, (3, 1)),
    "thrice along 1": lambda grid: np.tile(grid, (1, 3)),
    **{f"enlarge {factor}": partial(_enlarge, factor=factor) for factor in (2, 3, 4, 5)},
    "fractal": lambda grid: np.kron(grid != 0, grid),
    "shrink": _shrink,
    "without empty": _without_empty,
    "without lines": _without_lines,
    "without border": lambda grid: grid[1:-1, 1:-1],
    "edge doubled": lambda grid: np.pad(grid, 1, mode="edge"),
}
_KEEPING_OF_GIVEN = {
    "keep": lambda grid, colour: np.where(grid == colour, grid, 0),
    "erase": lambda grid, colour: np.where(grid == colour, 0, grid),
}
_KEEPING_OF_WANTED = {
    "fill": _fill,
    "interior": _interior,
    "outline": partial(_outline, diagonal=False),
    "outline diagonal": partial(_outline, diagonal=True),
}
_CHANGING_OF_GIVEN = {"crop to": lambda grid, colour: _box(grid, grid == colour)}
_CHANGING_OF_WANTED = {"border": lambda grid, colour: ringed(grid, colour)}
