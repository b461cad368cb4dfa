"""Families of made-up tasks whose answers need many local steps: floods, paths, rays, falls, sorting, repeated rules.

A step is what the family's plain computation repeats: a flood reaches the next cells, a ray moves on by a cell,
everything falls by a row. How many steps an answer needs is its depth. In a task of depth D, each demonstration needs
from D/2 to D steps, and the test from D to 2 D, so that a rule that is known for few steps has to be carried on.

A family is a function of a random generator and of the largest side that a grid may have. It draws what all pairs of a
task share, and returns a function that draws one pair with about so many steps. Its docstring says how the output
follows from the input, and what a step is.

Task i of a set depends on (seed, i), on its family, on the largest side and on the depth alone. The families of `TURNS`
take turns. To add a family, write its function here under `@family`; it comes by name, as "deep-N-only-NAME".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hrm_offline.common.errors import InputError
from hrm_offline.data.drawing import BLACK, Rng, draw_colours, draw_noise, draw_shape, place_shapes
from hrm_offline.data.grids import dihedral
from hrm_offline.data.shapes import components, distances, sizes
from hrm_offline.data.tasks import Pair, Task

# Input, output and steps of a pair; None where what was drawn says too little.
Drawn = tuple[np.ndarray, np.ndarray, int] | None
Draw = Callable[[int], Drawn]
Family = Callable[[Rng, int], Draw]

FAMILIES: dict[str, Family] = {}

# The families of "deep-N" in the order of their turns. Never change it: results name their tasks by the name of a set.
TURNS = ("flood", "path", "bounce", "settle", "sort", "repeat", "largest", "parity")

DEFAULT_SIDE = 8
SIDES = (5, 10)  # the largest side of a set, at least and at most

_DEMONSTRATIONS = (3, 4)  # at least and at most
_PAIR_DRAWS = 300  # before the task is drawn anew
_TASK_DRAWS = 100  # before a family is given up


def family(function: Family) -> Family:
    """Register a family by its function's name."""
    FAMILIES[function.__name__] = function
    return function


def deep_tasks(
    count: int,
    max_side: int = DEFAULT_SIDE,
    depth: int | None = None,
    families: tuple[str, ...] = TURNS,
    seed: int = 0,
) -> tuple[Task, ...]:
    """Return `count` tasks of the named families in turn, whose grids have sides of at most `max_side`.

    Without `depth` it is two less than `max_side`, the most that every family has room for. The first tasks of a larger
    set are those of a smaller one. Raises `InputError` for a side or a depth that is out of range, or
    where a family draws no such task.
    """
    if not SIDES[0] <= max_side <= SIDES[1]:
        raise InputError(f"deep tasks are to have sides of at most {max_side}, expected {SIDES[0]} to {SIDES[1]}")
    depth = max_side - 2 if depth is None else depth
    if not 2 <= depth <= max_side - 2:
        raise InputError(
            f"deep tasks with sides of at most {max_side} are to have depth {depth}, expected 2 to {max_side - 2}"
        )
    return tuple(_task(families[i % len(families)], i, max_side, depth, seed) for i in range(count))


def _task(name: str, number: int, max_side: int, depth: int, seed: int) -> Task:
    """Draw until the pairs of a task are found."""
    rng = np.random.default_rng([seed, number])
    for _ in range(_TASK_DRAWS):
        pairs = _pairs(rng, FAMILIES[name](rng, max_side), depth)
        if pairs:
            return Task(f"deep-{name}-{number}", tuple(pairs[:-1]), tuple(pairs[-1:]))
    raise InputError(
        f"family '{name}': drew no task of depth {depth} with sides of at most {max_side} in {_TASK_DRAWS} draws"
    )


def _pairs(rng: Rng, draw: Draw, depth: int) -> list[Pair]:
    """Return demonstrations and a test whose inputs and outputs all differ, or an empty list where a draw failed."""
    shallow = (depth + 1) // 2
    demonstrations = int(rng.integers(_DEMONSTRATIONS[0], _DEMONSTRATIONS[1] + 1))
    wanted = [int(steps) for steps in rng.integers(shallow, depth + 1, demonstrations)]
    ranges = [(steps, shallow, depth) for steps in wanted] + [(depth, depth, 2 * depth)]
    pairs: list[Pair] = []
    for steps, low, high in ranges:
        pair = _draw_pair(draw, steps, low, high, pairs)
        if pair is None:
            return []
        pairs.append(pair)
    return pairs


def _draw_pair(draw: Draw, wanted: int, low: int, high: int, others: list[Pair]) -> Pair | None:
    """Draw until a pair needs from `low` to `high` steps and is unlike the others, or return None."""
    for _ in range(_PAIR_DRAWS):
        drawn = draw(wanted)
        if drawn is None or not low <= drawn[2] <= high:
            continue
        given, answer = (np.ascontiguousarray(grid, dtype=np.uint8) for grid in drawn[:2])
        is_new = not any(np.array_equal(given, pair.input) or np.array_equal(answer, pair.output) for pair in others)
        if is_new and not np.array_equal(given, answer):
            return Pair(given, answer)
    return None


# ----- families


def _room(rng: Rng, max_side: int, steps: int) -> tuple[int, int]:
    """Draw rows and columns that leave room for so many steps."""
    return draw_shape(rng, max_side, max(SIDES[0], steps + 2))


@family
def flood(rng: Rng, max_side: int) -> Draw:
    """A seed floods the black cells around it up to the walls, in one colour or in some colours that take turns.

    A step reaches the next cells, along sides or also across corners.
    """
    wall, seed, *colours = draw_colours(rng, 5)
    colours = np.array(colours[: rng.integers(1, 4)])
    diagonal = rng.random() < 0.3

    def draw(steps):
        grid = draw_noise(rng, _room(rng, max_side, steps), [wall], 0.55 if diagonal else 0.4)
        start = tuple(rng.integers(grid.shape))
        grid[start] = BLACK
        reached = distances(grid == BLACK, start, diagonal)
        answer = np.where(reached > 0, colours[(reached - 1) % len(colours)], grid)
        answer[start] = grid[start] = seed
        is_dry = bool((answer == BLACK).any())  # some cells are out of reach, so that the walls matter
        return (grid, answer, int(reached.max())) if is_dry else None

    return draw


@family
def path(rng: Rng, max_side: int) -> Draw:
    """The shortest way between two cells that does not cross a wall is drawn. There is one such way.

    A step goes on by a cell along a side.
    """
    wall, start_colour, end_colour, line = draw_colours(rng, 4)
    if rng.random() < 0.5:
        end_colour = start_colour

    def draw(steps):
        grid = draw_noise(rng, _room(rng, max_side, steps), [wall], 0.4)
        if np.count_nonzero(grid == BLACK) < 2:
            return None
        start, end = (tuple(cell) for cell in rng.permutation(np.argwhere(grid == BLACK))[:2])
        from_start, from_end = (distances(grid == BLACK, cell) for cell in (start, end))
        length = from_start[end]
        on_way = (from_start >= 0) & (from_start + from_end == length)
        if length < 2 or np.count_nonzero(on_way) != length + 1:  # more cells are on several shortest ways
            return None
        answer = np.where(on_way, line, grid)
        for cell, colour in ((start, start_colour), (end, end_colour)):
            grid[cell] = answer[cell] = colour
        return grid, answer, int(length)

    return draw


# How a mirror of the first and of the second colour changes the direction (rows, columns) of a ray.
_MIRRORS = (
    (lambda r, c: (-c, -r), lambda r, c: (c, r)),  # "/" and "\"
    (lambda r, c: (c, -r), lambda r, c: (-c, r)),  # to the right and to the left of where it goes
)


@family
def bounce(rng: Rng, max_side: int) -> Draw:
    """A ray leaves a cell at the edge, turns at mirrors of two colours, and is drawn until it leaves the grid.

    A step goes on by a cell. A ray never turns in circles, because each of its steps can be traced back.
    """
    source, ray, *mirrors = draw_colours(rng, 4)
    turns = _MIRRORS[rng.integers(len(_MIRRORS))]
    if rng.random() < 0.5:
        ray = source

    def draw(steps):
        grid = draw_noise(rng, _room(rng, max_side, steps), mirrors, 0.25)
        cell, direction = _edge_cell(rng, grid.shape)
        grid[tuple(cell)] = source
        answer, length, turned = grid.copy(), 0, 0
        while True:
            cell = cell + direction
            if (cell < 0).any() or (cell >= grid.shape).any():
                return (grid, answer, length) if turned > 1 else None
            length += 1
            found = grid[tuple(cell)]
            if found in mirrors:
                direction = turns[mirrors.index(found)](*direction)
                turned += 1
            elif found == BLACK:
                answer[tuple(cell)] = ray

    return draw


def _edge_cell(rng: Rng, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Draw a cell at the edge, but in no corner, and return it with the direction that leads into the grid."""
    direction = ((0, 1), (1, 0), (0, -1), (-1, 0))[rng.integers(4)]
    cell = np.array([rng.integers(1, side - 1) for side in shape])
    axis = 0 if direction[0] else 1
    cell[axis] = 0 if sum(direction) > 0 else shape[axis] - 1
    return cell, direction


@family
def settle(rng: Rng, max_side: int) -> Draw:
    """Pieces fall to one side until they rest on the edge or on another piece. They keep their form.

    In a step everything that rests on nothing falls by a row.
    """
    colours, element = draw_colours(rng, int(rng.integers(1, 4))), int(rng.integers(4))

    def draw(steps):
        grid = place_shapes(rng, _room(rng, max_side, steps), colours, 8)
        piece = components(grid != BLACK)
        fallen, ticks = _fallen(piece)
        colour_of = np.zeros(piece.max() + 1, dtype=np.int64)
        colour_of[piece] = grid
        rests = _resting(fallen)
        return (dihedral(grid, element), dihedral(colour_of[fallen], element), ticks) if rests else None

    return draw


def _fallen(piece: np.ndarray) -> tuple[np.ndarray, int]:
    """Return pieces, int64 [rows, cols] of their numbers and 0, after all have fallen, and the steps it took."""
    for ticks in range(len(piece)):
        held = set(piece[-1]) | {0}
        while more := {above for above, below in _resting(piece) if below in held} - held:
            held |= more
        falls = ~np.isin(piece, list(held))
        if not falls.any():
            return piece, ticks
        moved = np.zeros_like(piece)
        moved[1:] = np.where(falls, piece, 0)[:-1]
        piece = moved + np.where(falls, 0, piece)
    raise AssertionError("a piece falls by less rows than the grid has")


def _resting(piece: np.ndarray) -> set[tuple[int, int]]:
    """Return the pairs of pieces of which the first stands on the second."""
    pairs = zip(piece[:-1].ravel().tolist(), piece[1:].ravel().tolist())
    return {(above, below) for above, below in pairs if above != below and above and below}


@family
def sort(rng: Rng, max_side: int) -> Draw:
    """Bars are put in order by their length.

    In a step neighbours change places where they stand in the wrong order: the first with the second, the third with
    the fourth and so on, in the next step the second with the third (odd-even transposition).
    """
    colours, element = draw_colours(rng, int(rng.choice([1, 4]))), int(rng.integers(8))

    def draw(steps):
        bars, most = sorted(_room(rng, max_side, steps))
        lengths = rng.permutation(np.arange(1, most + 1))[:bars]
        colour = rng.choice(colours, bars)
        order = np.argsort(lengths)
        given, answer = ((np.arange(most)[:, None] < lengths[o]) * colour[o] for o in (np.arange(bars), order))
        return dihedral(given, element), dihedral(answer, element), _rounds(lengths.tolist())

    return draw


def _rounds(values: list[int]) -> int:
    """Return in how many steps of odd-even transposition distinct values are sorted."""
    wanted, rounds = sorted(values), 0
    while values != wanted:
        for i in range(rounds % 2, len(values) - 1, 2):
            values[i : i + 2] = sorted(values[i : i + 2])
        rounds += 1
    return rounds


# Elementary cellular automata (Wolfram's numbers) that keep black rows black and are not still.
_RULES = (22, 30, 54, 60, 86, 90, 102, 110, 124, 150)


@family
def repeat(rng: Rng, max_side: int) -> Draw:
    """The first row is given. Each row follows from the row before it by a rule of three neighbouring cells.

    A step makes a row.
    """
    number, element = int(rng.choice(_RULES)), int(rng.integers(8))
    follows = np.array([number >> pattern & 1 for pattern in range(8)], dtype=bool)  # by the three cells before
    first, later = draw_colours(rng, 2) if rng.random() < 0.5 else np.repeat(draw_colours(rng, 1), 2)

    def draw(steps):
        _, cols = _room(rng, max_side, steps)
        lines = [rng.random(cols) < 0.4]
        for _ in range(steps):
            left, centre, right = (np.pad(lines[-1], 1)[start : start + cols] for start in range(3))
            lines.append(follows[4 * left + 2 * centre + right])
        if not all(line.any() for line in lines):
            return None
        answer = np.array(lines) * later
        answer[0] = lines[0] * first
        given = answer.copy()
        given[1:] = BLACK
        return dihedral(given, element), dihedral(answer, element), steps

    return draw


@family
def largest(rng: Rng, max_side: int) -> Draw:
    """The largest connected shape is marked, or it is the only one that keeps its colour.

    A step goes on within the shape by a cell; there are as many as between the two cells farthest from one another.
    """
    colour, mark = draw_colours(rng, 2)
    marks_it = rng.random() < 0.5

    def draw(steps):
        grid = draw_noise(rng, _room(rng, max_side, steps), [colour], 0.5)
        label = components(grid != BLACK)
        cells = sizes(label)
        if len(cells) < 3 or np.count_nonzero(cells == cells.max()) > 1:
            return None
        shape = label == cells.argmax()
        across = max(int(distances(shape, tuple(cell)).max()) for cell in np.argwhere(shape))
        return grid, np.where((shape == marks_it) & (label > 0), mark, grid), across

    return draw


@family
def parity(rng: Rng, max_side: int) -> Draw:
    """Along each line, the cells behind a mark take the colour that stands for the number of marks so far.

    There are two or three colours, which take turns, and the last may be black. A step goes on by a cell.
    """
    mark, *colours = draw_colours(rng, 4)
    turns = np.array([*colours[: rng.integers(1, 3)], BLACK if rng.random() < 0.5 else colours[-1]])
    element = int(rng.integers(8))

    def draw(steps):
        is_mark = rng.random(_room(rng, max_side, steps)) < 0.3
        marks = np.cumsum(is_mark, axis=1)
        given = is_mark * mark
        answer = np.where(is_mark | (marks == 0), given, turns[(marks - 1) % len(turns)])
        first = np.where(marks[:, -1] > 1, is_mark.argmax(1), is_mark.shape[1])  # of the lines with two marks or more
        length = is_mark.shape[1] - 1 - int(first.min())
        return dihedral(given, element), dihedral(answer, element), length

    return draw
