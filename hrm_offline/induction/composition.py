"""Put the results of several programs together: side by side, or laid over one another.

No operation is applied here: the results are only compared with the demonstrated outputs, and with parts of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from hrm_offline.data.tasks import MAX_SIDE
from hrm_offline.induction.parts import Grid

# Rows and columns of equal blocks that an output may consist of.
_BLOCKS = tuple((rows, cols) for rows in range(1, 5) for cols in range(1, 5) if rows * cols > 1)

# What a program makes of the demonstrations' inputs, then of the test inputs. Only a test input may have None.
State = tuple["Grid | None", ...]


def put_together(states: list[State], goal: list[Grid]) -> Iterator[tuple[Grid | None, ...]]:
    """Yield the answers to the test inputs of each way in which states make the demonstrated outputs, `goal`.

    The first state is the inputs themselves. An answer is None where a part is missing or does not fit.
    """
    yield from _side_by_side(states, goal)
    yield from _overlaid(states, goal)


def _side_by_side(states: list[State], goal: list[Grid]) -> Iterator[tuple[Grid | None, ...]]:
    """Cut the outputs into equal blocks, and look for a state that makes each block of all of them.

    A black block of the input's size counts as made, too.
    """
    black = tuple(None if grid is None else np.zeros_like(grid) for grid in states[0])
    made: dict[bytes, State] = {}
    for state in (*states, black):
        made.setdefault(key_of_state(state[: len(goal)]), state[len(goal) :])
    for rows, cols in _BLOCKS:
        if any(grid.shape[0] % rows or grid.shape[1] % cols for grid in goal):
            continue
        parts = [
            [made.get(key_of_state(tuple(_block(grid, rows, cols, row, col) for grid in goal))) for col in range(cols)]
            for row in range(rows)
        ]
        if all(part is not None for line in parts for part in line):
            tests = range(len(states[0]) - len(goal))
            yield tuple(_joined([[part[test] for part in line] for line in parts]) for test in tests)


def _block(grid: Grid, rows: int, cols: int, row: int, col: int) -> Grid:
    """Return one of the equal blocks of a grid."""
    height, width = grid.shape[0] // rows, grid.shape[1] // cols
    return grid[row * height : (row + 1) * height, col * width : (col + 1) * width]


def _joined(blocks: list[list[Grid | None]]) -> Grid | None:
    """Return blocks as one grid; None where one is missing, where they do not fit, and beyond the largest grid."""
    if any(block is None for line in blocks for block in line):
        return None
    try:
        joined = np.block(blocks)
    except ValueError:  # their sides differ
        return None
    return joined if max(joined.shape) <= MAX_SIDE else None


def _overlaid(states: list[State], goal: list[Grid]) -> Iterator[tuple[Grid | None, ...]]:
    """Lay a state that is right wherever it is not black, and not everywhere, over another one."""
    right = [
        state
        for state in states
        if all(_is_part(grid, wanted) for grid, wanted in zip(state, goal))
        and not all(np.array_equal(grid, wanted) for grid, wanted in zip(state, goal))
    ]
    for over, under in product(right, states):
        if all(
            b.shape == wanted.shape and np.array_equal(np.where(a, a, b), wanted)
            for a, b, wanted in zip(over, under, goal)
        ):
            yield tuple(_laid(a, b) for a, b in zip(over[len(goal) :], under[len(goal) :]))


def _is_part(grid: Grid, wanted: Grid) -> bool:
    return grid.shape == wanted.shape and bool(((grid == wanted) | (grid == 0)).all())


def _laid(over: Grid | None, under: Grid | None) -> Grid | None:
    if over is None or under is None or over.shape != under.shape:
        return None
    return np.where(over, over, under)


def key_of_state(state: State) -> bytes:
    """Return bytes that two states share only if all their grids are equal."""
    return b"".join(b"-" if grid is None else bytes(grid.shape) + grid.tobytes() for grid in state)
