"""Test the made-up families that need many steps: each answer is computed again, by rules guessed from demonstrations.

A guess of a family is a function from an input to an output. `GUESSES` has, by family, all guesses that the
demonstrations of a task suggest. They are written without the family's code.
"""

from itertools import pairwise, permutations, product

import numpy as np
import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.data.deep import FAMILIES, SIDES, TURNS, deep_tasks
from hrm_offline.data.leaks import content_of
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import digest_of

# Results name their tasks by the name of a set.
DIGESTS = {
    "deep-30": "f1d2a48ac5f1a2b111f0ccbeb1a01d071ce02d35a1f681a49efc31a5157c17d3",
    "deep-16-sides-5": "203554b122cf16d3683ded32a5b13bb25379c731e8a6208fefb926f6d5d4acaf",
    "deep-8-sides-10-depth-4-only-sort,path": "aa55131751618d6eff9d4412d77bf3bcb3d1baa4384fdb6b2b437f6267ae9379",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_sets_have_the_tasks_that_they_always_had(name):
    assert digest_of(load_set(name).tasks) == DIGESTS[name]


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    few, many = deep_tasks(3), deep_tasks(10)
    assert digest_of(few) == digest_of(many[:3])
    assert [task.id for task in many] == [f"deep-{name}-{i}" for i, name in enumerate((*TURNS, *TURNS[:2]))]
    assert set(TURNS) <= set(FAMILIES)


@pytest.mark.parametrize("max_side", SIDES)
def test_tasks_are_valid_and_all_their_pairs_differ(max_side):
    tasks = deep_tasks(32, max_side)
    for task in tasks:
        pairs = (*task.train, *task.test)
        assert len(task.train) in (3, 4)
        assert len(task.test) == 1
        for grids in ([pair.input for pair in pairs], [pair.output for pair in pairs]):
            assert len({(grid.shape, grid.tobytes()) for grid in grids}) == len(grids)
            assert all(grid.dtype == np.uint8 and grid.max() < 10 and max(grid.shape) <= max_side for grid in grids)
        assert not any(np.array_equal(pair.input, pair.output) for pair in pairs)
    assert len({frozenset(content_of(pair) for pair in task.train) for task in tasks}) == len(tasks)


def test_a_set_that_is_impossible_is_refused():
    for name, why in (
        ("deep-4-sides-4", "sides of at most 4, expected 5 to 10"),
        ("deep-4-sides-11", "sides of at most 11"),
        ("deep-4-sides-6-depth-5", "depth 5, expected 2 to 4"),
        ("deep-4-depth-1", "depth 1"),
        ("deep-4-only-path,maze", "no family 'maze', expected some of flood"),
        ("deep-0", "no such file, folder or set"),
    ):
        with pytest.raises(InputError, match=why):
            load_set(name)


# ----- the answers, computed again


def turned(rule, turns):
    """Return the rule that turns a grid, applies a rule, and turns it back."""
    return lambda grid: np.rot90(rule(np.rot90(grid, turns)), -turns)


def once(grids):
    """Return the colours that are in each grid exactly once."""
    return [colour for colour in range(1, 10) if all((grid == colour).sum() == 1 for grid in grids)]


def guess_flood(inputs, outputs):
    """Grow the seed ring by ring; the colours of the rings are those of the first demonstration."""

    def rings(grid, seed, corners):
        reached = grid == seed
        while True:
            wide = np.pad(reached, 1)
            near = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
            if corners:
                near |= wide[:-2, :-2] | wide[2:, :-2] | wide[:-2, 2:] | wide[2:, 2:]
            ring = near & (grid == 0) & ~reached
            if not ring.any():
                return
            yield ring
            reached |= ring

    def flooded(grid, seed, corners, colours):
        answer = grid.copy()
        for number, ring in enumerate(rings(grid, seed, corners)):
            answer[ring] = colours[number % len(colours)]
        return answer

    for seed, corners, period in product(once(inputs), (False, True), (1, 2, 3)):
        colours = [outputs[0][ring][0] for ring in rings(inputs[0], seed, corners)][:period]
        if colours:
            yield lambda grid, a=seed, b=corners, c=colours: flooded(grid, a, b, c)


def guess_path(inputs, outputs):
    """Count walks by powers of the adjacency matrix, and follow the only shortest one."""

    def drawn(grid, ends, wall, line):
        answer = grid.copy()
        free = [tuple(cell) for cell in np.argwhere(grid != wall)]
        adjacent = np.array([[abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for b in free] for a in free], dtype=np.int64)
        start, end = (i for i, cell in enumerate(free) if grid[cell] in ends)
        walks = [np.eye(len(free), dtype=np.int64)]
        while not walks[-1][start, end]:
            walks.append(walks[-1] @ adjacent)
        assert walks[-1][start, end] == 1
        for number in range(1, len(walks) - 1):
            (middle,) = np.flatnonzero(walks[number][start] * walks[-1 - number][:, end])
            answer[free[middle]] = line
        return answer

    (line,) = set(np.unique(outputs[0])) - set(np.unique(inputs[0]))
    found = once(inputs)
    ends = found or [c for c in range(1, 10) if all((grid == c).sum() == 2 for grid in inputs)]
    for pair in permutations(ends, 2) if found else [(end,) for end in ends]:
        for wall in set(np.unique(inputs[0])) - {0, *pair}:
            yield lambda grid, a=pair, b=wall: drawn(grid, a, b, line)


def guess_bounce(inputs, outputs):
    """Follow the ray in the complex plane, with mirrors that turn it or that stand askew."""

    def traced(grid, source, ray, turns):
        (start,) = np.argwhere(grid == source)
        place, rows, cols = complex(*start), *grid.shape
        way = {0: 1, rows - 1: -1}.get(start[0]) or {0: 1j, cols - 1: -1j}[start[1]]
        answer = grid.copy()
        while 0 <= (place := place + way).real < rows and 0 <= place.imag < cols:
            cell = int(place.real), int(place.imag)
            if grid[cell] in turns:
                way = turns[grid[cell]](way)
            elif grid[cell] == 0:
                answer[cell] = ray
        return answer

    turns = (lambda w: w * 1j, lambda w: w * -1j), (lambda w: w.conjugate() * 1j, lambda w: w.conjugate() * -1j)
    for source in once(inputs):
        mirrors = set(np.unique(np.concatenate([grid.ravel() for grid in inputs]))) - {0, source}
        rays = {int(new) for new in outputs[0][outputs[0] != inputs[0]]}
        for one, two in permutations(mirrors, 2) if len(mirrors) == 2 else ():
            for kind, ray in product(turns, rays):
                yield lambda grid, a=source, b=ray, c={one: kind[0], two: kind[1]}: traced(grid, a, b, c)


def guess_settle(inputs, outputs):
    """Let one piece after the other fall by a row, as long as one has room."""

    def pieces(grid):
        left, found = {tuple(cell) for cell in np.argwhere(grid)}, []
        while left:
            piece, edge = set(), [left.pop()]
            while edge:
                row, col = edge.pop()
                piece.add((row, col))
                near = {(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)} & left
                left -= near
                edge += near
            found.append([(cell, grid[cell]) for cell in piece])
        return found

    def fallen(grid):
        found = pieces(grid)
        while True:
            taken = {cell for piece in found for cell, _ in piece}
            for i, piece in enumerate(found):
                below = {(row + 1, col) for (row, col), _ in piece}
                free = not below & (taken - {cell for cell, _ in piece})
                if free and max(row for row, _ in below) < len(grid):
                    found[i] = [((row + 1, col), colour) for (row, col), colour in piece]
                    break
            else:
                break
        answer = np.zeros_like(grid)
        for piece in found:
            for cell, colour in piece:
                answer[cell] = colour
        return answer

    return [turned(fallen, turns) for turns in range(4)]


def guess_sort(inputs, outputs):
    """Sort lines by the number of their coloured cells, up or down, along rows or columns."""

    def ordered(grid, sign):
        return np.array(sorted(grid, key=lambda line: sign * np.count_nonzero(line)))

    for sign in (1, -1):
        yield lambda grid, a=sign: ordered(grid, a)
        yield lambda grid, a=sign: ordered(grid.T, a).T


def guess_repeat(inputs, outputs):
    """Read the rule's table off the demonstrations."""

    def patterns(line):
        on = np.pad(line > 0, 1).astype(int)
        return list(zip(on, on[1:], on[2:]))

    def grown(grid, table, colour):
        answer = grid.copy()
        for row in range(1, len(grid)):
            answer[row] = [colour * table.get(pattern, 0) for pattern in patterns(answer[row - 1])]
        return answer

    for turns in range(4):
        if all(np.rot90(grid, turns)[0].any() for grid in inputs):
            shown = [np.rot90(grid, turns) for grid in outputs]
            table = {
                pattern: int(cell > 0)
                for grid in shown
                for before, after in pairwise(grid)
                for pattern, cell in zip(patterns(before), after)
            }
            colour = shown[0][1].max()
            yield turned(lambda grid, a=table, b=colour: grown(grid, a, b), turns)


def guess_largest(inputs, outputs):
    """Spread the highest number of each shape until every shape has one, and mark the commonest or the others."""

    def marked(grid, mark, of_largest):
        number = np.where(grid > 0, np.arange(1, grid.size + 1).reshape(grid.shape), 0)
        for _ in range(grid.size):
            wide = np.pad(number, 1)
            near = np.maximum.reduce([wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:], number])
            number = np.where(grid > 0, near, 0)
        largest = number == np.bincount(number[number > 0]).argmax()
        return np.where((largest == of_largest) & (grid > 0), mark, grid)

    (mark,) = set(np.unique(outputs[0])) - set(np.unique(inputs[0]))
    return [lambda grid, a=of_largest: marked(grid, mark, a) for of_largest in (True, False)]


def guess_parity(inputs, outputs):
    """Count marks along each line, cell by cell."""

    def counted(grid, turns):
        answer = grid.copy()
        for line in answer:
            marks = 0
            for i, cell in enumerate(line):
                marks += cell > 0
                if marks and not cell:
                    line[i] = turns[(marks - 1) % len(turns)]
        return answer

    colours = set(np.unique(np.concatenate([grid.ravel() for grid in outputs]))) - set(np.unique(inputs[0])) | {0}
    for turns, number in product(range(4), (2, 3)):
        for order in permutations(colours, number):
            yield turned(lambda grid, a=order: counted(grid, a), turns)


GUESSES = {name.removeprefix("guess_"): guess for name, guess in globals().items() if name.startswith("guess_")}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_demonstrations_allow_one_answer_which_is_the_tests(name):
    for task in deep_tasks(6, 7, families=(name,)):
        given, asked = [pair.input for pair in task.train], [pair.output for pair in task.train]
        fitting = [
            guess
            for guess in GUESSES[name](given, asked)
            if all(np.array_equal(guess(one), other) for one, other in zip(given, asked))
        ]
        assert fitting, task.id
        for guess in fitting:
            assert np.array_equal(guess(task.test[0].input), task.test[0].output), task.id


# ----- depth


@pytest.mark.parametrize("depth", [3, 7])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_test_needs_at_least_the_depth_and_no_demonstration_needs_more(name, depth, monkeypatch):
    counted = {}
    chosen = FAMILIES[name]

    def counting(rng, max_side):
        draw = chosen(rng, max_side)

        def draw_and_count(steps):
            drawn = draw(steps)
            if drawn is not None:
                counted[drawn[0].shape, drawn[0].astype(np.uint8).tobytes()] = drawn[2]
            return drawn

        return draw_and_count

    monkeypatch.setitem(FAMILIES, name, counting)
    for task in deep_tasks(3, 9, depth, (name,)):
        *shown, asked = (counted[pair.input.shape, pair.input.tobytes()] for pair in (*task.train, *task.test))
        assert all(depth / 2 <= steps <= depth for steps in shown)
        assert depth <= asked <= 2 * depth


def test_the_steps_of_a_path_are_its_cells():
    draw = FAMILIES["path"](np.random.default_rng(0), 8)
    found = [drawn for drawn in (draw(4) for _ in range(50)) if drawn]
    assert len(found) > 10
    assert all(steps == np.count_nonzero(given != answer) + 1 for given, answer, steps in found)


def test_the_steps_of_a_sort_are_those_of_the_slowest_bar():
    """A bar moves by a place per step at most, and all are in order after as many steps as there are bars."""
    draw = FAMILIES["sort"](np.random.default_rng(0), 8)
    for given, answer, steps in (draw(4) for _ in range(20)):
        axis = int(len({line.tobytes() for line in given} ^ {line.tobytes() for line in answer}) > 0)
        lines, ordered = ([line.tobytes() for line in np.moveaxis(grid, axis, 0)] for grid in (given, answer))
        moved = max(abs(lines.index(line) - ordered.index(line)) for line in lines)
        assert moved <= steps <= len(lines)
