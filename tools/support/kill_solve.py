"""The rehearsal's accident: a solve that is killed without warning, as when a machine runs out of memory."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import psutil

_COMMAND = ["-m", "hrm_offline", "solve"]


def kill_solve(after: float, over: threading.Event) -> int:
    """Wait for a solve among this process's descendants and send SIGKILL to its process group and all its children,
    `after` seconds after it started. Returns how many processes that were: 0 if it ended before, or `over` was set."""
    while (solve := _find()) is None:
        if over.wait(0.05):
            return 0
    over.wait(max(0.0, solve.create_time() + after - time.time()))
    with contextlib.suppress(psutil.NoSuchProcess):
        if solve.status() == psutil.STATUS_ZOMBIE:
            return 0
        victims = [solve, *solve.children(recursive=True)]
        if os.getpgid(solve.pid) != os.getpgid(0):  # an older notebook's solve shares the rehearsal's own group
            os.killpg(os.getpgid(solve.pid), signal.SIGKILL)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(victims)
    return 0


def _find() -> psutil.Process | None:
    """The solve that was started first, since its workers may have a command line like it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(words[i : i + len(_COMMAND)] == _COMMAND for i in range(len(words))):
                found.append((process.create_time(), process.pid, process))
    return min(found)[2] if found else None
