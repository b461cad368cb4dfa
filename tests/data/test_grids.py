"""Test symmetries of grids, and that an encoded grid is read back."""

import numpy as np
import pytest
from grid_samples import BY_NUMPY, GRIDS
from hypothesis import given
from hypothesis import strategies as st

from hrm_offline.common.tokens import EOS, PAD
from hrm_offline.data.grids import crop, dihedral, encode, symmetries


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
