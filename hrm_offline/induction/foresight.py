"""Tell which operations might turn one grid into another, without applying them: most can be ruled out at a glance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.induction.operations import Grid, Operation, Repertoire

_BLACK = 0


class Foresight:
    """The operations of a repertoire that might make the goals, which are demonstrated outputs.

    No operation that can make a goal is ever left out.
    """

    def __init__(self, repertoire: Repertoire, goals: list[Grid]):
        self.repertoire, self.goals = repertoire, goals
        self.colours = [set(goal.tobytes()) for goal in goals]
        self.counts = [_counts(goal) for goal in goals]
        self.rows = [{row.tobytes() for row in goal} for goal in goals]
        self.keeping: dict[tuple[bool, ...], list[Operation]] = {}  # by the groups of operations that are possible
        self.changing: dict[tuple, _Changing] = {}  # by the shapes of grid and goal

    def operations(self, grid: Grid, index: int) -> list[Operation]:
        """Return the operations that might make the goal of that index of a grid, in the order of the repertoire.

        Where the grid has the goal's shape, only operations that keep it are named, else only those that change it.
        """
        shapes = grid.shape, self.goals[index].shape
        if shapes[0] == shapes[1]:
            return self._keeping(grid, index)
        if shapes not in self.changing:
            self.changing[shapes] = self._changing(*shapes)
        found, cells = self.changing[shapes], grid.tobytes()
        if self.colours[index] - set(cells) - {_BLACK}:
            return found.framing
        # A rectangle of the grid has only rows that are somewhere in the grid's.
        is_cut_out = found.cropping and all(row in cells for row in self.rows[index])
        return found.with_cropping if is_cut_out else found.without_cropping

    def _keeping(self, grid: Grid, index: int) -> list[Operation]:
        """Return the operations that might make a goal of a grid of its shape."""
        goal, groups = self.goals[index], self.repertoire
        is_same = grid == goal
        possible = (
            _counts(grid) == self.counts[index],
            bool((is_same | (grid == _BLACK)).all()),
            bool((is_same | (goal == _BLACK)).all()),
        )
        if possible not in self.keeping:
            found: dict[str, Operation] = {}
            for is_possible, group in zip(possible, (groups.moving, groups.filling, groups.erasing)):
                found |= group if is_possible else {}
            self.keeping[possible] = list((found | groups.free).values())
        return self.keeping[possible]

    def _changing(self, shape: tuple[int, int], goal: tuple[int, int]) -> _Changing:
        """Return the operations that might make a grid of one shape of a grid of another.

        Those whose result has a shape that follows from the grid's are tried on a black grid.
        """
        groups, blank = self.repertoire, np.zeros(shape, dtype=np.uint8)
        sizing, framing = (
            [operation for operation in group.values() if _shape_of(operation(blank)) == goal]
            for group in (groups.sizing, groups.framing)
        )
        is_smaller = goal[0] <= shape[0] and goal[1] <= shape[1]
        cropping, thinning = (
            list(group.values()) if is_smaller else [] for group in (groups.cropping, groups.thinning)
        )
        return _Changing(framing, cropping, [*sizing, *framing, *thinning], [*sizing, *framing, *thinning, *cropping])


@dataclass(frozen=True)
class _Changing:
    """The operations that might make a grid of a shape: framing ones, cropping ones, all but cropping ones, and all."""

    framing: list[Operation]
    cropping: list[Operation]
    without_cropping: list[Operation]
    with_cropping: list[Operation]


def _shape_of(grid: Grid | None) -> tuple[int, ...] | None:
    return None if grid is None else grid.shape


def _counts(grid: Grid) -> bytes:
    """Return how many cells of each colour a grid has."""
    return np.bincount(grid.ravel(), minlength=COLOURS).tobytes()
