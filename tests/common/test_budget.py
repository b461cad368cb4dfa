"""Test durations, the budget's clock and the pace of steps."""

import pytest

from hrm_offline.common.budget import Budget, Pace, parse_duration
from hrm_offline.common.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("11h30m", 41400), ("3m", 180), ("90s", 90), ("90", 90), ("1.5h", 5400), ("1h1m1s", 3661), ("0", 0)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "3 m", "-3m", "m", "3x", "3m2h", "nan", "inf", "-1", "1e20", "1" + 20 * "0", 400 * "9" + "h"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError):
        parse_duration(text)


def test_budget_counts_from_the_start_of_the_process():
    now = [100.0]
    budget = Budget(60, started=90.0, clock=lambda: now[0])
    assert (budget.elapsed(), budget.remaining()) == (10, 50)
    assert budget.plannable() == pytest.approx(50 - 0.02 * 60)  # less what writing needs
    now[0] = 200.0
    assert (budget.remaining(), budget.plannable()) == (-50, 0)


def test_a_clock_that_jumps_back_makes_no_time():
    now = [100.0]
    budget = Budget(60, clock=lambda: now[0])
    for time, elapsed in ((130.0, 30), (10.0, 30), (15.0, 35), (45.0, 65)):
        now[0] = time
        assert budget.elapsed() == elapsed


def test_pace_is_of_the_last_steps_without_the_first_ones():
    pace, now = Pace(window=10), 0.0
    for seconds in [50.0] * 5 + [2.0] * 30:
        assert pace.seconds() in (None, 2.0)
        now += seconds
        pace.tick(now)
    assert pace.slowdown() == 1.0
    for _ in range(10):
        now += 6.0
        pace.tick(now)
    assert (pace.seconds(), pace.slowdown()) == (6.0, 3.0)
