"""Lead a run: start workers, give them jobs, and go on without the workers that fail."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hrm_offline.common import machine
from hrm_offline.common.budget import Budget, in_words
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import Task
from hrm_offline.predict.plan import ROWS_PER_STEP
from hrm_offline.solve.history import History
from hrm_offline.solve.induction import Induction
from hrm_offline.solve.ledger import Ledger, test_keys
from hrm_offline.solve.messages import (
    Adapt,
    Adapted,
    Beat,
    Demoted,
    Done,
    Failed,
    GraphsChosen,
    Hello,
    Judge,
    Judged,
    Lost,
    Predict,
    Say,
    Setup,
    Threads,
    Until,
    Voted,
)
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.paths import network_path, state_folder
from hrm_offline.solve.pool import ProcessPool
from hrm_offline.solve.schedule import Schedule, Speed
from hrm_offline.solve.sizing import group_count, threads_per_worker, uses_all_gpus, worker_count
from hrm_offline.solve.start import make_groups, run_identity, unsuited_tasks

# In a row, after which a worker is given up. They are more than the attempts at a group, so that one group that always
# fails costs no worker.
_MAX_FAILURES = 4
_FAULTS_OF_GROUP = ("memory", "diverged")  # kinds of failure that do not count against the worker
_MAX_DOUBLINGS = 2  # of the time that a worker may be silent, one for each failure
# An adaptation that went on for so many times the interval between saved states, of so many seconds at least, and came
# further than any attempt before, has had success before it failed.
_LONG_WORK, _LEAST_INTERVAL = 10, 6.0
_STARTING_FACTOR = 2  # a worker that starts may be silent longer, since it imports torch and compiles kernels
_GLANCE_SECONDS = 1.0  # between two looks at silent workers
_PROGRESS_SECONDS = 30.0  # between two progress lines
_MAX_WIDTH_ON_CPU = 256  # hidden size; a wider network learns next to nothing on a CPU within a budget
_LEAST_PROCESSORS, _WORKERS_PER_PROCESSOR = 2, 2  # for the number of workers that are worth their memory
# Further members start only while the disk has so much free: for other files, and per worker in sizes of its network.
_FREE_BYTES, _STATES_PER_NETWORK = 2**28, 6
_CORES_PER_GPU = 2  # that its worker keeps busy: one starts kernels, another does what the driver asks for
_PROGRESS_BEATS = 30  # a rate is the mean over this many signs of life, which come every second


@dataclass
class Slot:
    """A place for a worker.

    `device` is the worker's, or None for the best there is. `heard` is when the worker was heard last, in seconds of
    the budget. `began` is when it got its job, on the workers' clock. `failures` counts its failures in a row.
    `progress` holds the last signs of life of an adaptation, with their times.
    """

    device: str | None
    heard: float
    began: float = 0.0
    ready: bool = False
    failures: int = 0
    progress: deque[tuple[float, Beat]] = field(default_factory=lambda: deque(maxlen=_PROGRESS_BEATS))


@dataclass
class Supervisor:
    """Run all groups of tasks through adaptation and prediction, until all is done or the budget is spent.

    Votes go to the ledger and the history as they come. Tasks that do not suit the network are left out and named in
    `unsuited`. `failures` are the warnings of the run. `started` is when the first worker was ready, in seconds of the
    budget. `demotions` are the operations whose kernels failed, with the reasons. `graphs` says for each kind of work
    whether CUDA graphs serve, and why. `worker_seconds` and `predicted_tokens` measure the phases; `member_seconds` is
    the part of those seconds that further members took. `network_bytes` is the size of a saved network, and `dropped`
    are the networks that were removed from the disk. `induction` searches programs beside the network, or alone.
    """

    pool: object
    budget: Budget
    ledger: Ledger
    history: History | None
    setup: Setup
    tasks: tuple[Task, ...]
    say: Callable[[str], None]
    hello: Hello | None = None
    schedule: Schedule | None = None
    slots: dict[int, Slot] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    unsuited: dict[str, str] = field(default_factory=dict)
    told: float = 0.0
    started: float | None = None
    worker_seconds: dict[str, float] = field(default_factory=lambda: {"adapt": 0.0, "predict": 0.0})
    member_seconds: dict[str, float] = field(default_factory=lambda: {"adapt": 0.0, "predict": 0.0})
    network_bytes: int = 0
    dropped: set[int] = field(default_factory=set)
    predicted_tokens: int = 0
    induction: Induction | None = None
    demotions: dict[str, str] = field(default_factory=dict)
    graphs: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> SolveOptions:
        return self.setup.options

    def run(self) -> None:
        """Lead the run to its end. Raises `InputError` if the device, preset or artifact asked for does not exist."""
        if self.budget.plannable() > 0 and self.options.induce != "only":
            self._start(0, self.options.device)
        try:
            while self.budget.plannable() > 0:
                self._attend_to_induction(0.0)  # first: once the search has ended, further members may start
                self._assign()
                if self._goes_on():
                    event = self.pool.receive(min(_GLANCE_SECONDS, self.budget.plannable()))
                    if event is not None and event[0] in self.slots:
                        self._handle(*event)
                    self._end_the_silent()
                elif self.induction is not None and self.induction.goes_on:
                    self.induction.take_all_cores()
                    self._attend_to_induction(min(_GLANCE_SECONDS, self.budget.plannable()))
                else:
                    break
                self.ledger.write_if_due()
        finally:
            if self.ledger.dirty:
                self.ledger.write()  # first: to end many workers takes a while
            self.close()

    def take_in(self, induction: Induction | None) -> None:
        """Lead the search for programs too."""
        self.induction = induction
        if induction is not None:
            induction.warn = self.warn
            if isinstance(self.pool, ProcessPool) and isinstance(induction.pool, ProcessPool):
                self.pool.bells = induction.pool.connections

    def close_journals(self) -> None:
        """Close the journals of a finished run."""
        if self.history is not None:
            self.history.close(self.options.keep_networks)
        if self.induction is not None and self.induction.journal is not None:
            self.induction.journal.close()

    def close(self) -> None:
        """End all processes for good."""
        self.pool.close()
        if self.induction is not None:
            self.induction.pool.close()

    def _attend_to_induction(self, seconds: float) -> None:
        """Look after the search for programs, and wait so long for news of it.

        A fault of our own there costs what it would still have found.
        """
        if self.induction is None:
            return
        try:
            self.induction.attend(seconds)
        except Exception as error:
            self.induction.give_up(f"{type(error).__name__}: {error}")

    def _goes_on(self) -> bool:
        starting = any(not slot.ready for slot in self.slots.values())
        if self.schedule is None:
            return starting
        if self.schedule.flying:
            return True
        searches = self.induction is not None and self.induction.goes_on  # further members wait for that
        return starting and (searches or self.schedule.has_work(self.budget.now()))

    def _start(self, index: int, device: str | None) -> None:
        failures = self.slots[index].failures if index in self.slots else 0
        self.slots[index] = Slot(device, self.budget.elapsed(), failures=failures)
        self.pool.start(index)
        setup = dataclasses.replace(self.setup, options=dataclasses.replace(self.options, device=device))
        if self.hello is not None:  # the first worker's choice holds for all, and its unit of cost
            setup = dataclasses.replace(setup, network=self.hello.network, rows_per_step=self.hello.rows_per_step)
        self.pool.send(index, setup)

    def _assign(self) -> None:
        """Give every free worker a job."""
        if self.schedule is None:
            return
        now = self._renew_end()
        if self.schedule.sharing == "joint" and all(slot.ready for slot in self.slots.values()):
            for index, job in self.schedule.joint_jobs(now, self._meeting()).items():
                self._give(index, job)
        for index, slot in self.slots.items():
            if slot.ready and index not in self.schedule.flying:
                job = self.schedule.next_job(index, now)
                if job is not None:
                    self._give(index, job)

    def _give(self, index: int, job: Adapt | Predict | Judge) -> None:
        """Send a job to a worker."""
        slot = self.slots[index]
        slot.heard, slot.began = self.budget.elapsed(), self.budget.now()
        slot.progress.clear()
        self.pool.send(index, job)

    def _renew_end(self) -> float:
        now = self.budget.now()
        self.schedule.end, self.schedule.workers = now + self.budget.plannable(), len(self.slots)
        return now

    def _meeting(self) -> str:
        """Return the name of a file that no earlier attempt has used, in this run or in one that was cut off."""
        folder = self.setup.folder if self.setup.folder.is_dir() else Path(tempfile.gettempdir())
        return str(folder / f"meeting-{uuid.uuid4().hex}")

    def _handle(self, index: int, message) -> None:
        slot = self.slots[index]
        since, slot.heard = slot.heard, self.budget.elapsed()
        match message:
            case Hello():
                self._welcome(index, message)
            case Say():
                self.say(message.text)
            case Demoted():
                self._demoted(index, message)
            case GraphsChosen():
                self._graphs_chosen(index, message)
            case Beat():
                self._beat(index, message)
            case Voted():
                self._voted(index, message)
            case Judged():
                self.ledger.add_scores(message.group, message.votes)
                if self.history is not None:
                    self.history.judged(message)
            case Adapted():
                self._adapted(index, message)
            case Done():
                slot.failures = 0
                self._count_seconds(index, slot.heard - since)
                self.schedule.finished(index, self.budget.now())
                self._drop_networks()
            case Failed():
                if message.kind == "input" and self.hello is None:
                    raise InputError(message.reason)
                self._fail(index, message.kind, message.reason)
            case Lost():
                self._fail(index, "lost" if message.started else "start", message.reason)
        if isinstance(message, (Beat, Voted, Judged, Adapted)):
            self._count_seconds(index, slot.heard - since)

    def _count_seconds(self, index: int, seconds: float) -> None:
        """Add to the worker-seconds of the phase that a worker is in."""
        job = self.schedule.flying.get(index) if self.schedule else None
        if job is not None:
            phase = "adapt" if isinstance(job, Adapt) else "predict"
            self.worker_seconds[phase] += seconds
            self.member_seconds[phase] += seconds if job.member else 0.0

    def phases(self) -> dict[str, float]:
        """Return the seconds until the first job, and the seconds of each phase as a mean over the workers."""
        workers = max(1, len(self.slots))
        return {"start": self.started or self.budget.elapsed()} | {
            name: seconds / workers for name, seconds in self.worker_seconds.items()
        }

    def _welcome(self, index: int, hello: Hello) -> None:
        """Take in that a worker is ready."""
        self.slots[index].ready = True
        if self.hello is None:
            self.hello = hello
            self._begin(hello)
        self.schedule.speeds[index] = Speed(hello.seconds_per_cost)

    def _begin(self, hello: Hello) -> None:
        """Plan the run by what the first worker has said, and start the other workers."""
        self.started = self.budget.elapsed()
        self.say(f"computing on {hello.device}\noperations: {hello.operations}\n{hello.reason}")
        if hello.along:
            self.say(hello.along.words)
        if hello.warning:
            self.warn(hello.warning)
        suited = self._leave_out_unsuited(hello)
        workers = worker_count(self.options, hello, len(suited))
        number = group_count(self.options, hello, workers, len(suited))
        groups = make_groups(self.tasks, suited, hello.network, self.options.seed, number)
        if self.history is not None:
            groups = self.history.begin(run_identity(self.tasks, hello, self.options), groups)
        end = self.budget.now() + self.budget.plannable()
        network, seed, sharing = hello.network, self.options.seed, self.options.sharing
        self.schedule = Schedule.of_tasks(
            self.tasks, network.model, network.recipe, seed, groups, end, sharing, hello.rows_per_step
        )
        if network.model.is_decoder:
            self.schedule.unjudged = self.ledger.unjudged
        self.schedule.has_room = self._has_room
        with self.ledger.unwritten():
            self.ledger.reset([test_keys(self.tasks, group) for group in groups])
            self._replay()
        useful = self._useful(workers)
        self._share_threads(hello, useful)
        if self.induction is not None:
            self.induction.leave_cores(cores_needed(self.hello, useful), hello.device.startswith("cpu"))
        for index in range(1, useful):
            self._start(index, self._device_of(index, hello))

    def _leave_out_unsuited(self, hello: Hello) -> list[int]:
        """Return the tasks that suit the network, as indices, and name the others. Raises `InputError` if none does."""
        self.unsuited = unsuited_tasks(self.tasks, hello.network, self.options.seed)
        for reason in self.unsuited.values():
            self.say(f"left out, keeps its fallback: {reason}")
        suited = [index for index, task in enumerate(self.tasks) if task.id not in self.unsuited]
        if not suited:
            raise InputError(f"no task suits the model: {next(iter(self.unsuited.values()))}")
        return suited

    def _share_threads(self, hello: Hello, workers: int) -> None:
        """Have workers on one CPU compute with so few threads that they do not wait for each other's."""
        threads = threads_per_worker(self.options, hello, workers)
        if threads != hello.threads:
            self.hello = dataclasses.replace(hello, threads=threads)
            self.setup = dataclasses.replace(self.setup, options=dataclasses.replace(self.options, threads=threads))
            self.pool.send(0, Threads(threads))

    def _has_room(self) -> bool:
        """Return whether a further member may start.

        The disk needs room for each worker: for its network, and states of learning. On a CPU the search for programs
        comes first, since it is worth more and wants the same cores.
        """
        if self.hello.device.startswith("cpu") and self.induction is not None and self.induction.goes_on:
            return False
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.setup.folder).free
            return free > _FREE_BYTES + _STATES_PER_NETWORK * self.network_bytes * len(self.slots)
        return True

    def _drop_networks(self) -> None:
        """Remove the networks that are needed no more, where the disk has to hold those of further members."""
        if self.options.keep_networks or self.hello.network.recipe.members == 1:
            return
        for group in self.schedule.groups:
            if group.index not in self.dropped and self.schedule.is_over(group):
                self.dropped.add(group.index)
                with contextlib.suppress(OSError):
                    network_path(self.setup.folder, group.index).unlink()

    def _useful(self, workers: int) -> int:
        """Return how many of so many workers find work. Each one that starts takes memory, and time from the others.

        The number of groups follows from the workers that were asked for. So a run's answers do not depend on this.
        """
        if self.options.sharing == "joint":
            work = sum(len(self.tasks[i].train) for group in self.schedule.groups for i in group.tasks)
            words = f"the tasks have {work} demonstrations to share"
        else:
            open_ = [group for group in self.schedule.groups if group.lost is None]
            work = sum(any(group.outstanding) for group in open_)
            if any(group.report for group in open_):  # a run that goes on; a new one does not know of further members
                work += self.schedule.most - len(self.schedule.groups)
            words = f"there are {work} groups of tasks to do"
        processors = max(_LEAST_PROCESSORS, machine.usable_cores())
        useful = max(1, min(workers, work, _WORKERS_PER_PROCESSOR * processors))
        if useful < workers:
            self.say(f"{useful} of {workers} workers start: {words}, and {processors} processors")
        return useful

    def _replay(self) -> None:
        """Take over the votes and the adapted groups that the journal has of this run."""
        if self.history is None:
            return
        for key, votes in self.history.votes():
            self.schedule.restore(key[0])
            self.schedule.voted(key)
            self.ledger.add(key, votes)
        for group, votes in self.history.scores():
            self.ledger.add_scores(group, votes)
        for group, report, intact in self.history.reports():
            self.schedule.restore(group)
            complete = not any(self.schedule.groups[group].outstanding)
            if intact or complete:
                self.schedule.groups[group].report = report
            if complete and not intact:
                self.schedule.give_up_judging(group)
        self.schedule.give_up_late_judging()
        left = sum(any(group.outstanding) for group in self.schedule.groups)
        if left < len(self.schedule.groups) or self.ledger.tally.votes:
            self.say(
                f"going on from {self.history.journal.path}: {len(self.ledger.tally.votes)} batches of votes are "
                f"there, {left} of {len(self.schedule.groups)} groups of tasks are not done"
            )

    def _device_of(self, index: int, hello: Hello) -> str | None:
        return f"cuda:{index % hello.gpus}" if uses_all_gpus(self.options, hello) else self.options.device

    def _beat(self, index: int, beat: Beat) -> None:
        """Move the end of an adaptation if its pace has changed, and show the progress now and then."""
        self.schedule.speeds[index].slowdown = beat.slowdown
        now = self._renew_end()
        until = self.schedule.new_until(index)
        if until is not None:
            self.pool.send(index, Until(until))
        slot = self.slots[index]
        slot.progress.append((now, beat))
        if self.budget.elapsed() - self.told >= _PROGRESS_SECONDS:
            self.told = self.budget.elapsed()
            self.say(self._progress_line(index, slot.progress))

    def _progress_line(self, index: int, progress: deque[tuple[float, Beat]]) -> str:
        """Say how far a worker's adaptation is, how fast, and how much longer it takes."""
        job = self.schedule.flying[index]
        (before, old), (now, beat) = progress[0], progress[-1]
        words = f"adapt: group {job.group}, step {beat.step:,} of {beat.total:,}"
        words += "" if beat.loss is None else f", loss {beat.loss:.3f}"
        if now > before and beat.step > old.step:
            steps_per_second = (beat.step - old.step) / (now - before)
            examples_per_second = (beat.examples - old.examples) / (now - before)
            left = min((beat.total - beat.step) / steps_per_second, max(0.0, job.until - now))
            words += f", {steps_per_second:.3g} steps/s, {examples_per_second:,.0f} examples/s, {in_words(left)} left"
        return words

    def _demoted(self, index: int, message: Demoted) -> None:
        """Say once for all workers that a kernel has failed."""
        if message.op not in self.demotions:
            self.demotions[message.op] = message.reason
            self.warn(f"worker {index}: plain PyTorch serves {message.op} from now on: {message.reason}")

    def _graphs_chosen(self, index: int, message: GraphsChosen) -> None:
        """Say once for all workers whether CUDA graphs serve, and again where that changes."""
        known, chosen = (text.partition(":")[0] for text in (self.graphs.get(message.work, ""), message.choice))
        if known != chosen:
            self.graphs[message.work] = message.choice
            self.say(f"worker {index}: {message.work}: {message.choice}")

    def _voted(self, index: int, message: Voted) -> None:
        self.schedule.voted(message.key)
        group, number, batch = message.key
        plan = self.schedule.groups[group].plan
        self.schedule.speeds[index].measured(message.seconds, plan.cost_of(plan.rounds[number][batch]))
        self.predicted_tokens += message.tokens
        self.ledger.add(message.key, message.votes)
        if self.history is not None:
            self.history.voted(message)

    def _adapted(self, index: int, message: Adapted) -> None:
        job = self.schedule.flying[index]
        if job.rank > 0:
            return  # the worker of rank 0 reports for all
        self.schedule.adapted(message.group, index, message.report, message.saved)
        report = message.report
        when = in_words(self.budget.elapsed())
        if report["steps"]:
            done = f"{report['steps']:,} of {report['planned_steps']:,} steps"
            self.say(f"adapt: group {message.group} ended after {done}, loss {report['loss']:.3f}, at {when}")
        else:
            self.say(f"adapt: group {message.group}: the network stays as it is, at {when}")
        if message.saved:
            with contextlib.suppress(OSError):
                path = network_path(self.setup.folder, message.group)
                self.network_bytes = max(self.network_bytes, path.stat().st_size)
        if self.history is not None and message.saved:
            self.history.adapted(message)
        if message.saved:  # last: whoever kills the run before that finds the state
            shutil.rmtree(state_folder(self.setup.folder, message.group), ignore_errors=True)

    def _end_the_silent(self) -> None:
        """End the workers that have been silent for too long."""
        for index, slot in list(self.slots.items()):
            busy = not slot.ready or (self.schedule is not None and index in self.schedule.flying)
            # The limit doubles with the first failures, since a machine may be slower than anyone thought.
            doublings = min(slot.failures, _MAX_DOUBLINGS)
            limit = self.options.hang_after * (1 if slot.ready else _STARTING_FACTOR) * 2**doublings
            if busy and self.budget.elapsed() - slot.heard > limit:
                self._fail(index, "hang", f"was silent for {limit:.0f} s")

    def _fail(self, index: int, kind: str, reason: str) -> None:
        """End a worker, take its job back, and start another in its place, unless it has failed too often in a row.

        If no device is left, a CPU goes on.
        """
        self.pool.stop(index)
        slot = self.slots[index]
        job = self.schedule.gone(index) if self.schedule else None
        if isinstance(job, Adapt) and self._has_advanced(slot, job):
            slot.failures = 0
            self.schedule.forgive(job.group)
        slot.failures += job is None or kind not in _FAULTS_OF_GROUP
        self.warn(f"worker {index} on {slot.device or 'its device'} ({_name_of(job)}): {kind}: {reason}")
        if isinstance(job, Judge):
            self.schedule.judging_failed(job.group)
        elif job is not None:
            self.schedule.failed(job.group, kind, f"{kind}: {reason}")
        if isinstance(job, Adapt) and job.size > 1:
            self._break_up(job)
        if kind in ("device", "lost") and self._is_on_gpu(slot) and not self.setup.plain_operations:
            self.warn("workers that start from now on compute all operations in plain PyTorch")
            self.setup = dataclasses.replace(self.setup, plain_operations=True)
        if slot.failures < _MAX_FAILURES:
            self._start(index, slot.device)
            return
        del self.slots[index]
        self.warn(f"worker {index} is given up")
        if not self.slots and slot.device != "cpu":
            self._go_on_without_gpu()

    def _has_advanced(self, slot: Slot, job: Adapt) -> bool:
        """Return whether an adaptation had success for long before it failed."""
        if not slot.progress:
            return False
        (now, beat), group = slot.progress[-1], self.schedule.groups[job.group]
        is_further, group.furthest = beat.step > group.furthest, max(group.furthest, beat.step)
        worked = now - slot.began
        return is_further and worked > _LONG_WORK * max(self.options.save_every, _LEAST_INTERVAL)

    def _is_on_gpu(self, slot: Slot) -> bool:
        """Return whether a slot's worker computes on a GPU, as far as anyone knows."""
        device = slot.device or (self.hello.device if self.hello else "")
        return device.startswith("cuda")

    def _go_on_without_gpu(self) -> None:
        """Let a CPU go on, with the network and the recipe that suit a CPU if nothing was answered yet.

        Another recipe, and a network of another size, would need another journal. So once there are answers, a CPU goes
        on only with a network that it can carry.
        """
        options = dataclasses.replace(self.options, dtype=None)
        is_large = self.hello is not None and self.hello.network.model.hidden_size > _MAX_WIDTH_ON_CPU
        if self.ledger.tally.votes:
            if is_large:
                self.warn("no device is left; the network is too large for a CPU, so open tasks keep their fallback")
                return
            self.schedule.reckon_with(ROWS_PER_STEP)
            self.hello = dataclasses.replace(self.hello, rows_per_step=ROWS_PER_STEP)
        else:
            self.hello, self.schedule = None, None
        if is_large:
            options = dataclasses.replace(options, preset=None, artifact=None, bundled=True)
        self.warn("no device is left, a CPU goes on")
        # All workers that may still be started are on the CPU now, and one is enough.
        options = dataclasses.replace(options, device="cpu", workers=1)
        seconds_per_task = self.budget.plannable() / len(self.tasks)
        self.setup = dataclasses.replace(self.setup, options=options, seconds_per_task=seconds_per_task)
        self._start(0, "cpu")

    def _break_up(self, job: Adapt) -> None:
        """End a joint adaptation that has lost a worker, since the others would wait in vain. One goes on alone."""
        self.schedule.sharing = "sharded"
        for index in [i for i, other in self.schedule.flying.items() if isinstance(other, Adapt)]:
            self.pool.stop(index)
            self.schedule.gone(index)
            self._start(index, self.slots[index].device)

    def warn(self, text: str) -> None:
        """Show the user a warning now, and keep it for the report."""
        self.failures.append(text)
        self.say(f"WARNING: {text}")


def _name_of(job: Adapt | Predict | Judge | None) -> str:
    """Return what a worker was doing, in words."""
    if job is None:
        return "without a job"
    if isinstance(job, Adapt):
        return f"adapting group {job.group}"
    if isinstance(job, Judge):
        return f"judging candidates of group {job.group}"
    return f"predicting round {job.round} of group {job.group}"


def cores_needed(hello: Hello, workers: int) -> int:
    """Return how many cores of the CPU so many workers like this one keep busy."""
    return workers * (_CORES_PER_GPU if hello.device.startswith("cuda") else hello.threads)
