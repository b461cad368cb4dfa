"""Families of made-up tasks, for variety in pretraining: one idea each, drawn anew for every task.

A family draws what all pairs of a task share (colours, directions, sizes) and returns a function that draws
one pair. Task `i` of a seed is always the same, so a set is named by its size alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import dihedral
from hrm_offline.data.shapes import bounding_box, components, sizes
from hrm_offline.data.tasks import Pair, Task

Rng = np.random.Generator
Draw = Callable[[], tuple[np.ndarray, np.ndarray]]

_BLACK = 0
_DEMONSTRATIONS = (3, 5)
_MAX_TRIES = 50  # of a pair before a task is drawn anew
_MIN_ROOM = 5  # what a family needs so that its grids differ


def synthetic_tasks(count: int, max_side: int, seed: int = 0, families: tuple[str, ...] = ()) -> tuple[Task, ...]:
    """`count` tasks whose grids have sides of at most `max_side`, the named families (by default all) in turn; the
    first of a larger set are those of a smaller one. Raises `InputError` where there is no room for some family."""
    if max_side < _MIN_ROOM:
        raise InputError(f"made-up tasks are to have sides of at most {max_side}, expected {_MIN_ROOM} or more")
    names = families or tuple(FAMILIES)
    drawn = (names[i % len(names)] for i in range(count))
    return tuple(_task(name, FAMILIES[name], i, max_side, seed) for i, name in enumerate(drawn))


def _task(name: str, family: Callable[[Rng, int], Draw], number: int, max_side: int, seed: int) -> Task:
    """Draws again until a task says something: distinct inputs, and not every output its input or the same."""
    rng = np.random.default_rng([seed, number])
    while True:
        wanted = int(rng.integers(_DEMONSTRATIONS[0], _DEMONSTRATIONS[1] + 1)) + 1
        pairs = _distinct_pairs(family(rng, max_side), wanted, max_side)
        outputs = {pair.output.tobytes() + bytes(pair.output.shape) for pair in pairs}
        changed = any(not np.array_equal(pair.input, pair.output) for pair in pairs)
        if len(pairs) == wanted and changed and len(outputs) > 1:
            return Task(f"synthetic-{name}-{number}", tuple(pairs[:-1]), tuple(pairs[-1:]))


def _distinct_pairs(draw: Draw, wanted: int, max_side: int) -> list[Pair]:
    found: dict[bytes, Pair] = {}
    for _ in range(_MAX_TRIES):
        given, answer = (np.ascontiguousarray(grid, dtype=np.uint8) for grid in draw())
        if len(found) < wanted and max(*given.shape, *answer.shape) <= max_side:
            found.setdefault(given.tobytes() + bytes(given.shape), Pair(given, answer))
    return list(found.values())


# ----- what families are made of


def _shape(rng: Rng, max_side: int, low: int = 3) -> tuple[int, int]:
    """Rows and columns, often equal."""
    rows, cols = rng.integers(low, max(low, max_side) + 1, 2)
    return (rows, rows) if rng.random() < 0.5 else (rows, cols)


def _colours(rng: Rng, count: int) -> np.ndarray:
    """Distinct colours, none of them black."""
    return rng.choice(np.arange(1, COLOURS), count, replace=False)


def _noise(rng: Rng, shape: tuple[int, int], colours, density: float) -> np.ndarray:
    """Black with single cells of the colours."""
    return np.where(rng.random(shape) < density, rng.choice(colours, shape), _BLACK)


def _pattern(rng: Rng, side: int, colours) -> np.ndarray:
    """A square of the colours without black, or with."""
    return rng.choice(colours, (side, side)) if rng.random() < 0.5 else _noise(rng, (side, side), colours, 0.6)


def _place_shapes(rng: Rng, shape: tuple[int, int], colours, count: int, side: int = 3) -> np.ndarray:
    """Black with up to `count` connected shapes that do not touch, each of one colour."""
    grid = np.zeros(shape, dtype=np.int64)
    for _ in range(count):
        piece = _blob(rng, rng.integers(1, min(side, *shape) + 1, 2)) * rng.choice(colours)
        top, left = (rng.integers(0, limit - size + 1) for limit, size in zip(shape, piece.shape))
        around = grid[max(0, top - 1) : top + piece.shape[0] + 1, max(0, left - 1) : left + piece.shape[1] + 1]
        if not around.any():
            grid[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    return grid


def _blob(rng: Rng, sides) -> np.ndarray:
    """A connected shape that fills a rectangle's rows and columns more or less, as 0 and 1."""
    cells = rng.random(sides) < 0.7
    cells[rng.integers(sides[0]), rng.integers(sides[1])] = True
    label = components(cells)
    return (label == np.bincount(label[label > 0]).argmax()).astype(np.int64)


# ----- families: whole grids


def recolour(rng: Rng, max_side: int) -> Draw:
    """Some colours become others."""
    colours = _colours(rng, 4)
    mapping = np.arange(COLOURS)
    changed = rng.integers(1, 4)
    mapping[colours[:changed]] = rng.permutation(np.arange(1, COLOURS))[:changed]

    def draw():
        grid = _noise(rng, _shape(rng, max_side), colours, 0.7)
        return grid, mapping[grid]

    return draw


def transform(rng: Rng, max_side: int) -> Draw:
    """The grid is turned or mirrored."""
    element, colours = int(rng.integers(1, 8)), _colours(rng, 3)

    def draw():
        grid = _noise(rng, _shape(rng, max_side), colours, 0.6)
        return grid, dihedral(grid, element)

    return draw


def enlarge(rng: Rng, max_side: int) -> Draw:
    """Every cell becomes a block."""
    factor, colours = int(rng.integers(2, 4)), _colours(rng, 3)

    def draw():
        grid = _noise(rng, _shape(rng, max(2, max_side // factor), 2), colours, 0.7)
        return grid, np.kron(grid, np.ones((factor, factor), dtype=np.int64))

    return draw


def tile(rng: Rng, max_side: int) -> Draw:
    """Copies side by side, each mirrored in a way of its own."""
    rows, cols = ((1, 2), (2, 1), (2, 2), (3, 3))[rng.integers(4)]
    elements, colours = rng.choice([0, 2, 4, 5], (rows, cols)), _colours(rng, 3)

    def draw():
        grid = _noise(rng, _shape(rng, max(2, max_side // max(rows, cols)), 2), colours, 0.7)
        return grid, np.block([[dihedral(grid, int(element)) for element in row] for row in elements])

    return draw


def fractal(rng: Rng, max_side: int) -> Draw:
    """The grid is drawn again in place of each of its coloured (or each of its black) cells."""
    colour, inverted = _colours(rng, 1), rng.random() < 0.3
    side = 3 if max_side >= 9 else 2

    def draw():
        grid = _noise(rng, (side, side), colour, 0.5)
        return grid, np.kron((grid == _BLACK) if inverted else (grid != _BLACK), grid)

    return draw


def shift(rng: Rng, max_side: int) -> Draw:
    """Everything moves by so many cells; what leaves on one side comes back on the other, or is lost."""
    by, around, colours = rng.integers(-2, 3, 2), rng.random() < 0.5, _colours(rng, 3)

    def draw():
        grid = _noise(rng, _shape(rng, max_side), colours, 0.4)
        moved = np.roll(grid, by, (0, 1))
        if not around:
            for axis, steps in enumerate(by):
                lost = slice(None, steps) if steps > 0 else slice(steps, None) if steps else slice(0)
                np.moveaxis(moved, axis, 0)[lost] = _BLACK
        return grid, moved

    return draw


def fall(rng: Rng, max_side: int) -> Draw:
    """Coloured cells fall to one side and pile up."""
    element, colours = int(rng.integers(4)), _colours(rng, 3)

    def draw():
        grid = _noise(rng, _shape(rng, max_side), colours, 0.4)
        fallen = np.zeros_like(grid)
        for column, kept in zip(fallen.T, grid.T):
            pile = kept[kept != _BLACK]
            column[len(column) - len(pile) :] = pile
        return dihedral(grid, element), dihedral(fallen, element)

    return draw


def symmetrise(rng: Rng, max_side: int) -> Draw:
    """One half is given, the other is to be its mirror image."""
    element, colours = int(rng.integers(4)), _colours(rng, 3)

    def draw():
        rows, cols = _shape(rng, max_side)
        half = _noise(rng, (rows, cols // 2), colours, 0.5)
        middle = _noise(rng, (rows, cols % 2), colours, 0.5)
        given = np.hstack([half, middle, np.zeros_like(half)])
        return dihedral(given, element), dihedral(np.hstack([half, middle, half[:, ::-1]]), element)

    return draw


def repair(rng: Rng, max_side: int) -> Draw:
    """A repeating pattern has a hole of one colour, which is to be filled."""
    hole, *colours = _colours(rng, 5)

    def draw():
        shape = _shape(rng, max_side, 5)
        unit = rng.choice(colours, rng.integers(2, 4, 2))
        answer = np.tile(unit, (max_side, max_side))[: shape[0], : shape[1]]
        given, (top, left) = answer.copy(), (rng.integers(0, side - 1) for side in shape)
        given[top : top + rng.integers(1, 4), left : left + rng.integers(1, 4)] = hole
        return given, answer

    return draw


# ----- families: two parts against one another


def overlay(rng: Rng, max_side: int) -> Draw:
    """Two halves beside a line: the answer shows where both, either, one or none of them is coloured."""
    first, second, line, marked = _colours(rng, 4)
    rule = (np.logical_and, np.logical_or, np.logical_xor, lambda a, b: ~(a | b))[rng.integers(4)]
    beside, has_line = rng.random() < 0.5, rng.random() < 0.7

    def draw():
        shape = _shape(rng, max(2, (max_side - 1) // 2), 2)
        one, other = (rng.random(shape) < 0.5 for _ in range(2))
        wall = np.full((shape[0], int(has_line)), line)
        given = np.hstack([one * first, wall, other * second])
        answer = rule(one, other) * marked
        return (given, answer) if beside else (given.T, answer.T)

    return draw


def stack(rng: Rng, max_side: int) -> Draw:
    """Two halves laid over one another; where both are coloured the first one shows."""
    colours, beside = _colours(rng, 2), rng.random() < 0.5

    def draw():
        shape = _shape(rng, max(2, max_side // 2), 2)
        one, other = (_noise(rng, shape, [colour], 0.5) for colour in colours)
        given, answer = np.hstack([one, other]), np.where(one, one, other)
        return (given, answer) if beside else (given.T, answer.T)

    return draw


def half(rng: Rng, max_side: int) -> Draw:
    """One half, or quarter, of the grid."""
    element, quarter, colours = int(rng.integers(4)), rng.random() < 0.5, _colours(rng, 3)

    def draw():
        rows, cols = (2 * side for side in _shape(rng, max(2, max_side // 2), 2))
        grid = _noise(rng, (rows, cols), colours, 0.6)
        part = grid[: rows // 2, : cols // 2] if quarter else grid[: rows // 2]
        return dihedral(grid, element), dihedral(part, element)

    return draw


# ----- families: lines


def rays(rng: Rng, max_side: int) -> Draw:
    """From each coloured cell a line to the edge, in given directions; the cell may keep another colour."""
    colour, line = _colours(rng, 2) if rng.random() < 0.5 else np.repeat(_colours(rng, 1), 2)
    steps = np.array([(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
    chosen = steps[rng.choice(8, rng.integers(1, 3), replace=False)] if rng.random() < 0.7 else steps[:4]

    def draw():
        grid = np.zeros(_shape(rng, max_side, 4), dtype=np.int64)
        for _ in range(rng.integers(1, 3)):
            grid[tuple(rng.integers(0, grid.shape))] = colour
        answer = grid.copy()
        for row, col in np.argwhere(grid):
            for step in chosen:
                at = np.array([row, col]) + step
                while ((at >= 0) & (at < grid.shape)).all():
                    answer[tuple(at)] = line if grid[tuple(at)] == _BLACK else colour
                    at = at + step
        return grid, answer

    return draw


def connect(rng: Rng, max_side: int) -> Draw:
    """Cells of one colour in the same row (or column, or both) are joined by a line."""
    colour, line = _colours(rng, 2) if rng.random() < 0.5 else np.repeat(_colours(rng, 1), 2)
    axes = ((0,), (1,), (0, 1))[rng.integers(3)]

    def draw():
        grid = _noise(rng, _shape(rng, max_side, 4), [colour], 0.15)
        answer = grid.copy()
        for axis in axes:
            between = np.ones_like(grid, dtype=bool)
            for turned in (grid, np.flip(grid, axis)):
                seen = np.cumsum(turned != _BLACK, axis) > 0
                between &= seen if turned is grid else np.flip(seen, axis)
            answer[between & (grid == _BLACK)] = line
        return grid, answer

    return draw


def cross_lines(rng: Rng, max_side: int) -> Draw:
    """Whole rows or columns take the colour of a cell at their end, or of the single cell in them."""
    colours, at_edge, axis = _colours(rng, 3), rng.random() < 0.5, int(rng.integers(2))

    def draw():
        rows, cols = _shape(rng, max_side)
        grid = np.zeros((rows, cols), dtype=np.int64)
        for row in np.flatnonzero(rng.random(rows) < 0.4):
            grid[row, 0 if at_edge else rng.integers(cols)] = rng.choice(colours)
        answer = np.tile(grid.max(1, keepdims=True), (1, cols))
        return (grid, answer) if axis else (grid.T, answer.T)

    return draw


def border(rng: Rng, max_side: int) -> Draw:
    """A frame along the edge, inside the grid or around it."""
    frame, *colours = _colours(rng, 3)
    around = rng.random() < 0.5

    def draw():
        grid = _noise(rng, _shape(rng, max_side - 2 * around), colours, 0.4)
        if around:
            return grid, np.pad(grid, 1, constant_values=frame)
        answer = np.full_like(grid, frame)
        answer[1:-1, 1:-1] = grid[1:-1, 1:-1]
        return grid, answer

    return draw


# ----- families: objects


def crop(rng: Rng, max_side: int) -> Draw:
    """The rectangle around all that is coloured, or around one colour of two."""
    colours, wanted = _colours(rng, 2), rng.random() < 0.5

    def draw():
        grid = _place_shapes(rng, _shape(rng, max_side, 4), colours[:1], 1, 4)
        if wanted:
            other = _place_shapes(rng, grid.shape, colours[1:], 3, 2)
            grid = np.where(grid == _BLACK, other, grid)
        return grid, grid[bounding_box(grid == colours[0] if (grid == colours[0]).any() else grid > 0)]

    return draw


def fill_holes(rng: Rng, max_side: int) -> Draw:
    """What lines of a colour enclose is filled with another."""
    wall, filling = _colours(rng, 2)

    def draw():
        grid = np.zeros(_shape(rng, max_side, 5), dtype=np.int64)
        for _ in range(rng.integers(1, 4)):
            top, left = (rng.integers(0, side - 2) for side in grid.shape)
            height, width = (rng.integers(3, min(6, side - at) + 1) for side, at in zip(grid.shape, (top, left)))
            grid[top : top + height, left : left + width] = wall
            grid[top + 1 : top + height - 1, left + 1 : left + width - 1] = _BLACK
        outside = components(np.pad(grid == _BLACK, 1, constant_values=True))[1:-1, 1:-1]
        return grid, np.where((grid == _BLACK) & (outside != 1), filling, grid)

    return draw


def outline(rng: Rng, max_side: int) -> Draw:
    """Every coloured cell gets neighbours of a colour: all eight, the four beside it, or the four diagonal ones."""
    colour, ring = _colours(rng, 2)
    near = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]
    near = (near, [n for n in near if 0 in n], [n for n in near if 0 not in n])[rng.integers(3)]

    def draw():
        grid = np.zeros(_shape(rng, max_side, 4), dtype=np.int64)
        for _ in range(rng.integers(1, 4)):
            grid[tuple(rng.integers(0, grid.shape))] = colour
        padded, answer = np.pad(grid, 1), grid.copy()
        for step in near:
            answer[(np.roll(padded, step, (0, 1))[1:-1, 1:-1] > 0) & (grid == _BLACK)] = ring
        return grid, answer

    return draw


def by_size(rng: Rng, max_side: int) -> Draw:
    """The largest (or smallest) shape is marked, or the only one that stays."""
    colour, mark = _colours(rng, 2)
    largest, keeps = rng.random() < 0.6, rng.random() < 0.5

    def draw():
        while True:
            grid = _place_shapes(rng, _shape(rng, max_side, 5), [colour], 5)
            label = components(grid > 0)
            cells = sizes(label)[1:]
            if len(cells) > 1 and np.sum(cells == (cells.max() if largest else cells.min())) == 1:
                break
        found = label == 1 + (cells.argmax() if largest else cells.argmin())
        return grid, np.where(found, colour if keeps else mark, _BLACK if keeps else grid)

    return draw


def colour_by_count(rng: Rng, max_side: int) -> Draw:
    """Each shape takes the colour that stands for its number of cells."""
    given, *names = _colours(rng, 5)

    def draw():
        grid = _place_shapes(rng, _shape(rng, max_side, 4), [given], 6, 2)
        label = components(grid > 0)
        return grid, np.array([_BLACK, *names])[sizes(label)][label]

    return draw


def denoise(rng: Rng, max_side: int) -> Draw:
    """Single cells vanish, larger shapes stay; or the other way round."""
    colours, keeps_single = _colours(rng, 2), rng.random() < 0.3

    def draw():
        grid = _place_shapes(rng, _shape(rng, max_side, 5), colours, 6)
        label = components(grid > 0)
        single = sizes(label)[label] == 1
        return grid, np.where(single == keeps_single, grid, _BLACK)

    return draw


def stamp(rng: Rng, max_side: int) -> Draw:
    """A fixed small pattern is drawn around every marked cell."""
    colour, *colours = _colours(rng, 4)
    pattern = _pattern(rng, 3, colours)

    def draw():
        grid = np.zeros(_shape(rng, max_side, 5), dtype=np.int64)
        answer = grid.copy()
        for _ in range(rng.integers(1, 4)):
            row, col = (rng.integers(1, side - 1) for side in grid.shape)
            if not answer[row - 1 : row + 2, col - 1 : col + 2].any():
                grid[row, col] = colour
                answer[row - 1 : row + 2, col - 1 : col + 2] = pattern
        return grid, answer

    return draw


def commonest(rng: Rng, max_side: int) -> Draw:
    """The colour that occurs most: a single cell of it, or the whole grid in it, or all others gone."""
    colours, form = _colours(rng, 4), rng.integers(3)

    def draw():
        while True:
            grid = rng.choice(colours, _shape(rng, max_side, 2))
            counts = np.bincount(grid.ravel())
            if np.sum(counts == counts.max()) == 1:
                break
        most = counts.argmax()
        forms = (np.full((1, 1), most), np.full_like(grid, most), np.where(grid == most, grid, _BLACK))
        return grid, forms[form]

    return draw


FAMILIES: dict[str, Callable[[Rng, int], Draw]] = {
    family.__name__: family
    for family in (
        recolour,
        transform,
        enlarge,
        tile,
        fractal,
        shift,
        fall,
        symmetrise,
        repair,
        overlay,
        stack,
        half,
        rays,
        connect,
        cross_lines,
        border,
        crop,
        fill_holes,
        outline,
        by_size,
        colour_by_count,
        denoise,
        stamp,
        commonest,
    )
}
