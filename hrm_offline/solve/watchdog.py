"""End a run in time with the best answers known, whatever else hangs (a dead man's switch)."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable

from hrm_offline.common.budget import Budget

SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT"}
_LONGEST_SLEEP = 30.0


class Watchdog:
    """A thread that ends a run `margin` seconds before the budget ends, or when SIGTERM or SIGINT (Ctrl-C) arrives.

    Use the watchdog as a context manager. From entering on, signals wait until `start` says what to do about them; a
    second SIGINT before that is a `KeyboardInterrupt`. Leaving the context disarms the watchdog.

    Python's C-level signal handler writes to a socket, and the thread listens there. So a signal is heard even while
    the main thread is stuck in a system call. Outside the main thread signals are left alone.
    """

    def __init__(self, budget: Budget, margin: float):
        self.budget, self.margin = budget, margin
        self.act: Callable[[str], None] | None = None
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.ours, self.theirs = socket.socketpair()
        self.handlers: dict[int, object] = {}
        self.interrupts = 0

    def __enter__(self) -> Watchdog:
        self.theirs.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self.wakeup = signal.set_wakeup_fd(self.theirs.fileno(), warn_on_full_buffer=False)
            self.handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def start(self, act: Callable[[str], None]) -> None:
        """Watch from now on, and call `act(reason)` at most once: in `margin` seconds at the earliest, or at a signal.

        The reason is the signal's name, or says in words that the budget is spent.
        """
        self.act = act
        self.thread.start()

    def __exit__(self, *_) -> None:
        if self.handlers:
            signal.set_wakeup_fd(self.wakeup)
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
        self.theirs.close()  # ends the thread
        if self.act is not None:
            self.thread.join(1.0)
        self.ours.close()

    def _receive(self, number: int, _) -> None:
        """Note a signal. The thread acts on it, unless there is no thread yet and the user insists."""
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1 and self.act is None:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        end = max(self.budget.total, self.budget.elapsed() + 2 * self.margin) - self.margin
        while (left := end - self.budget.elapsed()) > 0:
            ready, _, _ = select.select([self.ours], [], [], min(left, _LONGEST_SLEEP))
            if not ready:
                continue
            with contextlib.suppress(OSError):
                numbers = self.ours.recv(64)
                if not numbers:
                    return
                names = [SIGNALS[number] for number in numbers if number in SIGNALS]
                if names:
                    self.act(names[0])
                    return
        self.act("the budget is all but spent")
