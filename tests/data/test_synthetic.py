"""Test the made-up families of tasks."""

import numpy as np
import pytest

from hrm_offline.data.leaks import content_of
from hrm_offline.data.synthetic import FAMILIES, synthetic_tasks
from hrm_offline.data.tasks import Pair


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_makes_valid_tasks_that_say_something(name):
    number = list(FAMILIES).index(name)
    for task in synthetic_tasks(2 * len(FAMILIES), max_side=10)[number :: len(FAMILIES)]:
        pairs = (*task.train, *task.test)
        assert task.id.startswith(f"synthetic-{name}-")
        assert len(task.train) >= 3
        assert all(
            grid.dtype == np.uint8 and grid.max() < 10 and min(grid.shape) >= 1 and max(grid.shape) <= 10
            for pair in pairs
            for grid in (pair.input, pair.output)
        )
        assert any(not np.array_equal(pair.input, pair.output) for pair in pairs)
        assert len({content_of(Pair(pair.input, None)) for pair in pairs}) > 1


def test_made_up_tasks_depend_on_their_number_alone():
    few, many = synthetic_tasks(5, 12), synthetic_tasks(30, 12)
    for ours, theirs in zip(few, many):
        assert ours.id == theirs.id
        for a, b in zip((*ours.train, *ours.test), (*theirs.train, *theirs.test), strict=True):
            assert np.array_equal(a.input, b.input)
            assert np.array_equal(a.output, b.output)
