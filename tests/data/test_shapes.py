"""Test connected shapes in a grid."""

import numpy as np

from hrm_offline.data.shapes import bounding_box, components, distances


def test_shapes_are_connected_along_sides_or_across_corners():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    assert components(mask).tolist() == [[1, 0, 2], [0, 2, 2], [0, 0, 0], [3, 0, 0]]
    assert components(mask, diagonal=True).tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0], [2, 0, 0]]
    assert bounding_box(mask[2:]) == (slice(1, 2), slice(0, 1))


def test_distances_go_around_walls():
    mask = np.array([[1, 0, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    assert distances(mask, (0, 0)).tolist() == [[0, -1, -1], [1, -1, -1], [2, 3, -1]]
    assert distances(mask, (0, 0), diagonal=True).tolist() == [[0, -1, 4], [1, -1, 3], [2, 2, -1]]
