"""Test connected shapes in a grid."""

import numpy as np

from hrm_offline.data.shapes import bounding_box, components


def test_shapes_are_connected_along_sides_or_across_corners():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    assert components(mask).tolist() == [[1, 0, 2], [0, 2, 2], [0, 0, 0], [3, 0, 0]]
    assert components(mask, diagonal=True).tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0], [2, 0, 0]]
    assert bounding_box(mask[2:]) == (slice(1, 2), slice(0, 1))
