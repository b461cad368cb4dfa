"""Induction: a search for programs that reproduce every demonstration of a task, a second opinion beside the network's.

python -m hrm_offline induce --challenges FILE --out votes.json
python -m hrm_offline solve --challenges FILE --out DIR --votes votes.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hrm_offline.answers.vote import Candidate, Pool
from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.tasks import MAX_SIDE, Task
from hrm_offline.induction.operations import FEATURES, Grid, Operation, Repertoire

EFFORT = 30_000  # operations applied to a grid; 0.4 seconds of a core, with many large grids up to 1.5
LONGEST = 3
# Of programs that are one operation longer there are a hundred times as many, so that more of them fit by chance.
_ODDS = 8.0

State = tuple["Grid | None", ...]  # what a program makes of the demonstrations' inputs, then of the test inputs


def induce(task: Task, effort: int = EFFORT) -> list[list[Candidate]]:
    """For each test input, best first, what programs of at most `LONGEST` operations that reproduce every demonstration
    make of it. A program with n operations has 8^(1 - n) votes, of programs that do the same only the shortest counts.
    Confidence is 1: no demonstration speaks against any of them. The search ends after `effort` operations, each
    applied to one grid; it looks at no clock, and at no test output. Raises `InputError` where that is none.
    """
    pools = [Pool() for _ in task.test]
    for length, answers in Search(task, effort).solutions():
        votes = _ODDS ** (1 - length)
        for pool, grid in zip(pools, answers):
            if grid is not None:
                pool.add(grid, votes, votes)
    return [pool.ranking() for pool in pools]


class _Spent(Exception):
    """The effort is."""


class Search:
    """Breadth first: all programs of one length, before any that is longer. Only states that no shorter program led to
    are gone on from, those nearest to the demonstrated outputs first."""

    def __init__(self, task: Task, effort: int):
        if effort < 1:
            raise InputError(f"effort is {effort}, expected 1 or more")
        self.start = tuple(pair.input for pair in (*task.train, *task.test))
        self.goal = [pair.output for pair in task.train]
        self.repertoire = Repertoire.of_colours(_common(pair.input for pair in task.train), _common(self.goal))
        self.seen = {_key(self.start)}
        self.left = effort

    def solutions(self) -> Iterator[tuple[int, State]]:
        """Length of each program found, and what it makes of the test inputs."""
        states: Iterable[State] = [self.start]
        try:
            for length in range(1, LONGEST + 1):
                known = []
                for state in states:
                    known.append(state)
                    for solution in self._last_steps(state):
                        if self._is_new(solution):
                            yield length, solution[len(self.goal) :]
                states = self._longer(known)
        except _Spent:
            return

    def _longer(self, states: list[State]) -> Iterator[State]:
        """New states one operation further on."""
        for state in sorted(states, key=self._nearness, reverse=True):
            for operation in (self.repertoire.keeping | self.repertoire.changing).values():
                result = self._apply(operation, state)
                if result is not None and self._is_new(result):
                    yield result

    def _last_steps(self, state: State) -> Iterator[State]:
        """What operations make of a state that end in all demonstrated outputs."""
        fits = all(grid.shape == goal.shape for grid, goal in zip(state, self.goal))
        for operation in (self.repertoire.keeping if fits else self.repertoire.changing).values():
            result = self._apply(operation, state, self.goal)
            if result is not None:
                yield result
        for feature in (None, *FEATURES.values()) if fits else ():
            result = self._recolour(state, feature)
            if result is not None:
                yield result

    def _apply(self, operation: Operation, state: State, goal: list[Grid] | None = None) -> State | None:
        """None where the operation does not apply to all demonstrations or to no test input, or a result is not its
        `goal`."""
        results: list[Grid | None] = []
        for index, grid in enumerate(state):
            result = None if grid is None else self._result(operation, grid)
            if index < len(self.goal) and (result is None or (goal and not _equal(result, goal[index]))):
                return None
            results.append(result)
        return None if all(result is None for result in results[len(self.goal) :]) else tuple(results)

    def _result(self, operation: Operation, grid: Grid) -> Grid | None:
        self._spend()
        result = operation(grid)
        if result is None or not result.size or max(result.shape) > MAX_SIDE:
            return None
        return result.astype(np.uint8, copy=False)

    def _recolour(self, state: State, feature: Callable[[Grid], np.ndarray] | None) -> State | None:
        """Colours become others, as the demonstrations teach: by colour alone, or by what `feature` says of a cell
        too. A test input with a case that was not demonstrated then has no answer; a colour alone stays."""
        taught: dict[int, int] = {}
        for grid, goal in zip(state, self.goal):
            codes = self._codes(grid, feature)
            for pair in np.unique(codes * COLOURS + goal).tolist():
                if taught.setdefault(pair // COLOURS, pair % COLOURS) != pair % COLOURS:
                    return None
        answers = []
        for grid in state[len(self.goal) :]:
            codes = None if grid is None else self._codes(grid, feature)
            cases = [] if codes is None else np.unique(codes).tolist()
            if codes is None or (feature and not taught.keys() >= set(cases)):
                answers.append(None)
                continue
            table = np.zeros(cases[-1] + 1, dtype=np.uint8)
            table[cases] = [taught.get(case, case % COLOURS) for case in cases]
            answers.append(table[codes])
        return (*self.goal, *answers)

    def _codes(self, grid: Grid, feature: Callable[[Grid], np.ndarray] | None) -> np.ndarray:
        self._spend()
        return grid.astype(np.int64) if feature is None else feature(grid).astype(np.int64) * COLOURS + grid

    def _spend(self) -> None:
        if self.left <= 0:
            raise _Spent
        self.left -= 1

    def _is_new(self, state: State) -> bool:
        key = _key(state)
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new

    def _nearness(self, state: State) -> float:
        """Demonstrations, in shares of their cells that are right."""
        return sum(float((grid == goal).mean()) for grid, goal in zip(state, self.goal) if grid.shape == goal.shape)


def _common(grids: Iterable[Grid]) -> list[int]:
    """The colours, but black, that are in all of them."""
    return sorted(set.intersection(*(set(np.unique(grid).tolist()) for grid in grids)) - {0})


def _equal(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _key(state: State) -> bytes:
    return b"".join(b"-" if grid is None else bytes(grid.shape) + grid.tobytes() for grid in state)
