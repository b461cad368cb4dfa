"""Grid operations that programs are composed of: each makes a grid of a grid, or None where it does not apply.

Grids are uint8 [rows, cols]. Black (0) is the ground; shapes are connected cells that are not black. To add an
operation, write its function and name it in one of the groups at the end of this file, by what it needs and by what it
can do to a grid (see `Repertoire`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral
from hrm_offline.data.shapes import ringed
from hrm_offline.induction.features import enclosed, has_hole, neighbours, touches_edge
from hrm_offline.induction.parts import (
    MEASURES,
    Grid,
    Operation,
    box_of,
    crop_shape,
    extreme_of,
    labels_of,
    pieces_of,
    shapes_of,
)


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
            _TURNS | _FALLS | _ROLLS | _EACH_TURNED,
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


# ----- pieces and shapes of a grid


def _piece(grid: Grid, count: int, axis: int, index: int) -> Grid | None:
    """Return one of the equal parts."""
    pieces = pieces_of(grid, count, axis)
    return pieces and pieces[index]


def _overlay(grid: Grid, rule: Callable[[Grid, Grid], Grid], count: int, axis: int) -> Grid | None:
    """Lay the equal parts over one another by a rule."""
    pieces = pieces_of(grid, count, axis)
    return pieces and reduce(rule, pieces)


# How two grids of one shape become one.
_RULES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "over": lambda a, b: np.where(a, a, b),
    "under": lambda a, b: np.where(b, b, a),
    "and": lambda a, b: np.where(b, a, 0),
    "without": lambda a, b: np.where(b, 0, a),
    "xor": lambda a, b: np.where(a, np.where(b, 0, a), b),
}


def _each(grid: Grid, operation: Operation) -> Grid | None:
    """Apply an operation to the rectangle of every shape, in its place; None where that cannot be."""
    shapes = shapes_of(grid, diagonal=True)
    result = np.zeros_like(grid)
    for mask, box in shapes:
        piece = operation(np.where(mask[box], grid[box], 0))
        if piece is None or piece.shape != mask[box].shape:
            return None
        result[box] = np.where(piece, piece, result[box])
    return result if shapes else None


def _each_filled(grid: Grid, operation: Operation) -> Grid | None:
    """Fill black cells from the results of an operation on every shape."""
    result = _each(grid, operation)
    return None if result is None else np.where(grid, grid, result)


def _each_moved(grid: Grid, operation: Operation) -> Grid | None:
    """Apply an operation that only moves cells to every shape; None where two results overlap."""
    result = _each(grid, operation)
    return result if result is not None and np.count_nonzero(result) == np.count_nonzero(grid) else None


def _select_shapes(grid: Grid, keeps: bool, measure: str, most: bool, diagonal: bool) -> Grid | None:
    """Keep only the shapes whose measure is extreme, or erase them; None where all shapes share it."""
    mask = extreme_of(grid, measure, most, diagonal)
    return None if mask is None else np.where(mask == keeps, grid, 0)


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


def _shift(grid: Grid) -> Grid:
    """Move all cells down by one; the last row is lost."""
    return np.concatenate([np.zeros_like(grid[:1]), grid[:-1]])


def _roll(grid: Grid) -> Grid:
    """Move all cells down by one; the last row becomes the first."""
    return np.concatenate([grid[-1:], grid[:-1]])


def _shadow(grid: Grid) -> Grid:
    """Give black cells the colour of the cell above."""
    return np.where(grid, grid, _shift(grid))


def _diagonal_smear(grid: Grid) -> Grid:
    """Give black cells the colour of the next cell up and to the left that has one."""
    result = grid.copy()
    for row in range(1, len(grid)):
        before = np.concatenate([[0], result[row - 1, :-1]])
        result[row] = np.where(result[row], result[row], before)
    return result.astype(grid.dtype)


def _at_once(grid: Grid, operations: Sequence[Operation]) -> Grid:
    """Fill black cells from the results of several operations on the grid; of two, the first one's colour counts."""
    result = grid
    for operation in operations:
        result = np.where(result, result, operation(grid))
    return result


def _fill_own(grid: Grid) -> Grid:
    """Give enclosed black regions the colour of the shape around them; the largest colour of several."""
    label = labels_of(ringed(grid == 0, True), False)[1:-1, 1:-1]
    result = grid.copy()
    for number in np.unique(label[enclosed(grid) > 0]).tolist():
        mask = label == number
        result[mask] = grid[neighbours(mask, False) & ~mask].max()
    return result


def _box_filled(piece: Grid) -> Grid:
    """Fill black cells with the commonest other colour."""
    counts = np.bincount(piece.ravel(), minlength=COLOURS)
    counts[0] = 0
    return np.where(piece, piece, counts.argmax())


def _grow(grid: Grid, diagonal: bool) -> Grid:
    """Give the black cells beside coloured ones their colour; the largest of several."""
    wide = ringed(grid, 0)
    around = [wide[1:-1, 2:], wide[1:-1, :-2], wide[2:, 1:-1], wide[:-2, 1:-1]]
    if diagonal:
        around += [wide[2:, 2:], wide[:-2, :-2], wide[2:, :-2], wide[:-2, 2:]]
    return np.where(grid, grid, np.maximum.reduce(around))


def _hollow(grid: Grid) -> Grid:
    """Erase the cells that have no black cell and no edge beside them."""
    return np.where(_is_near_black(grid), grid, 0)


def _is_near_black(grid: Grid) -> Grid:
    """Return which cells have a black cell or the edge beside them, bool [rows, columns]."""
    return neighbours(ringed(grid == 0, True), True)[1:-1, 1:-1]


def _odd_piece(grid: Grid, count: int, axis: int, rule: str) -> Grid | None:
    """Return the equal part that stands out: unlike all others, or with the most or the least coloured cells."""
    pieces = pieces_of(grid, count, axis)
    if pieces is None:
        return None
    if rule == "unlike":
        measured = np.array([sum(np.array_equal(a, b) for b in pieces) for a in pieces])
        extreme = 1
    else:
        measured = np.array([np.count_nonzero(piece) for piece in pieces])
        extreme = measured.max() if rule == "most" else measured.min()
    chosen = np.flatnonzero(measured == extreme)
    return pieces[chosen[0]] if len(chosen) == 1 else None


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


def _commonest_cell(grid: Grid) -> Grid | None:
    """Return one cell of the commonest colour other than black; None where there is none."""
    return np.array([[np.bincount(grid[grid > 0]).argmax()]], dtype=np.uint8) if grid.any() else None


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
    return np.where(enclosed(grid), colour, grid)


def _outline(grid: Grid, colour: int, diagonal: bool) -> Grid:
    """Colour the black cells beside coloured ones."""
    return np.where((grid == 0) & neighbours(grid != 0, diagonal), colour, grid)


def _interior(grid: Grid, colour: int) -> Grid:
    """Colour the cells that have no black cell and no edge beside them."""
    return np.where(_is_near_black(grid), grid, colour)


# ----- the operations by name, in the order in which the search tries them

_SIDES = {"down": 0, "left": 1, "up": 2, "right": 3}  # the dihedral element that turns each side down
_TURNS: dict[str, Operation] = {f"turn {element}": partial(dihedral, element=element) for element in range(1, 8)}
_EACH_TURNED = {
    f"each turn {element}": partial(_each_moved, operation=partial(dihedral, element=element))
    for element in range(1, 8)
}
_ROLLS = {f"roll {side}": _turned(_roll, element) for side, element in _SIDES.items()}
_DIAGONAL_SMEARS = {f"diagonal smear {side}": _turned(_diagonal_smear, element) for side, element in _SIDES.items()}
_FALLS = {f"fall {side}": _turned(_fall, element) for side, element in _SIDES.items()}
_FILLING: dict[str, Operation] = {
    **{f"smear {side}": _turned(_smear, element) for side, element in _SIDES.items()},
    "connect down": _connect,
    "connect across": _turned(_connect, 6),
    "connect": _connect_all,
    **{f"symmetrise {element}": partial(_symmetrise, element=element) for element in (2, 4, 5, 6, 7)},
    "repeated": _repeated,
    **_DIAGONAL_SMEARS,
    "smear both ways": partial(_at_once, operations=[_smear, _turned(_smear, 2)]),
    "smear across": partial(_at_once, operations=[_turned(_smear, 1), _turned(_smear, 3)]),
    "smear all ways": partial(_at_once, operations=[_turned(_smear, element) for element in range(4)]),
    "smear diagonals": partial(_at_once, operations=list(_DIAGONAL_SMEARS.values())),
    **{f"shadow {side}": _turned(_shadow, element) for side, element in _SIDES.items()},
    "fill own": _fill_own,
    "grow": partial(_grow, diagonal=False),
    "grow diagonal": partial(_grow, diagonal=True),
    "each filled": partial(_each_filled, operation=_box_filled),
    **{
        f"each symmetrise {element}": partial(_each_filled, operation=partial(_symmetrise, element=element))
        for element in (2, 4, 5)
    },
}
_ERASING: dict[str, Operation] = {
    "keep commonest": partial(_keep_colour, rarest=False),
    "keep rarest": partial(_keep_colour, rarest=True),
    "hollow": _hollow,
    "keep at edge": lambda grid: np.where(touches_edge(grid), grid, 0),
    "drop at edge": lambda grid: np.where(touches_edge(grid), 0, grid),
    "keep with hole": lambda grid: np.where(has_hole(grid), grid, 0),
    "drop with hole": lambda grid: np.where(has_hole(grid), 0, grid),
    **{
        f"{'keep' if keeps else 'drop'} {'most' if most else 'least'} {measure}{' diagonal' * diagonal}": partial(
            _select_shapes, keeps=keeps, measure=measure, most=most, diagonal=diagonal
        )
        for keeps in (True, False)
        for measure in ("cells", "colours", "alike", "symmetries")
        for most in (True, False)
        for diagonal in (True, False)
    },
}
_FREE: dict[str, Operation] = {
    "grounded": _grounded,
    "swap": _swap,
    **{f"shift {side}": _turned(_shift, element) for side, element in _SIDES.items()},
}
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
    "crop": lambda grid: box_of(grid, grid != 0),
    "commonest cell": _commonest_cell,
    **{
        f"crop {'most' if most else 'least'} {measure}{' diagonal' * diagonal}": partial(
            crop_shape, measure=measure, most=most, diagonal=diagonal
        )
        for measure in MEASURES
        for most in (True, False)
        for diagonal in (True, False)
    },
    **{
        f"{rule} of {count} along {axis}": partial(_odd_piece, count=count, axis=axis, rule=rule)
        for rule in ("unlike", "most", "least")
        for count in (2, 3, 4, 5)
        for axis in (0, 1)
        if (rule, count) != ("unlike", 2)  # either both are unlike, or none
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
_CROPPING_OF_GIVEN = {"crop to": lambda grid, colour: box_of(grid, grid == colour)}
_FRAMING_OF_WANTED = {"border": lambda grid, colour: ringed(grid, colour)}
