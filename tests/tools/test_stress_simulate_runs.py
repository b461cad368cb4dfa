"""Test some simulated runs of the schedule, always the same ones."""

import pytest

from tools.stress.simulate_runs import simulate


# Seeds whose runs have few tasks, and so take a short time. Those of odd seeds are calm, and 50 has no time at all.
@pytest.mark.parametrize(
    ("seeds", "sharing"),
    [
        ((2, 6, 7, 8, 9, 48), "sharded"),
        ((15, 19, 20, 36, 50, 56), "sharded"),
        ((2, 8, 9, 19, 50, 59), "per-task"),
    ],
)
def test_simulated_runs_end_in_time_and_use_it(seeds, sharing):
    outcomes = [simulate(seed, sharing) for seed in seeds]
    for outcome in outcomes:
        assert outcome.late <= 0, outcome
        assert outcome.valid, outcome
        assert outcome.used is None or outcome.used >= 0.95, outcome
    assert any(outcome.used is not None for outcome in outcomes)  # their workers did come up
