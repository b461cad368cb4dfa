"""Induction: a search for programs that reproduce every demonstration of a task, a second opinion beside the network's.

    python -m hrm_offline induce --challenges FILE --out votes.json
    python -m hrm_offline solve --challenges FILE --out DIR --votes votes.json

A program is a sequence of operations on grids. Its last step may also be a recolouring that is learned from the
demonstrations (see `Search`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hrm_offline.answers.vote import Candidate, Pool
from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.tasks import MAX_SIDE, Task
from hrm_offline.induction.composition import State, key_of_state, put_together
from hrm_offline.induction.features import FEATURES
from hrm_offline.induction.foresight import Foresight
from hrm_offline.induction.operations import Repertoire
from hrm_offline.induction.parts import Feature, Grid, Operation

EFFORT = 10_000  # operations applied to a grid: 0.3 seconds of a core, up to 2 for a grid with hundreds of shapes
LONGEST = 3  # operations in a program
# By how much a program's votes count less for each further operation. There are about a hundred times as many programs
# that are one operation longer, so more of them fit by chance.
_ODDS = 8.0


def induce(task: Task, effort: int = EFFORT, beat: Callable[[], None] = lambda: None) -> list[list[Candidate]]:
    """Return for each test input the answers of all programs found that reproduce every demonstration, best first.

    Programs have at most `LONGEST` operations. A program with n operations has 8^(1 - n) votes; among programs that
    make the same of every grid only the first counts, which is one of the shortest. Confidence is 1: no demonstration
    speaks against any of the programs.

    The search ends after `effort` operations, each applied to one grid. The search looks at no clock, so it repeats its
    answer, and at no test output. The search calls `beat` many times per second, as a sign of life. Raises `InputError`
    where `effort` is less than 1.
    """
    pools = [Pool() for _ in task.test]
    for length, answers in Search(task, effort, beat).solutions():
        votes = _ODDS ** (1 - length)
        for pool, grid in zip(pools, answers):
            if grid is not None:
                pool.add(grid, votes, votes)
    return [pool.ranking() for pool in pools]


class _Spent(Exception):
    """The effort is spent."""


class Search:
    """A breadth-first search over states: all programs of one length before any that is longer.

    A program is known by its state, so a state that was reached before is not gone on from again. The states nearest
    to the demonstrated outputs are gone on from first. `left` is the effort that is left.
    """

    def __init__(self, task: Task, effort: int, beat: Callable[[], None] = lambda: None):
        if effort < 1:
            raise InputError(f"effort is {effort}, expected 1 or more")
        # The smallest demonstration comes first: most operations are refuted there, where they cost least.
        train = sorted(task.train, key=lambda pair: pair.input.size + pair.output.size)
        self.start: State = tuple(pair.input for pair in (*train, *task.test))
        self.goal = [pair.output for pair in train]
        self.repertoire = Repertoire.of_colours(_common(pair.input for pair in task.train), _common(self.goal))
        self.foresight = Foresight(self.repertoire, self.goal)
        self.seen = {key_of_state(self.start)}
        self.left = effort
        self.beat = beat

    def solutions(self) -> Iterator[tuple[int, State]]:
        """Yield the length of each program that reproduces all demonstrations, and its answers to the test inputs.

        The last operation of a program is held against the demonstrated outputs at once. So programs of n operations
        are found from the states of n - 1, and the states of n are made only for longer programs.
        """
        states: Iterable[State] = [self.start]
        try:
            for length in range(1, LONGEST + 1):
                known = []
                for state in states:
                    known.append(state)
                    self.beat()
                    for solution in self._last_steps(state):
                        if self._is_new(solution):
                            yield length, solution[len(self.goal) :]
                states = self._longer(known, is_last=length == LONGEST - 1)
                if length == 1:
                    states = self._nearest_first(states)
                    yield from self._compositions([self.start, *states])
        except _Spent:
            return

    def _nearest_first(self, states: Iterable[State]) -> list[State]:
        """Return the states, or those that the effort allows, the nearest to the demonstrated outputs first."""
        found: list[State] = []
        with contextlib.suppress(_Spent):
            for state in states:
                found.append(state)
        return sorted(found, key=self._nearness, reverse=True)

    def _compositions(self, states: list[State]) -> Iterator[tuple[int, State]]:
        """Yield what programs of one operation make together. Such a program counts as one of two operations."""
        for answers in put_together(states, self.goal):
            if any(answer is not None for answer in answers) and self._is_new((*self.goal, *answers)):
                yield 2, answers

    def _longer(self, states: list[State], is_last: bool) -> Iterator[State]:
        """Yield the new states that are one operation further on; if these are the last, those that may be solved."""
        for state in sorted(states, key=self._nearness, reverse=True):
            all_operations = self.repertoire.all.values()
            for operation in self.foresight.last_but_one(state[0], 0) if is_last else all_operations:
                self.beat()
                result = self._apply(operation, state, self._may_end if is_last else None)
                if result is not None and self._is_new(result):
                    yield result

    def _may_end(self, index: int, grid: Grid) -> bool:
        """Tell whether one operation more might make a demonstration's output."""
        return grid.shape == self.goal[index].shape or bool(self.foresight.operations(grid, index))

    def _last_steps(self, state: State) -> Iterator[State]:
        """Yield the states that operations make of a state and that show all demonstrated outputs."""
        has_shapes = all(grid.shape == goal.shape for grid, goal in zip(state, self.goal))
        # A state of the demonstrated shapes needs an operation that keeps them, any other one that changes them.
        first = next(i for i, goal in enumerate(self.goal) if has_shapes or state[i].shape != goal.shape)
        for operation in self.foresight.operations(state[first], first):
            result = self._apply(operation, state, self._is_goal)
            if result is not None:
                yield result
        if has_shapes:
            for feature in (None, *FEATURES.values()):
                result = self._recolour(state, feature)
                if result is not None:
                    yield result

    def _is_goal(self, index: int, grid: Grid) -> bool:
        return _equal(grid, self.goal[index])

    def _apply(
        self, operation: Operation, state: State, suits: Callable[[int, Grid], bool] | None = None
    ) -> State | None:
        """Apply an operation to all grids of a state.

        Returns None where it does not apply to every demonstration or applies to no test input, or where `suits` says
        of a demonstration's number and its new grid that they do not suit.
        """
        results: list[Grid | None] = []
        for index, grid in enumerate(state):
            result = None if grid is None else self._result(operation, grid)
            if index < len(self.goal) and (result is None or (suits and not suits(index, result))):
                return None
            results.append(result)
        answers = results[len(self.goal) :]
        return None if all(answer is None for answer in answers) else tuple(results)

    def _result(self, operation: Operation, grid: Grid) -> Grid | None:
        """Apply an operation to a grid; None where it does not apply or the result is no grid of a task."""
        self._spend()
        result = operation(grid)
        if result is None or not result.size or max(result.shape) > MAX_SIDE:
            return None
        return result if result.dtype == np.uint8 else result.astype(np.uint8)

    def _recolour(self, state: State, feature: Feature | None) -> State | None:
        """Recolour a state's grids as the demonstrations teach: by colour, or by colour and a feature of each cell.

        Returns None where one case becomes two colours in the demonstrations. With a feature, a test input that has a
        case which was not demonstrated has no answer. Without one, a colour that was not demonstrated stays.
        """
        becomes: dict[int, int] = {}  # a colour by case
        for grid, goal in zip(state, self.goal):
            cases = self._cases(grid, feature)
            for case, colour in _distinct_pairs(cases, goal):
                if becomes.setdefault(case, colour) != colour:
                    return None
        tests = state[len(self.goal) :]
        return (*self.goal, *(None if grid is None else self._recoloured(grid, feature, becomes) for grid in tests))

    def _recoloured(self, grid: Grid, feature: Feature | None, becomes: dict[int, int]) -> Grid | None:
        """Return a grid whose cases became colours; None where a feature has a case that is not among them."""
        cases = self._cases(grid, feature)
        present = np.unique(cases).tolist()
        if feature is not None and not becomes.keys() >= set(present):
            return None
        colour_of = np.zeros(present[-1] + 1, dtype=np.uint8)  # by case
        colour_of[present] = [becomes.get(case, case % COLOURS) for case in present]
        return colour_of[cases]

    def _cases(self, grid: Grid, feature: Feature | None) -> np.ndarray:
        """Return the case of each cell, int64 [rows, cols]: its colour, and ten times what a feature says of it."""
        self._spend()
        cases = grid.astype(np.int64)
        return cases if feature is None else feature(grid).astype(np.int64) * COLOURS + cases

    def _spend(self) -> None:
        """Spend the effort of one operation on one grid. Raises `_Spent` where none is left."""
        if self.left <= 0:
            raise _Spent
        self.left -= 1

    def _is_new(self, state: State) -> bool:
        """Tell whether a state was not seen before, and note that it is seen now."""
        key = key_of_state(state)
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new

    def _nearness(self, state: State) -> float:
        """Return the sum over demonstrations of the share of cells that are right; 0 for a wrong shape."""
        return sum(float((grid == goal).mean()) for grid, goal in zip(state, self.goal) if grid.shape == goal.shape)


def _distinct_pairs(cases: np.ndarray, colours: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the distinct pairs (case, colour) of cells at the same place."""
    for pair in np.unique(cases * COLOURS + colours).tolist():
        yield divmod(pair, COLOURS)


def _common(grids: Iterable[Grid]) -> list[int]:
    """Return the colours other than black that are in all of the grids."""
    return sorted(set.intersection(*(set(np.unique(grid).tolist()) for grid in grids)) - {0})


def _equal(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()
