"""Test views of a task: recolouring and symmetries, and their inverse."""

import numpy as np
import pytest
from grid_samples import BY_NUMPY, GRIDS, VIEWS
from hypothesis import HealthCheck, given, settings

from hrm_offline.data.augment import View, views_of
from hrm_offline.data.tasks import Pair, Task


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing is slow where the machine is busy
@given(GRIDS, VIEWS)
def test_a_view_is_exactly_invertible(grid, view):
    assert np.array_equal(view.invert(view.apply(grid)), grid)


def test_views_are_distinct_reproducible_and_keep_black(make_task):
    task = make_task(seed=1)
    views = list(views_of(task, seed=3, colour_permutations=20))
    assert views == list(views_of(task, seed=3, colour_permutations=20))
    assert views != list(views_of(task, seed=4, colour_permutations=20))
    assert len(views) == 28
    assert [v.element for v in views[:8]] == list(range(8))
    assert all(v.colours[0] == 0 for v in views)
    contents = {b"".join(v.apply(g).tobytes() for p in task.train for g in (p.input, p.output)) for v in views}
    assert len(contents) == len(views)
    assert all(v.element == 0 for v in views_of(task, 3, rotations=False, flips=False, colour_permutations=5))


def test_views_of_equal_content_are_left_out():
    square = np.ones((2, 2), dtype=np.uint8)
    task = Task("s", (Pair(square, square),), (Pair(square, None),))
    views = list(views_of(task, seed=0, colour_permutations=100))
    assert [v.element for v in views[:1]] == [0]
    assert len(views) == 9  # one dihedral view, and colour 1 becoming one of the eight others
    striped = np.array([[1, 2], [1, 2]], dtype=np.uint8)
    assert len(views_of(Task("s", (Pair(striped, striped),), (Pair(striped, None),)), 0)) == 4


@pytest.mark.parametrize("element", range(8))
def test_view_applies_colours_and_dihedral(element):
    view = View(element, (0, 2, 1, *range(3, 10)))
    grid = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    assert np.array_equal(view.apply(grid), BY_NUMPY[element](np.array([[2, 1, 3], [4, 5, 6]])))
