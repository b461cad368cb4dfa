"""Lead the search for programs beside the network: give tasks to processes, and count what they find.

The processes have the lowest priority and fill the cores that workers leave idle. Whatever becomes of one costs at most
the candidates for its task. The search for a task is bounded by a number of operations, so its answer does not depend
on the machine or on the time; a task that was not reached has no candidate.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from hrm_offline import __version__
from hrm_offline.answers.candidates import read_entries
from hrm_offline.common import machine
from hrm_offline.common.budget import Budget, in_words
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.data.sets import size_of
from hrm_offline.data.tasks import Task, digest_of
from hrm_offline.induction.search import EFFORT
from hrm_offline.solve import searcher
from hrm_offline.solve.journal import Journal
from hrm_offline.solve.ledger import Ledger
from hrm_offline.solve.messages import Failed, Lost, Searched, Searching, SearchTask
from hrm_offline.solve.pool import InlinePool, ProcessPool

_MAX_FAILURES = 5  # of processes in one place in a row, after which it stays empty
_MAX_TASK_FAILURES = 2  # processes that a task may cost
_MOST_AT_ONCE = 64  # messages, after which the workers of the network get their turn
_MAX_PROCESSES = 16
_MAX_SILENCE = 60.0  # seconds for a process of normal priority; a sign of life comes every second


@dataclass
class Place:
    """A place for a process.

    `heard` is when its process was heard last, in seconds of the budget. A place is `ready` once its process has said
    that it lives. `task` is the number of the task that the process searches, or None.
    """

    heard: float
    ready: bool = False
    task: int | None = None


class Induction:
    """The search for programs for all tasks of a run, smallest tasks first.

    `ledger` gets the candidates. With a `journal`, a run that goes on takes over what was found. `say` tells the user
    how it went, and `warn` of a fault. A process may be silent for `hang_after` seconds. `pool` starts the processes,
    of which `processes` may search at once; a pool inside this process has one.
    """

    def __init__(
        self,
        tasks: tuple[Task, ...],
        ledger: Ledger,
        budget: Budget,
        say: Callable[[str], None],
        journal: Journal | None = None,
        hang_after: float = _MAX_SILENCE,
        pool: ProcessPool | InlinePool | None = None,
    ):
        self.pool = ProcessPool(searcher.main_politely) if pool is None else pool
        self.tasks, self.ledger, self.budget = tasks, ledger, budget
        self.say = self.warn = say
        self.journal, self.hang_after = journal, hang_after
        self.processes = 1
        self.polite = True  # towards the workers of the network
        self.places: dict[int, Place] = {}
        self.failures: Counter[int] = Counter()  # in a row, by place
        self.task_failures: Counter[int] = Counter()
        self.found: dict[int, bool] = {}  # by task that was searched, whether it has a candidate
        self.lost: dict[int, str] = {}  # tasks that are not tried again, with the reason
        self.seconds = 0.0  # CPU seconds of all searches
        self.told = False  # that the search has ended
        self.most = 0  # processes at once
        self._replay()
        order = sorted(range(len(tasks)), key=lambda index: size_of(tasks[index]))
        self.queue = deque(index for index in order if index not in self.found)

    @property
    def goes_on(self) -> bool:
        """Return whether a task is searched now or may still be."""
        return bool(self.queue) or any(place.task is not None for place in self.places.values())

    def leave_cores(self, needed: int, shares: bool = False) -> None:
        """Let processes start on all cores but so many. A first process may always run, since its priority is the
        lowest.

        With `shares`, that process gets the priority of the workers if they leave no core: on a CPU it would never end
        otherwise, as the workers learn until the budget is spent.
        """
        if isinstance(self.pool, ProcessPool):
            idle = machine.usable_cores() - needed
            self.processes = max(1, min(_MAX_PROCESSES, idle))
            if shares and idle < 1:
                self._raise_priority()

    def take_all_cores(self) -> None:
        """Search with all that the machine has, now that no worker needs it."""
        self._raise_priority()
        self.leave_cores(0)

    def _raise_priority(self) -> None:
        """Search at the priority of the workers from now on. No process can raise its own, so all start anew."""
        if isinstance(self.pool, ProcessPool) and self.polite:
            self.polite, self.pool.target = False, searcher.main
            for number in list(self.places):
                self._end(number)

    def attend(self, seconds: float = 0.0) -> None:
        """Take in what the processes send, replace those that fail, and give tasks to the free ones.

        Waits for the first message so many seconds at most.
        """
        self._deal()
        for _ in range(_MOST_AT_ONCE):
            if not self.goes_on or self.budget.plannable() <= 0 or (event := self.pool.receive(seconds)) is None:
                break
            self._handle(*event)
            self._deal()
            seconds = 0.0
        self._end_the_silent()
        if not self.goes_on and not self.told:
            self.told = True
            self.say(self.summary())
            for number in list(self.places):  # an idle process that died would wake the supervising process for ever
                self._end(number)

    def give_up(self, reason: str) -> None:
        """Search no further: all tasks that are not searched are lost."""
        self.warn(f"induction is given up: {reason}")
        self.pool.close()
        open_tasks = [place.task for place in self.places.values() if place.task is not None]
        self.lost |= dict.fromkeys([*self.queue, *open_tasks], reason)
        self.queue.clear()
        self.places.clear()

    def report(self) -> dict:
        """Return what was searched and found as JSON values."""
        reasons = {index: "there was no time" for index in range(len(self.tasks)) if index not in self.found}
        return {
            "effort per task": EFFORT,
            "tasks searched": len(self.found),
            "tasks with a candidate": sum(self.found.values()),
            "not searched": {self.tasks[index].id: reason for index, reason in (reasons | self.lost).items()},
            "processes": self.most,
            "core seconds": round(self.seconds, 2),
        }

    def summary(self) -> str:
        """Return in one line how far the search came."""
        return (
            f"induce: {sum(self.found.values())} of {len(self.found)} tasks searched have a program, "
            f"{self.seconds:.0f} core-seconds, at {in_words(self.budget.elapsed())}"
        )

    def _replay(self) -> None:
        """Take over what the journal has, where it is of the same tasks and the same search."""
        if self.journal is None:
            return
        identity = {"version": __version__, "challenges": digest_of(self.tasks), "effort": EFFORT}
        records = [record.about for record in self.journal.records]
        if not records or records[0].get("identity") != identity:
            self.journal.clear()
            self.journal.append({"identity": identity})
            return
        for about in records[1:]:
            with contextlib.suppress(InputError, TypeError, IndexError):  # such a record is as good as missing
                self._take(Searched(**about))

    def _take(self, searched: Searched) -> None:
        """Count the candidates for a task. Raises `InputError` or `TypeError` for what no search sends."""
        task = self.tasks[searched.index]
        candidates = read_entries(searched.entries, len(task.test), f"the search for task {shown_name(task.id)}")
        self.seconds += searched.seconds
        self.found[searched.index] = any(candidates)
        self.ledger.add_induced(task.id, candidates)

    def _deal(self) -> None:
        """Start the processes that there is work for, and give a task to each free one."""
        free = sum(place.task is None for place in self.places.values())
        for number in range(self.processes):
            works = self.failures[number] < _MAX_FAILURES
            if works and number not in self.places and free < len(self.queue):
                self.places[number] = Place(self.budget.elapsed())
                self.pool.start(number)
                free += 1
        self.most = max(self.most, len(self.places))
        for number, place in self.places.items():
            # A process that is not ready to read could keep a large task, and with it this process, waiting.
            if place.ready and place.task is None and self.queue:
                place.task, place.heard = self.queue.popleft(), self.budget.elapsed()
                task = self.tasks[place.task].without_labels()
                self.pool.send(number, SearchTask(place.task, task, EFFORT))

    def _handle(self, number: int, message) -> None:
        place = self.places.get(number)
        if place is None:
            return
        match message:
            case Searching():
                place.heard, place.ready = self.budget.elapsed(), True
            case Searched():
                self._searched(number, place, message)
            case Failed() | Lost():
                self._fail(number, message.reason)
            case _:
                self._fail(number, f"its process sent {type(message).__name__}, which is no message")

    def _searched(self, number: int, place: Place, message: Searched) -> None:
        try:
            if message.index != place.task:
                raise InputError("its process answered for another task")
            self._take(message)
        except (InputError, TypeError) as error:
            self._fail(number, str(error))
            return
        if self.journal is not None:
            self.journal.append(vars(message))
        self.failures[number] = 0
        place.heard, place.task = self.budget.elapsed(), None

    def _end_the_silent(self) -> None:
        for number, place in list(self.places.items()):
            # At the lowest priority a busy machine may leave a process without any time for minutes.
            silence = self.hang_after if self.polite else min(self.hang_after, _MAX_SILENCE)
            limit = silence * 2 ** self.failures[number]
            busy = place.task is not None or not place.ready
            if busy and self.budget.elapsed() - place.heard > limit:
                self._fail(number, f"was silent for {limit:.0f} s")

    def _fail(self, number: int, reason: str) -> None:
        """End a process that failed. Another one starts in its place unless too many have failed there."""
        index = self.places[number].task
        self._end(number)
        self.failures[number] += 1
        name = "without a task" if index is None else f"at task {shown_name(self.tasks[index].id)}"
        self.warn(f"induction process {number}, {name}: {reason}")
        if index is not None:
            self.task_failures[index] += 1
            if self.task_failures[index] >= _MAX_TASK_FAILURES:
                self.queue.remove(index)
                self.lost[index] = reason
        if self.queue and all(self.failures[place] >= _MAX_FAILURES for place in range(self.processes)):
            self.give_up(reason)

    def _end(self, number: int) -> None:
        """End a process, and put its task back into the queue."""
        self.pool.stop(number)
        index = self.places.pop(number).task
        if index is not None:
            self.queue.appendleft(index)
