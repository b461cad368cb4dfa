"""Test what a run says of itself at the end."""

from types import SimpleNamespace

from hrm_offline.common.budget import Budget
from hrm_offline.solve.report import last_line, rates_of


def ended(adapt, predict, examples=(300, 100), tokens=5000):
    """Return a supervisor that spent so many seconds on each phase."""
    groups = [SimpleNamespace(report={"examples": count}) for count in examples] + [SimpleNamespace(report=None)]
    return SimpleNamespace(
        budget=Budget(100, 0.0, lambda: 65.0),
        schedule=SimpleNamespace(groups=groups),
        worker_seconds={"adapt": adapt, "predict": predict},
        predicted_tokens=tokens,
    )


def test_rates_are_of_the_time_that_each_phase_took():
    assert rates_of(ended(8.0, 2.0)) == {
        "examples learned per second": 50.0,
        "canvas tokens predicted per second": 2500.0,
    }
    assert last_line(ended(8.0, 2.0)) == (
        "done in 1 min 5 s of 1 min 40 s; 50 examples/s learned, 2,500 tokens/s predicted"
    )


def test_a_phase_that_did_not_happen_has_no_rate():
    assert last_line(ended(0.0, 0.0)) == "done in 1 min 5 s of 1 min 40 s"
