"""Induction: a search for programs that reproduce every demonstration of a task, a second opinion beside the network's.

    python -m hrm_offline induce --challenges FILE --out votes.json
    python -m hrm_offline solve --challenges FILE --out DIR --votes votes.json
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hrm_offline.data.operations import Grid, Operation, operations
from hrm_offline.data.tasks import MAX_SIDE, Task
from hrm_offline.infer.vote import Candidate, Pool
from hrm_offline.tokens import COLOURS

EFFORT = 40_000
LONGEST = 3
_ODDS = 8.0

State = tuple["Grid | None", ...]  # what a program makes of the demonstrations' inputs and then of the test inputs


def induce(task: Task, effort: int = EFFORT) -> list[list[Candidate]]:
    """For each test input, what the programs that reproduce every demonstration make of it, best first."""
    pools = [Pool() for _ in task.test]
    for length, answers in _Search(task, effort).solutions():
        votes = _ODDS ** (1 - length)
        for pool, grid in zip(pools, answers):
            if grid is not None:
                pool.add(grid, votes, votes)
    return [pool.ranking() for pool in pools]


class _Search:
    def __init__(self, task: Task, effort: int):
        self.start = tuple(pair.input for pair in (*task.train, *task.test))
        self.goal = [pair.output for pair in task.train]
        self.operations = list(operations(_common(pair.input for pair in task.train), _common(self.goal)).values())
        self.left = effort

    def solutions(self) -> Iterator[tuple[int, State]]:
        """Length of each program found and what it makes of the test inputs; shorter programs come first."""
        seen, states = {_key(self.start)}, [self.start]
        for length in range(1, LONGEST + 1):
            longer = []
            for state in sorted(states, key=self._nearness, reverse=True):
                for operation in self._steps(state):
                    if self.left <= 0:
                        return
                    result = self._apply(operation, state, length == LONGEST)
                    if result is None:
                        continue
                    key = _key(result)
                    if key in seen:
                        continue
                    seen.add(key)
                    if all(map(_equal, result, self.goal)):
                        yield length, result[len(self.goal):]
                    else:
                        longer.append(result)
            states = longer

    def _steps(self, state: State) -> Iterator[Operation]:
        yield from self.operations
        if all(grid.shape == goal.shape for grid, goal in zip(state, self.goal)):
            self.left -= 1
            mapping = _learned_colours(state, self.goal)
            if mapping is not None:
                yield lambda grid: mapping[grid]

    def _apply(self, operation: Operation, state: State, must_fit: bool) -> State | None:
        results = []
        for index, grid in enumerate(state):
            result = None if grid is None else self._result(operation, grid)
            if index < len(self.goal) and (result is None or (must_fit and not _equal(result, self.goal[index]))):
                return None
            results.append(result)
        return tuple(results)

    def _result(self, operation: Operation, grid: Grid) -> Grid | None:
        self.left -= 1
        result = operation(grid)
        if result is None or not result.size or max(result.shape) > MAX_SIDE:
            return None
        return result.astype(np.uint8, copy=False)

    def _nearness(self, state: State) -> float:
        return sum(float((grid == goal).mean()) for grid, goal in zip(state, self.goal) if grid.shape == goal.shape)


def _common(grids) -> list[int]:
    return sorted(set.intersection(*(set(np.unique(grid).tolist()) for grid in grids)) - {0})


def _equal(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _learned_colours(state: State, goal: list[Grid]) -> np.ndarray | None:
    pairs = np.unique(np.concatenate([COLOURS * grid.astype(int).ravel() + want.ravel()
                                      for grid, want in zip(state, goal)]))
    given = pairs // COLOURS
    if len(np.unique(given)) < len(given):
        return None
    mapping = np.arange(COLOURS, dtype=np.uint8)
    mapping[given] = pairs % COLOURS
    return mapping


def _key(state: State) -> bytes:
    return b"".join(b"-" if grid is None else bytes(grid.shape) + grid.tobytes() for grid in state)
