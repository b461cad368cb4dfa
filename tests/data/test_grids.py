import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hrm_offline.common.tokens import EOS, PAD
from hrm_offline.data.augment import View, views_of
from hrm_offline.data.grids import crop, dihedral, encode, symmetries
from hrm_offline.data.tasks import Pair, Task

GRIDS = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 9))
VIEWS = st.builds(View, st.integers(0, 7), st.permutations(range(10)).map(tuple))
BY_NUMPY = (
    lambda g: g,
    lambda g: np.rot90(g, 1),
    lambda g: np.rot90(g, 2),
    lambda g: np.rot90(g, 3),
    np.fliplr,
    np.flipud,
    lambda g: g.T,
    lambda g: np.fliplr(np.rot90(g, 1)),
)


@given(GRIDS, VIEWS)
def test_a_view_is_exactly_invertible(grid, view):
    assert np.array_equal(view.invert(view.apply(grid)), grid)


@given(GRIDS, st.integers(0, 7))
def test_dihedral_elements_are_numbered_as_published(grid, element):
    assert np.array_equal(dihedral(grid, element), BY_NUMPY[element](grid))


@given(GRIDS, st.data())
def test_encoding_marks_the_edge_and_crop_reads_it_back(grid, data):
    rows, cols = grid.shape
    canvas = (data.draw(st.integers(rows, 30)), data.draw(st.integers(cols, 30)))
    board = encode(grid, canvas).reshape(canvas)
    assert np.array_equal(board[:rows, :cols], grid + 2)
    assert (board[rows : rows + 1, :cols] == EOS).all()
    assert (board[:rows, cols : cols + 1] == EOS).all()
    assert (board[rows + 1 :] == PAD).all()
    assert (board[:, cols + 1 :] == PAD).all()
    assert np.array_equal(crop(board, canvas), grid)


def test_crop_takes_the_largest_rectangle_and_the_flatter_of_equals():
    assert crop(np.array([2, 2, 2, 2, 1, 1, 2, 1, 1]), (3, 3)).shape == (1, 3)  # areas 3 and 3
    assert crop(np.array([2, 2, 2, 2, 2, 1, 2, 1, 1]), (3, 3)).shape == (2, 2)
    assert crop(np.array([0, 2, 2, 2]), (2, 2)).shape == (0, 0)
    assert crop(np.full(4, 12), (2, 2)).shape == (0, 0)  # beyond the vocabulary


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
    assert any(v.colours[0] != 0 for v in views_of(task, 3, colour_permutations=20, keep_black=False))
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


@pytest.mark.parametrize(
    ("rotations", "flips", "count"), [(True, True, 8), (True, False, 4), (False, True, 4), (False, False, 1)]
)
def test_symmetries_are_the_group_that_their_kinds_generate(rotations, flips, count):
    grid = np.arange(6).reshape(2, 3)
    made = {dihedral(grid, e).tobytes() + bytes(dihedral(grid, e).shape) for e in symmetries(rotations, flips)}
    assert len(made) == count
    closed = {
        dihedral(dihedral(grid, a), b).tobytes() + bytes(dihedral(dihedral(grid, a), b).shape)
        for a in symmetries(rotations, flips)
        for b in symmetries(rotations, flips)
    }
    assert closed == made
    assert (np.fliplr(grid).tobytes() + bytes(grid.shape) in made) == flips
    assert (np.rot90(grid).tobytes() + bytes((3, 2)) in made) == rotations
