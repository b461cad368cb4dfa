"""End a run in time with the best answers known, whatever else hangs (a dead man's switch)."""

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
    """A thread that calls `act(reason)` once, `margin` seconds before the budget ends or when SIGTERM arrives.

    If the end of the budget is nearer than that, the thread waits `margin` seconds from now. Use the watchdog as a
    context manager; leaving the context disarms it.

    Python's C-level signal handler writes to a socket, and the thread listens there. So SIGTERM is heard even while the
    main thread is stuck in a system call. Outside the main thread signals are left alone.
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
