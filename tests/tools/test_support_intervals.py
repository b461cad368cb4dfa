"""Test the intervals of means."""

import numpy as np
import pytest

from tools.support.intervals import bootstrap, clustered_bootstrap


def test_the_bootstrap_interval_is_the_normals_for_a_large_sample():
    values = np.random.default_rng(3).normal(0.5, 2.0, 400)
    error = 1.96 * values.std() / 20
    assert bootstrap(values) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert bootstrap(np.ones(5)) == (1.0, 1.0)


def test_seeds_widen_an_interval_by_what_they_do_to_all_tasks_alike():
    rng = np.random.default_rng(4)
    tasks, chance = rng.normal(1.0, 0.5, (1, 300)), rng.normal(0, 1.0, (4, 300))

    def half_width(values):
        low, high = clustered_bootstrap(values)
        return (high - low) / 2

    of_tasks = 1.96 * (tasks + chance).mean(axis=0).std() / 300**0.5
    assert half_width(tasks + chance - chance.mean(axis=1, keepdims=True)) == pytest.approx(of_tasks, rel=0.05)
    shifts = np.array([[-0.3], [0.3], [-0.3], [0.3]])
    of_seeds = 1.96 * shifts.std(ddof=1) / 2
    assert half_width(tasks + chance + shifts) == pytest.approx(np.hypot(of_tasks, of_seeds), rel=0.1)
    assert clustered_bootstrap(tasks) == bootstrap(tasks[0])  # of one seed


def test_the_clustered_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        values = rng.normal(0, 0.3, (1, 40)) + rng.normal(0, 0.04, (5, 1)) + rng.normal(0, 0.5, (5, 40))
        low, high = clustered_bootstrap(values)
        held += low < 0 < high
    assert 0.90 <= held / 200 <= 0.98
