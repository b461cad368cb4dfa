"""Start, reach and stop workers: each in a process of its own, or one inside this process."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context, resource_tracker
from typing import Any

from hrm_offline.solve.messages import Activity, Lost

_FAREWELL_SECONDS, _PAUSE_SECONDS = 1.0, 0.5
_SIGKILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class ProcessPool:
    """A process for each slot. Each process runs `target(connection)`, which must be importable.

    Processes are spawned and not forked, since a fork could share a CUDA context or a lock by accident. `bells` returns
    connections of others: where one of these has something to read, `receive` ends its waiting.
    """

    def __init__(self, target: Callable[..., None] | None = None):
        self.context = get_context("spawn")
        self.target = target or _work
        self.workers: dict[int, tuple[Any, Any]] = {}  # process and connection by slot
        self.stillborn: deque[tuple[int, Lost]] = deque()  # by slot, workers that could not be started
        self.lock = threading.Lock()  # the watchdog closes the pool while the main thread may be starting a worker
        self.closed = False
        self.bells: Callable[[], list] = list

    def connections(self) -> list:
        """Return our ends of the connections to all workers."""
        return [ours for _, ours in self.workers.values()]

    def start(self, slot: int) -> None:
        """Start a worker in an empty slot. A pool that was closed starts none.

        Where the system has no room for another process, the slot's worker sends `Lost`.
        """
        with self.lock:
            if self.closed:
                return
            try:
                ours, theirs = self.context.Pipe()
            except OSError as error:
                self.stillborn.append((slot, _not_started(error)))
                return
            process = self.context.Process(target=self.target, args=(theirs,), daemon=True, name=f"worker-{slot}")
            try:
                with _without_sigint():
                    process.start()
            except OSError as error:
                ours.close()
                self.stillborn.append((slot, _not_started(error)))
            else:
                self.workers[slot] = (process, ours)
            theirs.close()

    def send(self, slot: int, message) -> None:
        with contextlib.suppress(OSError, KeyError):  # a worker that is gone is noticed by `receive`
            self.workers[slot][1].send(message)

    def receive(self, timeout: float) -> tuple[int, Any] | None:
        """Return a slot and its next message, or None after `timeout` seconds.

        A worker that is gone sends `Lost`.
        """
        if self.stillborn:
            time.sleep(min(timeout, _PAUSE_SECONDS))  # there may be room soon
            return self.stillborn.popleft()
        slots = {ours: slot for slot, (_, ours) in self.workers.items()}
        bells = self.bells()
        if not slots and not bells:
            time.sleep(timeout)
            return None
        ready = [found for found in connection.wait([*slots, *bells], max(0.0, timeout)) if found in slots]
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
        except Exception as error:  # what it sent is no message
            self.stop(slot)
            return slot, Lost(f"its process sent what cannot be read ({type(error).__name__}: {error})")

    def stop(self, slot: int) -> None:
        """Kill the worker of a slot."""
        self.stillborn = deque(entry for entry in self.stillborn if entry[0] != slot)
        if slot in self.workers:
            _kill(self.workers[slot][0])
            self._bury(slot, _FAREWELL_SECONDS)

    def close(self) -> None:
        """Kill all workers for good. They die at the same time, so many of them take no longer than one."""
        with self.lock:
            self.closed = True
        for process, _ in list(self.workers.values()):
            _kill(process)
        end = time.monotonic() + _FAREWELL_SECONDS
        for slot in list(self.workers):
            self._bury(slot, max(0.0, end - time.monotonic()))

    def _bury(self, slot: int, seconds: float) -> None:
        """Wait for the end of a killed worker, so many seconds at most."""
        process, ours = self.workers.pop(slot, (None, None))
        if process is not None:
            process.join(seconds)
            ours.close()


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
            elif state is Activity.IDLE and not self.inbox:
                break
        return (self.slot, self.outbox.popleft()) if self.outbox else None

    def stop(self, slot: int) -> None:
        self.life = None
        self.outbox.clear()

    def close(self) -> None:
        self.life = None


def _not_started(error: OSError) -> Lost:
    return Lost(f"no process could be started ({error})", started=False)


def _kill(process) -> None:
    """Kill a process. Windows has no SIGKILL, and its way to terminate a process is as hard."""
    (process.kill if hasattr(signal, "SIGKILL") else process.terminate)()


@contextlib.contextmanager
def _without_sigint() -> Iterator[None]:
    """Keep SIGINT from the processes that are started within: they inherit that it is blocked.

    A terminal sends Ctrl-C to workers too, which would show a traceback each. Windows cannot block a signal; a worker
    ignores it there once it runs.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first start does that, and takes the block away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervising process decides; set before torch is imported
    from hrm_offline.solve.worker import main  # here, so that the supervising process never loads torch

    main(connection)


def serve(connection, make: Callable) -> None:
    """Serve the other end of `connection` until that end closes, in a process of its own.

    `make(receive, send)` returns a server. Its `run` is a generator of `Activity`: while it has nothing to do, the
    process waits for a message.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervising process decides

    def receive():
        return connection.recv() if connection.poll() else None

    with contextlib.suppress(EOFError, OSError):  # the supervising process is gone
        for activity in make(receive, connection.send).run():
            if activity is Activity.IDLE:
                connection.poll(None)


def end_with_parent() -> None:
    """Have the system kill this process when its parent dies, even during a long computation (Linux only)."""
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and hasattr(signal, "SIGKILL") and parent is not None:
        ctypes.CDLL(None).prctl(_SIGKILL_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it died before the call
            os._exit(1)
