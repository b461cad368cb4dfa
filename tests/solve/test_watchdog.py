"""Test that a run ends in time with a valid file, whatever hangs, and at once on SIGTERM."""

import sys
import threading
import time

import pytest
from runs import check, options_of, said_until_sigterm

from hrm_offline.common.budget import Budget
from hrm_offline.solve.job import solve
from hrm_offline.solve.pool import InlinePool
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
        solve(options_of(challenges, tmp_path), Budget(3.0), lambda _: None, end_process, Stuck(Worker))
    assert [code for code, _ in ended] == [0]
    assert ended[0][1] - start < 3.0
    _, report = check(tmp_path / "out", challenges[1])
    assert report["ended early"] == "the budget is all but spent"


def test_sigterm_ends_a_run_at_once_with_exit_0(challenges, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "hrm_offline",
        "solve",
        "--challenges",
        str(challenges[0]),
        "--out",
        str(out),
        "--visits",
        "100000",
        "--budget",
        "10m",
    ]
    assert "ended early with the best answers known (SIGTERM)" in said_until_sigterm(command)
    _, report = check(out, challenges[1])
    assert report["ended early"] == "SIGTERM"
