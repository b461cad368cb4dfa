"""Test that operations are ruled out only where they cannot make the goal, and that most are."""

import numpy as np
import pytest

from hrm_offline.data.tasks import MAX_SIDE
from hrm_offline.induction.foresight import Foresight
from hrm_offline.induction.operations import Repertoire

COLOURS = range(1, 4)
REPERTOIRE = Repertoire.of_colours(COLOURS, COLOURS)


def draw(seed):
    """Draw a grid of few colours, in which operations find shapes, holes and repeats."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(1, 4, rng.integers(1, 9, 2))
    return (grid * (rng.random(grid.shape) < rng.choice([0.3, 0.6, 0.9]))).astype(np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_no_operation_that_makes_a_goal_is_ruled_out(seed):
    grid, ruled_out, tried = draw(seed), 0, 0
    for operation in REPERTOIRE.all.values():
        goal = operation(grid)
        if goal is None or not goal.size or max(goal.shape) > MAX_SIDE:
            continue
        goal = goal.astype(np.uint8)
        possible = Foresight(REPERTOIRE, [goal]).operations(grid, 0)
        group = REPERTOIRE.keeping if goal.shape == grid.shape else REPERTOIRE.changing
        makers = [other for other in group.values() if np.array_equal(other(grid), goal)]
        assert all(maker in possible for maker in makers)
        ruled_out, tried = ruled_out + len(group) - len(possible), tried + len(group)
    assert ruled_out > tried / 3


def test_a_colour_from_nowhere_can_only_be_a_frame():
    grid = np.ones((3, 3), np.uint8)
    goal = np.full((5, 5), 2, np.uint8)
    assert Foresight(REPERTOIRE, [goal]).operations(grid, 0) == list(REPERTOIRE.framing.values())
