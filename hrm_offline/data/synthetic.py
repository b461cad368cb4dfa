"""Families of made-up tasks, for variety in pretraining: one idea each, drawn anew for every task.

A family is a function of a random generator and of the largest side that a grid may have. It draws what all pairs of a
task share (colours, directions, sizes), and returns a function that draws one pair. Its docstring says how the output
follows from the input.

Task i of a set depends on (seed, i), on its family and on the largest side alone. The set "synthetic-N" takes the
families of the first generation in turn, so its tasks stay the same when a family is added. A new family comes by name,
as "synthetic-N-only-NAME" beside other sets. To add a family, write its function here under `@family`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.drawing import BLACK, Rng, draw_colours, draw_noise, draw_shape, place_shapes
from hrm_offline.data.grids import dihedral
from hrm_offline.data.shapes import bounding_box, components, sizes
from hrm_offline.data.tasks import Pair, Task

Draw = Callable[[], tuple[np.ndarray, np.ndarray]]
Family = Callable[[Rng, int], Draw]

FAMILIES: dict[str, Family] = {}

# The families of "synthetic-N" in the order of their turns. Never change it: an artifact names the tasks that it was
# pretrained on by the name of their set.
FIRST_GENERATION = (
    "recolour",
    "transform",
    "enlarge",
    "tile",
    "fractal",
    "shift",
    "fall",
    "symmetrise",
    "repair",
    "overlay",
    "stack",
    "half",
    "rays",
    "connect",
    "cross_lines",
    "border",
    "crop",
    "fill_holes",
    "outline",
    "by_size",
    "colour_by_count",
    "denoise",
    "stamp",
    "commonest",
)

_DEMONSTRATIONS = (3, 5)  # at least and at most
_PAIR_DRAWS = 50  # of a task, among which enough must be distinct
_MAX_TASK_DRAWS = 1000  # before a family is given up
_MIN_ROOM = 5  # the side that a family needs so that its grids differ


def family(function: Family) -> Family:
    """Register a family by its function's name. Raises `ValueError` where the name is taken."""
    if function.__name__ in FAMILIES:
        raise ValueError(f"there is a family '{function.__name__}' already")
    FAMILIES[function.__name__] = function
    return function


def synthetic_tasks(
    count: int, max_side: int, seed: int = 0, families: tuple[str, ...] = FIRST_GENERATION
) -> tuple[Task, ...]:
    """Return `count` tasks of the named families in turn, whose grids have sides of at most `max_side`.

    The first tasks of a larger set are those of a smaller one. Raises `InputError` where `max_side` leaves no room, or
    a family draws no task that says something.
    """
    if max_side < _MIN_ROOM:
        raise InputError(f"made-up tasks are to have sides of at most {max_side}, expected {_MIN_ROOM} or more")
    return tuple(_task(families[i % len(families)], i, max_side, seed) for i in range(count))


def _task(name: str, number: int, max_side: int, seed: int) -> Task:
    """Draw until a task says something: its inputs differ, its outputs differ, and one of them is not its input."""
    rng = np.random.default_rng([seed, number])
    for _ in range(_MAX_TASK_DRAWS):
        wanted = int(rng.integers(_DEMONSTRATIONS[0], _DEMONSTRATIONS[1] + 1)) + 1
        pairs = _distinct_pairs(FAMILIES[name](rng, max_side), wanted, max_side)
        outputs = {pair.output.tobytes() + bytes(pair.output.shape) for pair in pairs}
        changed = any(not np.array_equal(pair.input, pair.output) for pair in pairs)
        if len(pairs) == wanted and changed and len(outputs) > 1:
            return Task(f"synthetic-{name}-{number}", tuple(pairs[:-1]), tuple(pairs[-1:]))
    raise InputError(
        f"family '{name}': drew no task with distinct inputs and outputs of sides of at most {max_side} "
        f"in {_MAX_TASK_DRAWS} draws"
    )


def _distinct_pairs(draw: Draw, wanted: int, max_side: int) -> list[Pair]:
    """Return up to `wanted` pairs whose inputs differ and whose grids are small enough.

    There are always `_PAIR_DRAWS` draws, also when enough pairs are found, because the next draws depend on that.
    """
    found: dict[bytes, Pair] = {}
    for _ in range(_PAIR_DRAWS):
        given, answer = (np.ascontiguousarray(grid, dtype=np.uint8) for grid in draw())
        if len(found) < wanted and max(*given.shape, *answer.shape) <= max_side:
            found.setdefault(given.tobytes() + bytes(given.shape), Pair(given, answer))
    return list(found.values())


# ----- what families are made of


def _pattern(rng: Rng, side: int, colours) -> np.ndarray:
    """Draw a square of the colours, half of the time with black among them."""
    if rng.random() < 0.5:
        return rng.choice(colours, (side, side))
    return draw_noise(rng, (side, side), colours, 0.6)


def _colour_and_line(rng: Rng) -> np.ndarray:
    """Draw the colour of cells and the colour of the lines from them, half of the time the same."""
    return draw_colours(rng, 2) if rng.random() < 0.5 else np.repeat(draw_colours(rng, 1), 2)


def _dots(rng: Rng, shape: tuple[int, int], colour: int, most: int) -> np.ndarray:
    """Draw a black grid with 1 to `most` cells of a colour."""
    grid = np.zeros(shape, dtype=np.int64)
    for _ in range(rng.integers(1, most + 1)):
        grid[tuple(rng.integers(0, grid.shape))] = colour
    return grid


# ----- families: whole grids


@family
def recolour(rng: Rng, max_side: int) -> Draw:
    """Some colours become others."""
    colours = draw_colours(rng, 4)
    becomes = np.arange(COLOURS)
    changed = rng.integers(1, 4)
    becomes[colours[:changed]] = rng.permutation(np.arange(1, COLOURS))[:changed]

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max_side), colours, 0.7)
        return grid, becomes[grid]

    return draw


@family
def transform(rng: Rng, max_side: int) -> Draw:
    """The grid is turned or mirrored."""
    element, colours = int(rng.integers(1, 8)), draw_colours(rng, 3)

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max_side), colours, 0.6)
        return grid, dihedral(grid, element)

    return draw


@family
def enlarge(rng: Rng, max_side: int) -> Draw:
    """Every cell becomes a block."""
    factor, colours = int(rng.integers(2, 4)), draw_colours(rng, 3)

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max(2, max_side // factor), 2), colours, 0.7)
        return grid, np.kron(grid, np.ones((factor, factor), dtype=np.int64))

    return draw


@family
def tile(rng: Rng, max_side: int) -> Draw:
    """Copies of the grid stand side by side, each mirrored along no axis, one or both."""
    rows, cols = ((1, 2), (2, 1), (2, 2), (3, 3))[rng.integers(4)]
    elements = rng.choice([0, 2, 4, 5], (rows, cols))  # those that keep the grid's sides
    colours = draw_colours(rng, 3)
    largest = max(2, max_side // max(rows, cols))

    def draw():
        grid = draw_noise(rng, draw_shape(rng, largest, 2), colours, 0.7)
        return grid, np.block([[dihedral(grid, int(element)) for element in row] for row in elements])

    return draw


@family
def fractal(rng: Rng, max_side: int) -> Draw:
    """A copy of the grid stands in place of each of its coloured cells (or each of its black cells)."""
    colour, inverted = draw_colours(rng, 1), rng.random() < 0.3
    side = 3 if max_side >= 9 else 2

    def draw():
        grid = draw_noise(rng, (side, side), colour, 0.5)
        copied = (grid == BLACK) if inverted else (grid != BLACK)
        return grid, np.kron(copied, grid)

    return draw


@family
def shift(rng: Rng, max_side: int) -> Draw:
    """Everything moves by some cells; cells that leave on one side come back on the other, or are lost."""
    down, right = rng.integers(-2, 3, 2)
    around, colours = rng.random() < 0.5, draw_colours(rng, 3)

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max_side), colours, 0.4)
        moved = np.roll(grid, (down, right), (0, 1))
        if not around:
            moved[_came_around(down)] = BLACK
            moved[:, _came_around(right)] = BLACK
        return grid, moved

    return draw


def _came_around(steps: int) -> slice:
    """Return the lines that come back on the other side when a grid is rolled by so many steps."""
    if steps < 0:
        return slice(steps, None)
    return slice(0, steps)


@family
def fall(rng: Rng, max_side: int) -> Draw:
    """Coloured cells fall to one side and pile up."""
    element, colours = int(rng.integers(4)), draw_colours(rng, 3)

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max_side), colours, 0.4)
        fallen = np.zeros_like(grid)
        for column, kept in zip(fallen.T, grid.T):
            pile = kept[kept != BLACK]
            column[len(column) - len(pile) :] = pile
        return dihedral(grid, element), dihedral(fallen, element)

    return draw


@family
def symmetrise(rng: Rng, max_side: int) -> Draw:
    """One half is given, the other becomes its mirror image."""
    element, colours = int(rng.integers(4)), draw_colours(rng, 3)

    def draw():
        rows, cols = draw_shape(rng, max_side)
        half = draw_noise(rng, (rows, cols // 2), colours, 0.5)
        middle = draw_noise(rng, (rows, cols % 2), colours, 0.5)  # no column where the number of columns is even
        given = np.hstack([half, middle, np.zeros_like(half)])
        answer = np.hstack([half, middle, half[:, ::-1]])
        return dihedral(given, element), dihedral(answer, element)

    return draw


@family
def repair(rng: Rng, max_side: int) -> Draw:
    """A repeating pattern has a hole of one colour; the hole is filled."""
    hole, *colours = draw_colours(rng, 5)

    def draw():
        rows, cols = draw_shape(rng, max_side, 5)
        unit = rng.choice(colours, rng.integers(2, 4, 2))
        answer = np.tile(unit, (max_side, max_side))[:rows, :cols]
        top, left = rng.integers(0, rows - 1), rng.integers(0, cols - 1)
        height, width = rng.integers(1, 4), rng.integers(1, 4)
        given = answer.copy()
        given[top : top + height, left : left + width] = hole
        return given, answer

    return draw


# ----- families: two parts against one another


@family
def overlay(rng: Rng, max_side: int) -> Draw:
    """Two halves become one, which marks the cells where both, at least one, exactly one or none of them is coloured.

    The halves stand side by side or one above the other, maybe with a line between them.
    """
    first, second, line, marked = draw_colours(rng, 4)
    rules = (np.logical_and, np.logical_or, np.logical_xor, lambda a, b: ~(a | b))
    rule = rules[rng.integers(len(rules))]
    beside, has_line = rng.random() < 0.5, rng.random() < 0.7
    largest = max(2, (max_side - 1) // 2)

    def draw():
        shape = draw_shape(rng, largest, 2)
        one, other = (rng.random(shape) < 0.5 for _ in range(2))
        between = np.full((shape[0], int(has_line)), line)
        given = np.hstack([one * first, between, other * second])
        answer = rule(one, other) * marked
        return (given, answer) if beside else (given.T, answer.T)

    return draw


@family
def stack(rng: Rng, max_side: int) -> Draw:
    """Two halves are laid over one another; where both are coloured the first half shows."""
    colours, beside = draw_colours(rng, 2), rng.random() < 0.5

    def draw():
        shape = draw_shape(rng, max(2, max_side // 2), 2)
        one, other = (draw_noise(rng, shape, [colour], 0.5) for colour in colours)
        given, answer = np.hstack([one, other]), np.where(one, one, other)
        return (given, answer) if beside else (given.T, answer.T)

    return draw


@family
def half(rng: Rng, max_side: int) -> Draw:
    """One half, or one quarter, of the grid stays."""
    element, quarter, colours = int(rng.integers(4)), rng.random() < 0.5, draw_colours(rng, 3)

    def draw():
        rows, cols = draw_shape(rng, max(2, max_side // 2), 2)
        grid = draw_noise(rng, (2 * rows, 2 * cols), colours, 0.6)
        part = grid[:rows, :cols] if quarter else grid[:rows]
        return dihedral(grid, element), dihedral(part, element)

    return draw


# ----- families: lines


@family
def rays(rng: Rng, max_side: int) -> Draw:
    """Lines go from each coloured cell to the edge, in one or two directions or in the four along rows and columns."""
    colour, line = _colour_and_line(rng)
    steps = np.array([(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
    chosen = steps[rng.choice(8, rng.integers(1, 3), replace=False)] if rng.random() < 0.7 else steps[:4]

    def draw():
        grid = _dots(rng, draw_shape(rng, max_side, 4), colour, 2)
        answer = grid.copy()
        for start in np.argwhere(grid):
            for step in chosen:
                cell = start + step
                while ((cell >= 0) & (cell < grid.shape)).all():
                    if grid[tuple(cell)] == BLACK:
                        answer[tuple(cell)] = line
                    cell = cell + step
        return grid, answer

    return draw


@family
def connect(rng: Rng, max_side: int) -> Draw:
    """Cells of one colour in the same row (or column, or both) are joined by a line."""
    colour, line = _colour_and_line(rng)
    axes = ((0,), (1,), (0, 1))[rng.integers(3)]

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max_side, 4), [colour], 0.15)
        is_coloured = grid != BLACK
        answer = grid.copy()
        for axis in axes:
            before = np.logical_or.accumulate(is_coloured, axis)  # is there a coloured cell, here or before?
            after = np.flip(np.logical_or.accumulate(np.flip(is_coloured, axis), axis), axis)
            answer[before & after & ~is_coloured] = line
        return grid, answer

    return draw


@family
def cross_lines(rng: Rng, max_side: int) -> Draw:
    """Whole rows (or columns) take the colour of a cell at their start, or of the single cell in them."""
    colours, at_start, across = draw_colours(rng, 3), rng.random() < 0.5, int(rng.integers(2))

    def draw():
        rows, cols = draw_shape(rng, max_side)
        grid = np.zeros((rows, cols), dtype=np.int64)
        for row in np.flatnonzero(rng.random(rows) < 0.4):
            colour = rng.choice(colours)
            grid[row, 0 if at_start else rng.integers(cols)] = colour
        answer = np.tile(grid.max(1, keepdims=True), (1, cols))
        return (grid, answer) if across else (grid.T, answer.T)

    return draw


@family
def border(rng: Rng, max_side: int) -> Draw:
    """The grid gets a frame: along its edge, or around it."""
    frame, *colours = draw_colours(rng, 3)
    around = rng.random() < 0.5

    def draw():
        grid = draw_noise(rng, draw_shape(rng, max_side - 2 * around), colours, 0.4)
        if around:
            return grid, np.pad(grid, 1, constant_values=frame)
        answer = np.full_like(grid, frame)
        answer[1:-1, 1:-1] = grid[1:-1, 1:-1]
        return grid, answer

    return draw


# ----- families: objects


@family
def crop(rng: Rng, max_side: int) -> Draw:
    """The rectangle around the shape of one colour stays, with shapes of a second colour in the grid or without."""
    colours, has_others = draw_colours(rng, 2), rng.random() < 0.5

    def draw():
        grid = place_shapes(rng, draw_shape(rng, max_side, 4), colours[:1], 1, 4)
        if has_others:
            others = place_shapes(rng, grid.shape, colours[1:], 3, 2)
            grid = np.where(grid == BLACK, others, grid)
        return grid, grid[bounding_box(grid == colours[0])]

    return draw


@family
def fill_holes(rng: Rng, max_side: int) -> Draw:
    """Cells that lines of a colour enclose are filled with another colour."""
    wall, filling = draw_colours(rng, 2)

    def draw():
        rows, cols = draw_shape(rng, max_side, 5)
        grid = np.zeros((rows, cols), dtype=np.int64)
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, rows - 2), rng.integers(0, cols - 2)
            bottom = top + rng.integers(3, min(6, rows - top) + 1)
            right = left + rng.integers(3, min(6, cols - left) + 1)
            grid[top:bottom, left:right] = wall
            grid[top + 1 : bottom - 1, left + 1 : right - 1] = BLACK
        # With a black ring around the grid, the cells that reach its edge are one component, the first.
        region = components(np.pad(grid == BLACK, 1, constant_values=True))[1:-1, 1:-1]
        return grid, np.where(region > 1, filling, grid)

    return draw


@family
def outline(rng: Rng, max_side: int) -> Draw:
    """Every coloured cell gets neighbours of a colour: all eight, the four beside it, or the four diagonal ones."""
    colour, ring = draw_colours(rng, 2)
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]
    beside, across = [step for step in steps if 0 in step], [step for step in steps if 0 not in step]
    chosen = (steps, beside, across)[rng.integers(3)]

    def draw():
        grid = _dots(rng, draw_shape(rng, max_side, 4), colour, 3)
        padded, answer = np.pad(grid, 1), grid.copy()
        for step in chosen:
            neighbour = np.roll(padded, step, (0, 1))[1:-1, 1:-1]
            answer[(neighbour != BLACK) & (grid == BLACK)] = ring
        return grid, answer

    return draw


@family
def by_size(rng: Rng, max_side: int) -> Draw:
    """The largest (or smallest) shape is marked, or is the only shape that stays."""
    colour, mark = draw_colours(rng, 2)
    largest, keeps = rng.random() < 0.6, rng.random() < 0.5

    def draw():
        while True:
            grid = place_shapes(rng, draw_shape(rng, max_side, 5), [colour], 5)
            label = components(grid > 0)
            cells = sizes(label)[1:]
            chosen = np.flatnonzero(cells == (cells.max() if largest else cells.min()))
            if len(cells) > 1 and len(chosen) == 1:
                break
        found = label == 1 + chosen[0]
        return grid, np.where(found, colour, BLACK) if keeps else np.where(found, mark, grid)

    return draw


@family
def colour_by_count(rng: Rng, max_side: int) -> Draw:
    """Each shape takes the colour that stands for its number of cells."""
    given, *colours = draw_colours(rng, 5)
    colour_of = np.array([BLACK, *colours])  # by the number of cells: shapes of at most 2 x 2 have 1 to 4

    def draw():
        grid = place_shapes(rng, draw_shape(rng, max_side, 4), [given], 6, 2)
        label = components(grid > 0)
        cells = sizes(label)[label]  # of each cell's shape
        return grid, colour_of[cells]

    return draw


@family
def denoise(rng: Rng, max_side: int) -> Draw:
    """Single cells vanish, larger shapes stay; or the other way round."""
    colours, keeps_single = draw_colours(rng, 2), rng.random() < 0.3

    def draw():
        grid = place_shapes(rng, draw_shape(rng, max_side, 5), colours, 6)
        label = components(grid > 0)
        single = sizes(label)[label] == 1
        return grid, np.where(single == keeps_single, grid, BLACK)

    return draw


@family
def stamp(rng: Rng, max_side: int) -> Draw:
    """A small pattern, always the same, is drawn around every marked cell."""
    colour, *colours = draw_colours(rng, 4)
    pattern = _pattern(rng, 3, colours)

    def draw():
        grid = np.zeros(draw_shape(rng, max_side, 5), dtype=np.int64)
        answer = grid.copy()
        for _ in range(rng.integers(1, 4)):
            row, col = (rng.integers(1, side - 1) for side in grid.shape)
            if not answer[row - 1 : row + 2, col - 1 : col + 2].any():
                grid[row, col] = colour
                answer[row - 1 : row + 2, col - 1 : col + 2] = pattern
        return grid, answer

    return draw


@family
def commonest(rng: Rng, max_side: int) -> Draw:
    """The commonest colour is the answer: as a single cell, as a whole grid, or with all other colours gone."""
    colours, form = draw_colours(rng, 4), rng.integers(3)

    def draw():
        while True:
            grid = rng.choice(colours, draw_shape(rng, max_side, 2))
            counts = np.bincount(grid.ravel())
            if np.sum(counts == counts.max()) == 1:
                break
        most = counts.argmax()
        forms = (np.full((1, 1), most), np.full_like(grid, most), np.where(grid == most, grid, BLACK))
        return grid, forms[form]

    return draw
