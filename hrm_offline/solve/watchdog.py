"""The dead man's switch: whatever else hangs, the run ends in time with the best answers known."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable

from hrm_offline.common.budget import Budget

_LONGEST_SLEEP = 30.0


class Watchdog:
    """A thread that calls `act(reason)` once: `margin` seconds before the budget ends, or, where that is near
    or past already, `margin` seconds from now; or as soon as SIGTERM arrives. Used as a context manager;
    leaving it disarms.

    SIGTERM wakes the thread through a socket that the system's own handler writes to, so that it is heard even
    while the main thread is stuck in a system call. Outside the main thread signals are left alone.
    """

    def __init__(self, budget: Budget, margin: float, act: Callable[[str], None]):
        self.budget, self.margin, self.act = budget, margin, act
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.ours, self.theirs = socket.socketpair()

    def __enter__(self) -> Watchdog:
        self.theirs.setblocking(False)
        self.handler = None
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGTERM, lambda *_: None)
            self.wakeup = signal.set_wakeup_fd(self.theirs.fileno(), warn_on_full_buffer=False)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        if self.handler is not None:
            signal.set_wakeup_fd(self.wakeup)
            signal.signal(signal.SIGTERM, self.handler)
        self.theirs.close()  # ends the thread
        self.thread.join(1.0)
        self.ours.close()

    def _watch(self) -> None:
        end = max(self.budget.total, self.budget.elapsed() + 2 * self.margin) - self.margin
        while (left := end - self.budget.elapsed()) > 0:
            ready, _, _ = select.select([self.ours], [], [], min(left, _LONGEST_SLEEP))
            if not ready:
                continue
            with contextlib.suppress(OSError):
                signals = self.ours.recv(64)
                if not signals:
                    return
                if signal.SIGTERM in signals:
                    self.act("SIGTERM")
                    return
        self.act("the budget is all but spent")
