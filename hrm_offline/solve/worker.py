"""Do one job after another, say "I live" every second, and end when something goes wrong.

A worker is a generator. So the same code runs in a process of its own, inside the supervising process, and on a
simulated clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from hrm_offline.common.errors import InputError
from hrm_offline.ops import dispatch
from hrm_offline.ops.faults import is_context_lost, is_out_of_memory
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.messages import (
    BEAT_SECONDS,
    Activity,
    Adapt,
    Beat,
    Demoted,
    Done,
    Failed,
    GraphsChosen,
    Judge,
    Predict,
    Quit,
    Say,
    Setup,
    Threads,
    Until,
)
from hrm_offline.solve.pool import serve
from hrm_offline.train.adapt import Diverged


class _Quit(Exception):
    pass


class Worker:
    """Serve the supervising process.

    `receive` returns the next message, or None if there is none yet. `send` takes a message.
    `make_engine(setup, clock, say)` makes the part that computes.
    """

    def __init__(
        self,
        receive: Callable,
        send: Callable,
        make_engine: Callable = Engine,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.receive, self.send, self.make_engine, self.clock = receive, send, make_engine, clock
        self.engine = None
        self.beaten = clock()
        self.told_demotions: set[str] = set()
        self.told_graphs: dict[str, str] = {}

    def run(self) -> Iterator[Activity]:
        """Serve until told to quit. A failure is sent to the supervising process and ends the worker."""
        try:
            while True:
                message = self.receive()
                if message is None:
                    yield Activity.IDLE
                else:
                    yield from self._serve(message)
                    yield Activity.BUSY
        except _Quit:
            pass
        except Exception as error:
            kind = _kind(error)
            # The two kinds that are ours say in their message all there is to say; a foreign one may lack a message.
            reason = str(error) if kind in ("input", "diverged") else f"{type(error).__name__}: {error}"
            self.send(Failed(kind, reason))

    def _serve(self, message) -> Iterator[Activity]:
        if isinstance(message, Quit):
            raise _Quit
        if isinstance(message, Setup):
            self.engine = self.make_engine(message, self.clock, lambda text: self.send(Say(text)))
            self.send(self.engine.hello())
            self.told_demotions |= self._merely_slower()
            self._tell_changes()
        elif isinstance(message, Threads):
            self.engine.use_threads(message.number)
        elif isinstance(message, Adapt):
            yield from self._adapt(message)
            self.send(Done())
        elif isinstance(message, (Predict, Judge)):
            work = self.engine.predict if isinstance(message, Predict) else self.engine.judge
            for result in work(message):
                self.send(result)
                self._heed()
                yield Activity.BUSY
            self.send(Done())
        # An `Until` whose adaptation has ended already changes nothing.

    def _adapt(self, job: Adapt) -> Iterator[Activity]:
        for step in self.engine.adapt(job):
            adaptation = self.engine.adaptation
            if self.clock() - self.beaten >= BEAT_SECONDS:
                self.beaten = self.clock()
                loss = adaptation.losses[-1] if adaptation.losses else None
                total, slowdown = adaptation.learner.total_steps, adaptation.pace.slowdown()
                self.send(Beat(step, total, adaptation.examples, loss, slowdown))
            self._heed()
            yield Activity.BUSY
        self.send(self.engine.adapted)

    def _heed(self) -> None:
        """Act on a message that has come in during a job, and tell what serves in another way than before."""
        self._tell_changes()
        message = self.receive()
        if isinstance(message, Quit):
            raise _Quit
        if isinstance(message, Until) and self.engine.adaptation is not None:
            self.engine.adaptation.until = message.time

    def _merely_slower(self) -> set[str]:
        """Return the operations that the self-test found right and slower, which is no fault to be told."""
        tested = getattr(self.engine, "selftest", None)
        if tested is None:
            return set()
        faulty = {row["op"] for row in tested["rows"] if row["fault"] is not None}
        # An operation whose kernel the self-test kept may still fail later, and that is told.
        return dispatch.demotions().keys() - faulty

    def _tell_changes(self) -> None:
        """Tell which kernels have failed, and whether CUDA graphs serve, each once."""
        for op, reason in dispatch.demotions().items():
            if op not in self.told_demotions:
                self.told_demotions.add(op)
                self.send(Demoted(op, reason))
        for work, choice in getattr(self.engine, "graphs", {}).items():
            if choice.reason is not None and self.told_graphs.get(work) != str(choice):
                self.told_graphs[work] = str(choice)
                self.send(GraphsChosen(work, str(choice)))


def _kind(error: Exception) -> str:
    if is_context_lost(error):
        return "device"
    if is_out_of_memory(error):
        return "memory"
    if isinstance(error, Diverged):
        return "diverged"
    return "input" if isinstance(error, InputError) else "error"


def main(connection, make_engine: Callable = Engine) -> None:
    """Run a worker process that serves the other end of `connection` until that end closes."""
    # Blocks that grow waste less memory between buckets of many shapes. Set before the first CUDA call.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    serve(connection, lambda receive, send: Worker(receive, send, make_engine))
