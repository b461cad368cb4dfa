"""Small grids and votes, for tests of answers."""

import numpy as np

from hrm_offline.answers.vote import Votes
from hrm_offline.data.tasks import Pair, Task


def grid(*rows):
    """Return a grid with the given rows."""
    return np.array(rows, dtype=np.uint8)


A, B, C, D, EMPTY = grid([1]), grid([2, 2]), grid([3], [3]), grid([4]), np.zeros((0, 0), dtype=np.uint8)


def entry(first, second):
    """Return one test input's entry of a submission."""
    return {"attempt_1": first.tolist(), "attempt_2": second.tolist()}


def task(outputs, tests=(A,)):
    """Return a task whose demonstrations have the given outputs, with unlabelled test inputs."""
    return Task("t", tuple(Pair(A, output) for output in outputs), tuple(Pair(test, None) for test in tests))


def pool(*votes):
    """Pool (grid, confidence) votes of one test input, counted as one batch."""
    side = max(max(g.shape) for g, _ in votes)
    cells = np.zeros((len(votes), side, side), dtype=np.uint8)
    for cell, (g, _) in zip(cells, votes):
        cell[: g.shape[0], : g.shape[1]] = g
    pools = {}
    Votes(
        np.full(len(votes), 7, dtype=np.int32),
        np.array([g.shape for g, _ in votes], dtype=np.int32),
        cells,
        np.array([confidence for _, confidence in votes]),
    ).add_to(pools)
    return pools[7]
