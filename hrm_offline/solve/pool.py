"""Start, reach and stop workers: each in a process of its own, or one inside this process."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import connection, get_context
from typing import Any

from hrm_offline.solve.messages import Lost, State

_FAREWELL_SECONDS = 1.0


class ProcessPool:
    """A process for each slot. Each process runs `target(connection)`, which must be importable.

    Processes are spawned and not forked, since a fork could share a CUDA context or a lock by accident.
    """

    def __init__(self, target: Callable[..., None] | None = None):
        self.context = get_context("spawn")
        self.target = target or _work
        self.workers: dict[int, tuple[Any, Any]] = {}  # process and connection by slot

    def start(self, slot: int) -> None:
        """Start a worker in an empty slot."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=self.target, args=(theirs,), daemon=True, name=f"worker-{slot}")
        process.start()
        theirs.close()
        self.workers[slot] = (process, ours)

    def send(self, slot: int, message) -> None:
        with contextlib.suppress(OSError):  # a worker that is gone is noticed by `receive`
            self.workers[slot][1].send(message)

    def receive(self, timeout: float) -> tuple[int, Any] | None:
        """Return a slot and its next message, or None after `timeout` seconds.

        A worker that is gone sends `Lost`.
        """
        slots = {ours: slot for slot, (_, ours) in self.workers.items()}
        if not slots:
            time.sleep(timeout)
            return None
        ready = connection.wait(list(slots), max(0.0, timeout))
        if not ready:
            return None
        slot = slots[ready[0]]
        try:
            return slot, ready[0].recv()
        except (EOFError, OSError):
            process = self.workers[slot][0]
            process.join(_FAREWELL_SECONDS)
            self.stop(slot)
            return slot, Lost(f"its process ended with code {process.exitcode}")

    def stop(self, slot: int) -> None:
        """Kill the worker of a slot."""
        process, ours = self.workers.pop(slot, (None, None))
        if process is not None:
            process.kill()
            process.join(_FAREWELL_SECONDS)
            ours.close()

    def close(self) -> None:
        for slot in list(self.workers):
            self.stop(slot)


class InlinePool:
    """One worker inside this process, for a debugger or a test. A crash of the worker ends the run.

    `make_worker(receive, send)` makes the worker.
    """

    def __init__(self, make_worker: Callable):
        self.make_worker = make_worker
        self.inbox: deque = deque()
        self.outbox: deque = deque()
        self.life = None
        self.slot = 0

    def start(self, slot: int) -> None:
        self.slot = slot
        self.inbox.clear()
        self.life = self.make_worker(lambda: self.inbox.popleft() if self.inbox else None, self.outbox.append).run()

    def send(self, slot: int, message) -> None:
        self.inbox.append(message)

    def receive(self, timeout: float) -> tuple[int, Any] | None:
        """Let the worker compute until it sends a message or has nothing to do. Return its slot and the message."""
        while not self.outbox and self.life is not None:
            state = next(self.life, None)
            if state is None:
                self.life = None
                self.outbox.append(Lost())  # after its last message
            elif state is State.IDLE and not self.inbox:
                break
        return (self.slot, self.outbox.popleft()) if self.outbox else None

    def stop(self, slot: int) -> None:
        self.life = None
        self.outbox.clear()

    def close(self) -> None:
        self.life = None


def _work(connection) -> None:
    from hrm_offline.solve.worker import main  # here, so that the supervising process never loads torch

    main(connection)
