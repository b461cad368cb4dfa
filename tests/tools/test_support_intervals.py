"""Test the intervals of shares and means."""

import numpy as np
import pytest

from tools.support.intervals import bootstrap, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (5, 10), (41, 100), (10, 10), (1, 1)])
def test_wilsons_interval_ends_where_the_sample_is_1_96_standard_errors_off(successes, trials):
    share, ends = successes / trials, wilson(successes, trials)
    for p in ends:
        assert (share - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / trials, abs=1e-6)
    assert ends[0] - 1e-12 <= share <= ends[1] + 1e-12
    assert ends[0] < ends[1]


def test_wilsons_interval_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_interval_is_the_normals_for_a_large_sample():
    values = np.random.default_rng(3).normal(0.5, 2.0, 400)
    error = 1.96 * values.std() / 20
    assert bootstrap(values) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert bootstrap(np.ones(5)) == (1.0, 1.0)
