"""Leads a run: starts workers, gives them jobs, and goes on without the ones that fail."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hrm_offline import __version__
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.config import SHARING
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import Task, digest_of
from hrm_offline.solve.history import History
from hrm_offline.solve.ledger import Ledger, test_keys
from hrm_offline.solve.messages import (
    Adapt,
    Adapted,
    Beat,
    Done,
    Failed,
    Hello,
    Lost,
    Predict,
    Say,
    Setup,
    Until,
    Voted,
)
from hrm_offline.solve.schedule import GROUPS_A_WORKER, Schedule, Speed, split_tasks

_MAX_FAILURES = 3  # of a worker in a row
_STARTING_FACTOR = 2  # a worker that starts may be silent longer: it imports torch and compiles kernels
_GLANCE_SECONDS = 1.0
_PROGRESS_SECONDS = 30.0


@dataclass(frozen=True)
class Crew:
    """How many workers, by default one a GPU or one at all; the seconds of silence after which a worker is taken to
    hang. `sharing` says which tasks learn one network: "sharded" a group of them each worker, "joint" all of them
    with all workers together, "per-task" each alone. Raises `InputError` for what is impossible."""

    workers: int | None = None
    sharing: str = "sharded"
    hang_after: float = 300.0

    def __post_init__(self):
        if self.workers is not None and self.workers < 0:
            raise InputError(f"workers is {self.workers}, expected 0 or more")
        if self.sharing not in SHARING:
            raise InputError(f"sharing is '{self.sharing}', expected one of {', '.join(SHARING)}")
        if not self.hang_after >= 5:
            raise InputError(
                f"hang_after is {self.hang_after}, expected 5 seconds or more: signs of life come every second"
            )


@dataclass
class Slot:
    """A place for a worker: its device, when it was heard last, and how often it has failed in a row."""

    device: str | None
    heard: float
    ready: bool = False
    failures: int = 0


@dataclass
class Supervisor:
    """Runs the groups of `tasks` (without those that do not suit the model) through adaptation and prediction
    until all is done or the budget is spent; votes go to the ledger and the history as they come."""

    pool: object
    budget: Budget
    ledger: Ledger
    history: History | None
    setup: Setup
    crew: Crew
    tasks: tuple[Task, ...]
    say: Callable[[str], None]
    hello: Hello | None = None
    schedule: Schedule | None = None
    slots: dict[int, Slot] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    unsuited: dict[str, str] = field(default_factory=dict)
    told: float = 0.0
    started: float | None = None  # when the first worker was ready
    worker_seconds: dict[str, float] = field(default_factory=lambda: {"adapt": 0.0, "predict": 0.0})

    def run(self) -> None:
        """Raises `InputError` if what was asked for cannot be had at all."""
        if self.budget.plannable() > 0:
            self._start(0, self.setup.device)
        try:
            while self.budget.plannable() > 0:
                self._assign()
                if not self._goes_on():
                    break
                event = self.pool.receive(min(_GLANCE_SECONDS, self.budget.plannable()))
                if event is not None and event[0] in self.slots:
                    self._handle(*event)
                self._end_the_silent()
                self.ledger.write_if_due()
        finally:
            self.pool.close()

    def _goes_on(self) -> bool:
        starting = any(not slot.ready for slot in self.slots.values())
        if self.schedule is None:
            return starting
        return bool(self.schedule.flying) or (starting and self.schedule.has_work)

    def _start(self, index: int, device: str | None) -> None:
        failures = self.slots[index].failures if index in self.slots else 0
        self.slots[index] = Slot(device, self.budget.elapsed(), failures=failures)
        self.pool.start(index)
        chosen = {}
        if self.hello is not None:  # the first worker's choice holds for all
            artifact = Path(self.hello.artifact) if self.hello.artifact else None
            chosen = {"model": self.hello.model, "recipe": self.hello.recipe, "artifact": artifact, "bundled": False}
        self.pool.send(index, dataclasses.replace(self.setup, device=device, **chosen))

    def _assign(self) -> None:
        """Give every free worker a job."""
        if self.schedule is None:
            return
        now = self._renew_end()
        if self.schedule.sharing == "joint" and all(slot.ready for slot in self.slots.values()):
            for index, job in self.schedule.joint_jobs(now, self._meeting()).items():
                self.pool.send(index, job)
        for index, slot in self.slots.items():
            if slot.ready and index not in self.schedule.flying:
                job = self.schedule.next_job(index, now)
                if job is not None:
                    slot.heard = self.budget.elapsed()
                    self.pool.send(index, job)

    def _renew_end(self) -> float:
        now = self.budget.now()
        self.schedule.end, self.schedule.workers = now + self.budget.plannable(), len(self.slots)
        return now

    def _meeting(self) -> str:
        """A file that no attempt before has used, of this run or of one that was cut off."""
        return str(self.setup.folder / f"meeting-{uuid.uuid4().hex}")

    def _handle(self, index: int, message) -> None:
        slot = self.slots[index]
        since, slot.heard = slot.heard, self.budget.elapsed()
        match message:
            case Hello():
                self._welcome(index, message)
            case Say():
                self.say(message.text)
            case Beat():
                self._beat(index, message)
            case Voted():
                self._voted(index, message)
            case Adapted():
                self._adapted(index, message)
            case Done():
                slot.failures = 0
                self._count_seconds(index, slot.heard - since)
                self.schedule.finished(index, self.budget.now())
            case Failed():
                if message.kind == "input" and self.hello is None:
                    raise InputError(message.reason)
                self._fail(index, message.kind, message.reason)
            case Lost():
                self._fail(index, "lost", message.reason)
        if isinstance(message, (Beat, Voted, Adapted)):
            self._count_seconds(index, slot.heard - since)

    def _count_seconds(self, index: int, seconds: float) -> None:
        """Worker-seconds of each phase, for the report."""
        job = self.schedule.flying.get(index) if self.schedule else None
        self.worker_seconds["adapt" if isinstance(job, Adapt) else "predict"] += seconds if job else 0.0

    def phases(self) -> dict[str, float]:
        """Seconds until the first job, and of each phase as a mean over the workers."""
        workers = max(1, len(self.slots))
        return {"start": self.started or self.budget.elapsed()} | {
            name: seconds / workers for name, seconds in self.worker_seconds.items()
        }

    def _welcome(self, index: int, hello: Hello) -> None:
        self.slots[index].ready = True
        if self.hello is None:
            self.hello = hello
            self._begin(hello)
        self.schedule.speeds[index] = Speed(hello.seconds_per_token)

    def _begin(self, hello: Hello) -> None:
        """The first worker has said what it is: plan the run, and start the others."""
        self.started = self.budget.elapsed()
        self.say(f"computing on {hello.device}\noperations: {hello.operations}\n{hello.reason}")
        if hello.warning:
            self.warn(hello.warning)
        count = self.crew.workers or (hello.gpus if self.setup.device in (None, "cuda") and hello.gpus else 1)
        suited = self._suited(hello)
        whole = PuzzleSet(tuple(self.tasks[i] for i in suited), hello.recipe, hello.model, self.setup.seed)
        groups = [
            tuple(suited[i] for i in group)
            for group in split_tasks(whole.tasks, whole, self._group_count(count, len(suited)))
        ]
        if self.history is not None:
            groups = self.history.begin(self._identity(hello), groups)
        self.ledger.reset([test_keys(self.tasks, group) for group in groups])
        self.schedule = Schedule.of_tasks(
            self.tasks,
            hello.model,
            hello.recipe,
            self.setup.seed,
            groups,
            self.budget.now() + self.budget.plannable(),
            self.crew.sharing,
        )
        self._replay()
        for index in range(1, count):
            self._start(index, self._device_of(index, hello))

    def _group_count(self, workers: int, tasks: int) -> int:
        if self.crew.sharing == "per-task":
            return tasks
        return 1 if workers == 1 or self.crew.sharing == "joint" else GROUPS_A_WORKER * workers

    def _suited(self, hello: Hello) -> list[int]:
        """Tasks that fit the model; the others are left out, with the reason."""
        suited = []
        for index, task in enumerate(self.tasks):
            try:
                PuzzleSet(
                    (task,),
                    dataclasses.replace(hello.recipe, colour_permutations=0),
                    dataclasses.replace(hello.model, puzzle_columns=0),
                    self.setup.seed,
                )
                suited.append(index)
            except InputError as error:
                self.unsuited[task.id] = str(error)
                self.say(f"left out, keeps its fallback: {error}")
        if not suited:
            raise InputError(f"no task suits the model: {next(iter(self.unsuited.values()))}")
        return suited

    def _identity(self, hello: Hello) -> dict:
        """What must be the same for a run to go on from a journal: an artifact's bytes, wherever it is."""
        identity = {
            "version": __version__,
            "challenges": digest_of(self.tasks),
            "seed": self.setup.seed,
            "model": dataclasses.asdict(hello.model),
            "recipe": dataclasses.asdict(hello.recipe),
            "artifact": hello.artifact_digest,
            "sharing": self.crew.sharing,
        }
        return json.loads(json.dumps(identity))  # as the journal will give it back: tuples become lists

    def _replay(self) -> None:
        """Take over what the journal has of this run."""
        if self.history is None:
            return
        for key, votes in self.history.votes():
            self.schedule.voted(key)
            self.ledger.add(key, votes)
        for group, report, intact in self.history.reports():
            complete = not any(self.schedule.groups[group].outstanding)
            if intact or complete:
                self.schedule.groups[group].report = report
        left = sum(any(group.outstanding) for group in self.schedule.groups)
        if left < len(self.schedule.groups) or self.ledger.tally.votes:
            self.say(
                f"going on from {self.history.journal.path}: {len(self.ledger.tally.votes)} batches of votes are "
                f"there, {left} of {len(self.schedule.groups)} groups of tasks are not done"
            )

    def _device_of(self, index: int, hello: Hello) -> str | None:
        on_gpus = hello.gpus and self.setup.device in (None, "cuda")
        return f"cuda:{index % hello.gpus}" if on_gpus else self.setup.device

    def _beat(self, index: int, beat: Beat) -> None:
        self.schedule.speeds[index].slowdown = beat.slowdown
        self._renew_end()
        until = self.schedule.new_until(index)
        if until is not None:
            self.pool.send(index, Until(until))
        if self.budget.elapsed() - self.told >= _PROGRESS_SECONDS:
            self.told = self.budget.elapsed()
            loss = "" if beat.loss is None else f", loss {beat.loss:.3f}"
            self.say(
                f"adapt: group {self.schedule.flying[index].group}, step {beat.step} of {beat.total}{loss}, "
                f"{self.told:.0f} s"
            )

    def _voted(self, index: int, message: Voted) -> None:
        self.schedule.voted(message.key)
        self.schedule.speeds[index].measured(message.seconds, message.tokens)
        self.ledger.add(message.key, message.votes)
        if self.history is not None:
            self.history.voted(message)

    def _adapted(self, index: int, message: Adapted) -> None:
        job = self.schedule.flying[index]
        if job.rank > 0:
            return  # the first worker tells for all
        self.schedule.adapted(message.group, index, message.report, message.saved)
        report = message.report
        self.say(
            f"adapt: group {message.group} ended after {report['steps']} of {report['planned_steps']} steps, loss "
            f"{report['loss']:.3f}, {self.budget.elapsed():.0f} s"
        )
        if self.history is not None and message.saved:
            self.history.adapted(message)

    def _end_the_silent(self) -> None:
        for index, slot in list(self.slots.items()):
            busy = not slot.ready or (self.schedule is not None and index in self.schedule.flying)
            # Twice as long after each failure: a machine may be slower than anyone thought.
            limit = self.crew.hang_after * (1 if slot.ready else _STARTING_FACTOR) * 2**slot.failures
            if busy and self.budget.elapsed() - slot.heard > limit:
                self._fail(index, "hang", f"was silent for {limit:.0f} s")

    def _fail(self, index: int, kind: str, reason: str) -> None:
        """End a worker, see to what it was doing, and start another in its place while there is hope."""
        self.pool.stop(index)
        slot = self.slots[index]
        slot.failures += 1
        job = self.schedule.gone(index) if self.schedule else None
        self.warn(f"worker {index} on {slot.device or 'its device'} ({_in_words(job)}): {kind}: {reason}")
        if job is not None:
            self.schedule.failed(job.group, kind, f"{kind}: {reason}")
        if isinstance(job, Adapt) and job.size > 1:
            self._break_up(job)
        if slot.failures < _MAX_FAILURES:
            self._start(index, slot.device)
        else:
            del self.slots[index]
            self.warn(f"worker {index} is given up")
            if not self.slots and slot.device != "cpu":
                self.warn("no device is left, a CPU goes on")
                self.setup = dataclasses.replace(self.setup, dtype=None)
                self._start(len(self.failures), "cpu")

    def _break_up(self, job: Adapt) -> None:
        """A worker is missing from a joint adaptation: the others wait for it in vain. One goes on alone."""
        self.schedule.sharing = "sharded"
        for index in [i for i, other in self.schedule.flying.items() if isinstance(other, Adapt)]:
            self.pool.stop(index)
            self.schedule.gone(index)
            self._start(index, self.slots[index].device)

    def warn(self, text: str) -> None:
        """A line for the user now and for the report."""
        self.failures.append(text)
        self.say(f"WARNING: {text}")


def _in_words(job: Adapt | Predict | None) -> str:
    if job is None:
        return "without a job"
    if isinstance(job, Adapt):
        return f"adapting group {job.group}"
    return f"predicting round {job.round} of group {job.group}"
