"""Test that every operation takes any grid and leaves it as it was."""

import numpy as np
import pytest

from hrm_offline.induction.features import FEATURES
from hrm_offline.induction.operations import Repertoire

SHAPES = [(1, 1), (1, 1), (1, 1), (1, 7), (7, 1), (2, 2), (3, 4), (5, 5), (8, 8), (30, 30), (30, 1), (29, 30)]
RANDOM = [
    np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8) * (seed % 3 != 2)
    for seed, shape in enumerate(SHAPES)
]


@pytest.mark.parametrize("grid", RANDOM)
def test_operations_take_any_grid_and_leave_it_as_it_was(grid):
    before, repertoire = grid.copy(), Repertoire.of_colours(range(1, 4), range(1, 4))
    for name, operation in (repertoire.keeping | repertoire.changing).items():
        result = operation(grid)
        assert result is None or (result.ndim == 2 and result.max(initial=0) <= 9), name
        if name in repertoire.keeping.keys() - repertoire.changing.keys():
            assert result is None or result.shape == grid.shape, name
    for name, feature in FEATURES.items():
        found = feature(grid)
        assert found.shape == grid.shape, name
        assert found.min() >= 0, name
    assert np.array_equal(grid, before)
