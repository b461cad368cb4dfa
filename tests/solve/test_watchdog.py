"""Test that a run ends in time with a valid file, whatever hangs, and at once on SIGTERM and Ctrl-C."""

import signal
import sys
import threading
import time

import pytest
from runs import check, options_of, said_until_signal

from hrm_offline.common.budget import Budget
from hrm_offline.common.lock import LOCK_FILE
from hrm_offline.solve.job import solve
from hrm_offline.solve.pool import InlinePool
from hrm_offline.solve.watchdog import Watchdog
from hrm_offline.solve.worker import Worker


def test_the_switch_ends_a_run_whose_leader_is_stuck(challenges, tmp_path):
    """Check that the run ends in time, that its file is valid, and that the report gives the reason."""
    released = threading.Event()

    class Stuck(InlinePool):
        def receive(self, timeout):
            released.wait(60)
            raise KeyboardInterrupt

    ended = []

    def end_process(code):
        ended.append((code, time.monotonic()))
        released.set()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        solve(options_of(challenges, tmp_path), Budget(1.5), lambda _: None, end_process, Stuck(Worker))
    assert [code for code, _ in ended] == [0]
    assert ended[0][1] - start < 1.5
    _, report = check(tmp_path / "out", challenges[1])
    assert report["ended early"] == "the budget is all but spent"


@pytest.fixture
def signalled(challenges, tmp_path):
    """Return a function that runs `solve`, raises signals while it leads, and returns the exit codes and the report."""

    def run(*numbers):
        released, codes = threading.Event(), []

        class Signalled(InlinePool):
            def receive(self, timeout):
                for number in numbers:
                    signal.raise_signal(number)
                released.wait(60)
                raise ZeroDivisionError("the main thread goes on and finds its workers gone")

        def end_process(code):
            codes.append(code)
            released.set()

        said = []
        solve(options_of(challenges, tmp_path), Budget(300), said.append, end_process, Signalled(Worker))
        return codes, check(tmp_path / "out", challenges[1])[1], said

    return run


@pytest.mark.parametrize(
    ("numbers", "code", "name"),
    [
        ([signal.SIGTERM], 0, "SIGTERM"),
        ([signal.SIGINT], 130, "SIGINT"),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130, "SIGINT"),
        ([signal.SIGTERM, signal.SIGINT], 0, "SIGTERM"),
    ],
)
def test_a_signal_ends_a_run_with_a_report(signalled, numbers, code, name, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    codes, report, said = signalled(*numbers)
    assert codes == [code]
    assert report["ended early"] == name
    assert report["failures"] == []
    assert any(f"ended early with the best answers known ({name})" in line for line in said)
    assert not (tmp_path / "out" / LOCK_FILE).exists()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_that_comes_too_early_waits_until_there_is_something_to_write():
    acted, done = [], threading.Event()
    with Watchdog(Budget(300), 1.0) as watchdog:
        signal.raise_signal(signal.SIGINT)
        watchdog.start(lambda reason: (acted.append(reason), done.set()))
        assert done.wait(10)
    assert acted == ["SIGINT"]


def test_a_user_who_insists_before_there_is_anything_to_write_is_obeyed():
    with Watchdog(Budget(300), 1.0):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_reaches_the_workers_too_and_shows_no_traceback(challenges, tmp_path):
    command = [sys.executable, "-m", "hrm_offline", "solve", "--challenges", str(challenges[0])]
    command += ["--out", str(tmp_path / "out"), "--visits", "100000", "--budget", "10m"]
    said = said_until_signal(command, signal.SIGINT, 130, times=2)
    assert "ended early with the best answers known (SIGINT)" in said
    assert check(tmp_path / "out", challenges[1])[1]["ended early"] == "SIGINT"
