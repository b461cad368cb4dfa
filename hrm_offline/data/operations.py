"""Grid operations that programs are composed of: each makes a grid of a grid, or None where it does not apply.

Black (0) is the ground. Masks are painted in colour 1: what colour they should have is learned from the demonstrations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial, reduce

import numpy as np

from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral
from hrm_offline.data.shapes import bounding_box, components, ringed, sizes
from hrm_offline.tokens import COLOURS

Grid = np.ndarray
Operation = Callable[[Grid], "Grid | None"]


def operations(given: Iterable[int], wanted: Iterable[int]) -> dict[str, Operation]:
    """All operations by name; those with a colour for each colour of the inputs, `given`, or the outputs, `wanted`."""
    return _PLAIN | {
        f"{name} {colour}": partial(operation, colour=colour)
        for table, colours in ((_OF_GIVEN, given), (_OF_WANTED, wanted))
        for name, operation in table.items() for colour in colours
    }


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
    "not": lambda a, b: np.where(a, 0, b),
    "xor": lambda a, b: np.where(a, np.where(b, 0, a), b),
    "nor": lambda a, b: (a | b) == 0,
}


def _box(grid: Grid, mask: np.ndarray) -> Grid | None:
    return grid[bounding_box(mask)] if mask.any() else None


def _labels(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    return _labels_of(mask.tobytes(), mask.shape, diagonal)


@lru_cache(256)  # several operations in a row ask the same
def _labels_of(mask: bytes, shape: tuple[int, int], diagonal: bool) -> np.ndarray:
    return components(np.frombuffer(mask, dtype=bool).reshape(shape), diagonal)


def _chosen(grid: Grid, largest: bool, diagonal: bool) -> np.ndarray | None:
    """The cells of the one largest or smallest shape, where there are several."""
    label = _labels(grid != 0, diagonal)
    cells = sizes(label)[1:]
    if len(cells) < 2:
        return None
    chosen = np.flatnonzero(cells == (cells.max() if largest else cells.min()))
    return label == chosen[0] + 1 if len(chosen) == 1 else None


def _shape(grid: Grid, how: str, largest: bool, diagonal: bool) -> Grid | None:
    mask = _chosen(grid, largest, diagonal)
    if mask is None:
        return None
    return grid[bounding_box(mask)] if how == "crop" else np.where(mask == (how == "keep"), grid, 0)


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


def _by_count(grid: Grid, rarest: bool) -> int | None:
    """The commonest or rarest colour but black, None where two are."""
    counts = np.bincount(grid.ravel(), minlength=COLOURS)[1:]
    present = counts[counts > 0]
    if not len(present):
        return None
    places = np.flatnonzero(counts == (present.min() if rarest else present.max()))
    return int(places[0]) + 1 if len(places) == 1 else None


def _keep_by_count(grid: Grid, rarest: bool) -> Grid | None:
    colour = _by_count(grid, rarest)
    return None if colour is None else np.where(grid == colour, grid, 0)


def _grounded(grid: Grid) -> Grid:
    """The commonest colour and black change places."""
    order = np.arange(COLOURS)
    commonest = np.bincount(grid.ravel()).argmax()
    order[[0, commonest]] = commonest, 0
    return order[grid]


def _swap(grid: Grid) -> Grid | None:
    colours = np.unique(grid)
    return colours.sum(dtype=np.uint8) - grid if len(colours) == 2 else None


# ----- with a colour

def _fill(grid: Grid, colour: int, diagonal: bool) -> Grid:
    """Black cells that do not reach the edge."""
    label = _labels(ringed(grid == 0, True), diagonal)[1:-1, 1:-1]
    return np.where(label > 1, colour, grid)


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


_SIDES = {"down": 0, "left": 1, "up": 2, "right": 3}

_PLAIN: dict[str, Operation] = {
    **{f"turn {element}": partial(dihedral, element=element) for element in range(1, 8)},
    "crop": lambda grid: _box(grid, grid != 0),
    **{f"{how} {'largest' if largest else 'smallest'}{' diagonal' * diagonal}":
       partial(_shape, how=how, largest=largest, diagonal=diagonal)
       for how in ("crop", "keep", "drop") for largest in (True, False) for diagonal in (True, False)},
    **{f"part {index} of {count} along {axis}": partial(_piece, count=count, axis=axis, index=index)
       for count in (2, 3) for axis in (0, 1) for index in range(count)},
    **{f"{name} of {count} along {axis}": partial(_overlay, rule=rule, count=count, axis=axis)
       for name, rule in _RULES.items() for count in (2, 3) for axis in (0, 1)},
    **{f"{name} {side}": _turned(operation, element)
       for name, operation in (("fall", _fall), ("smear", _smear)) for side, element in _SIDES.items()},
    "connect down": _connect, "connect across": _turned(_connect, 6), "connect": _connect_all,
    **{f"symmetrise {element}": partial(_symmetrise, element=element) for element in (2, 4, 5, 6, 7)},
    **{f"beside {element} along {axis}": partial(_beside, element=element, axis=axis)
       for element in (0, 2, 4, 5) for axis in (0, 1)},
    "thrice along 0": lambda grid: np.tile(grid, (3, 1)), "thrice along 1": lambda grid: np.tile(grid, (1, 3)),
    **{f"enlarge {factor}": partial(_enlarge, factor=factor) for factor in (2, 3, 4, 5)},
    "fractal": lambda grid: np.kron(grid != 0, grid), "shrink": _shrink,
    "without empty": _without_empty, "without lines": _without_lines,
    "without border": lambda grid: grid[1:-1, 1:-1], "edge doubled": lambda grid: np.pad(grid, 1, mode="edge"),
    "keep commonest": partial(_keep_by_count, rarest=False), "keep rarest": partial(_keep_by_count, rarest=True),
    "grounded": _grounded, "swap": _swap,
}
_OF_GIVEN = {
    "crop to": lambda grid, colour: _box(grid, grid == colour),
    "keep": lambda grid, colour: np.where(grid == colour, grid, 0),
    "erase": lambda grid, colour: np.where(grid == colour, 0, grid),
}
_OF_WANTED = {
    "fill": partial(_fill, diagonal=False), "fill diagonal": partial(_fill, diagonal=True),
    "outline": partial(_outline, diagonal=False), "outline diagonal": partial(_outline, diagonal=True),
    "interior": _interior,
    "border": lambda grid, colour: ringed(grid, colour),
}
