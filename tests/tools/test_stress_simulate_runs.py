"""Test some simulated runs of the schedule, always the same ones."""

import pytest

from tools.stress.simulate_runs import simulate


@pytest.mark.parametrize(("first", "sharing"), [(0, "sharded"), (10, "sharded"), (0, "per-task")])
def test_simulated_runs_end_in_time_and_use_it(first, sharing):
    outcomes = [simulate(seed, sharing) for seed in range(first, first + 6)]
    for outcome in outcomes:
        assert outcome.late <= 0, outcome
        assert outcome.valid, outcome
        assert outcome.used is None or outcome.used >= 0.95, outcome
    assert any(outcome.used is not None for outcome in outcomes)  # their workers did come up
