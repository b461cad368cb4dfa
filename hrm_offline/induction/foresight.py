"""Tell which operations might turn one grid into another, without applying them: most can be ruled out at a glance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.tasks import MAX_SIDE
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
        self.openings: dict[tuple, list[Operation]] = {}  # likewise

    def operations(self, grid: Grid, index: int) -> list[Operation]:
        """Return the operations that might make the goal of that index of a grid, in the order of the repertoire.

        Where the grid has the goal's shape, only operations that keep it are named, else only those that change it.
        """
        goal = self.goals[index].shape
        if grid.shape == goal:
            return self._keeping(grid, index)
        found, cells = self._changing(grid.shape, goal), grid.tobytes()
        if self.colours[index] - set(cells) - {_BLACK}:
            return found.framing
        # A rectangle of the grid has only rows that are somewhere in the grid's.
        is_cut_out = found.cropping and all(row in cells for row in self.rows[index])
        return found.with_cropping if is_cut_out else found.without_cropping

    def last_but_one(self, grid: Grid, index: int) -> list[Operation]:
        """Return the operations after which one operation more might make the goal of that index of a grid.

        Only the shapes are looked at.
        """
        shapes = grid.shape, self.goals[index].shape
        if shapes not in self.openings:
            blank, hopeless = np.zeros(grid.shape, dtype=np.uint8), set()
            for name, operation in (self.repertoire.sizing | self.repertoire.framing).items():
                shape = _shape_of(operation(blank))
                if shape is None or (shape != shapes[1] and not self._changing(shape, shapes[1]).with_cropping):
                    hopeless.add(name)
            every = self.repertoire.all
            self.openings[shapes] = [operation for name, operation in every.items() if name not in hopeless]
        return self.openings[shapes]

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

    def _changing(self, shape: tuple[int, ...], goal: tuple[int, ...]) -> _Changing:
        """Return the operations that might make a grid of one shape of a grid of another.

        Those whose result has a shape that follows from the grid's are tried on a black grid.
        """
        if (shape, goal) not in self.changing:
            groups, blank = self.repertoire, np.zeros(shape, dtype=np.uint8)
            sizing, framing = (
                [operation for operation in group.values() if _shape_of(operation(blank)) == goal]
                for group in (groups.sizing, groups.framing)
            )
            is_smaller = goal[0] <= shape[0] and goal[1] <= shape[1]
            cropping, thinning = (
                list(group.values()) if is_smaller else [] for group in (groups.cropping, groups.thinning)
            )
            others = [*sizing, *framing, *thinning]
            self.changing[shape, goal] = _Changing(framing, cropping, others, [*others, *cropping])
        return self.changing[shape, goal]


@dataclass(frozen=True)
class _Changing:
    """The operations that might make a grid of a shape: framing ones, cropping ones, all but cropping ones, and all."""

    framing: list[Operation]
    cropping: list[Operation]
    without_cropping: list[Operation]
    with_cropping: list[Operation]


def _shape_of(grid: Grid | None) -> tuple[int, ...] | None:
    """Return the shape of an operation's result; None where it does not apply, or where no task has such a grid."""
    return None if grid is None or not grid.size or max(grid.shape) > MAX_SIDE else grid.shape


def _counts(grid: Grid) -> bytes:
    """Return how many cells of each colour a grid has."""
    return np.bincount(grid.ravel(), minlength=COLOURS).tobytes()
