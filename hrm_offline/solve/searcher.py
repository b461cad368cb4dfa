"""Search programs for one task after another, in a process of its own. numpy, never torch.

Such a process is a generator like a worker, so the same code runs inside the supervising process too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from hrm_offline.answers.candidates import entries_of
from hrm_offline.answers.vote import Candidate
from hrm_offline.induction.search import induce
from hrm_offline.solve.messages import BEAT_SECONDS, Activity, Failed, Searched, Searching, SearchTask
from hrm_offline.solve.pool import serve

_LOWEST_PRIORITY = 19
_MOST_CANDIDATES = 8  # of a test input; those after them have next to no votes


class Searcher:
    """Serve the supervising process. `receive` returns the next message or None, `send` takes a message."""

    def __init__(self, receive: Callable, send: Callable, clock: Callable[[], float] = time.monotonic):
        self.receive, self.send, self.clock = receive, send, clock
        self.beaten = clock()

    def run(self) -> Iterator[Activity]:
        """Search whatever is asked for, until the process is ended. A failure is sent and ends it."""
        self.send(Searching())
        while True:
            message = self.receive()
            if message is None:
                yield Activity.IDLE
                continue
            try:
                self.send(self._searched(message))
            except (OSError, EOFError):
                raise  # the supervising process is gone
            except Exception as error:
                self.send(Failed("error", f"{type(error).__name__}: {error}"))
                return
            yield Activity.BUSY

    def _searched(self, message: SearchTask) -> Searched:
        began = time.process_time()
        found: list[list[Candidate]] = induce(message.task, message.effort, self._beat)
        best = [candidates[:_MOST_CANDIDATES] for candidates in found]
        return Searched(message.index, entries_of(best), time.process_time() - began)

    def _beat(self) -> None:
        if self.clock() - self.beaten >= BEAT_SECONDS:
            self.beaten = self.clock()
            self.send(Searching())


def main_politely(connection) -> None:
    """Run a process that searches at the lowest priority: whatever a worker needs comes first."""
    if hasattr(os, "nice"):
        os.nice(_LOWEST_PRIORITY)
    main(connection)


def main(connection) -> None:
    """Run a process that searches, until the other end of `connection` closes."""
    serve(connection, Searcher)
