"""Test which results of programs are put together, and that a test input which a part lacks has no answer."""

import numpy as np

from hrm_offline.induction.composition import put_together

GRID = np.array([[1, 0, 2], [0, 3, 0], [7, 0, 4]], dtype=np.uint8)
OTHER = np.array([[5, 5, 0], [0, 1, 0], [6, 0, 0]], dtype=np.uint8)


def answers(states, *goal):
    return [None if grids[0] is None else grids[0].tolist() for grids in put_together(states, list(goal))]


def both(make):
    """Return a state: what `make` makes of one demonstration's input and of one test input."""
    return make(GRID), make(OTHER)


SAME, FLIPPED = both(lambda grid: grid), both(np.fliplr)


def test_blocks_may_be_any_results_or_black():
    wanted = [[grid, np.fliplr(grid)] for grid in (GRID, OTHER)]
    wanted = [np.block([line, [0 * line[0], line[0]]]) for line in wanted]
    assert answers([SAME, FLIPPED], wanted[0]) == [wanted[1].tolist()]
    assert answers([SAME], wanted[0]) == []


def test_one_result_is_laid_over_another():
    upper, lower = both(np.triu), both(np.tril)
    assert answers([FLIPPED, upper, lower], GRID) == [OTHER.tolist()] * 2
    assert answers([FLIPPED, upper], GRID) == []


def test_where_results_disagree_the_upper_one_shows():
    full, part = (GRID, OTHER), (np.triu(GRID, 1), np.full((3, 3), 7, np.uint8))
    assert answers([FLIPPED, full, part], GRID) == [np.full((3, 3), 7).tolist()]


def test_a_test_input_that_a_part_lacks_or_that_does_not_fit_has_no_answer():
    goal = np.hstack([GRID, np.fliplr(GRID)])
    assert answers([SAME, (FLIPPED[0], None)], goal) == [None]
    assert answers([SAME, (FLIPPED[0], OTHER[:1])], goal) == [None]
    wide = np.zeros((3, 20), np.uint8)
    assert answers([(GRID, wide), (FLIPPED[0], wide)], goal) == [None]
