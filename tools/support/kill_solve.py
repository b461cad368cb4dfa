"""Kill a running solve without warning, as an operating system does that runs out of memory."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import psutil

_COMMAND = ["-m", "hrm_offline", "solve"]


def kill_solve(after: float, over: threading.Event) -> int:
    """Wait for a solve among the descendants of this process, and kill it `after` seconds after its start.

    SIGKILL goes to solve's process group, where there are groups, and to all its children. Returns the number of killed
    processes, which is 0 if solve ended before that, or if `over` was set before a solve was found.
    """
    while (solve := _find_solve()) is None:
        if over.wait(0.05):
            return 0
    over.wait(max(0.0, solve.create_time() + after - time.time()))
    with contextlib.suppress(psutil.NoSuchProcess):
        if solve.status() == psutil.STATUS_ZOMBIE:
            return 0
        victims = [solve, *solve.children(recursive=True)]
        # Windows has no groups. A notebook of an older version starts solve in our own group.
        if hasattr(os, "killpg") and os.getpgid(solve.pid) != os.getpgid(0):
            os.killpg(os.getpgid(solve.pid), signal.SIGKILL)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(victims)
    return 0


def _find_solve() -> psutil.Process | None:
    """Return the oldest process that runs solve. Its workers, which may have the same command line, are younger."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(words[i : i + len(_COMMAND)] == _COMMAND for i in range(len(words))):
                found.append((process.create_time(), process.pid, process))
    return min(found)[2] if found else None
