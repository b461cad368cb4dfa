"""Test the intervals of means."""

import numpy as np
import pytest

from tools.support.intervals import bootstrap


def test_the_bootstrap_interval_is_the_normals_for_a_large_sample():
    values = np.random.default_rng(3).normal(0.5, 2.0, 400)
    error = 1.96 * values.std() / 20
    assert bootstrap(values) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert bootstrap(np.ones(5)) == (1.0, 1.0)
