"""Simulate the workers of a run on a simulated clock, for tools/stress/simulate_runs.py.

Everything that plans is the package's own code: each worker's loop, and the pacing of adaptation and prediction. Only
the computing is simulated: a step or a batch is an amount of time that passes. That time is random, and a worker may
stall, throttle, die, hang, run out of memory or diverge.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections import deque
from types import SimpleNamespace

import numpy as np
import torch

from hrm_offline.answers.vote import Votes
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import load_tasks
from hrm_offline.predict.plan import ROWS_PER_STEP, tokens_of
from hrm_offline.presets import preset
from hrm_offline.solve.choice import Choice
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.messages import Activity, Adapted, Hello, Lost, NetworkChoice
from hrm_offline.solve.worker import Worker
from hrm_offline.train.adapt import Adaptation, Diverged
from hrm_offline.train.distributed import World

MODEL = dataclasses.replace(preset("hrm-132k").model, puzzle_columns=1)


@dataclasses.dataclass(frozen=True)
class Weather:
    """The conditions of a run.

    `start`, `step`, `token` and `write` are the seconds to start a worker, to take a full adaptation step, to predict
    one canvas token and to write the answers. Each time is log-normal, with `spread` as the standard deviation of its
    logarithm. `stall` and `fault` are the chances of a stall and of a fault per piece of work. From the share
    `throttled_from` of the budget on, all work takes `throttle` times as long. `members` is the recipe's setting.
    """

    tasks: int
    workers: int
    budget: float
    visits: int
    start: float
    step: float
    token: float
    write: float
    spread: float = 0.2
    stall: float = 0.0
    fault: float = 0.0
    throttled_from: float = 1.0
    throttle: float = 1.0
    members: int = 1

    @property
    def well_behaved(self) -> bool:
        """Whether this run's adaptation can be planned: its times are steady and its workers start soon."""
        steady = self.stall == self.fault == 0 and self.throttle == 1 and self.spread <= 0.2
        return steady and self.start < 0.1 * self.budget and self.budget >= 5


class SimulatedPool:
    """Runs the simulated workers one after another in this process, in place of the real pool of processes.

    Each worker has a clock of its own. The clock of the supervisor, `now`, follows the messages that it receives.
    """

    def __init__(self, weather: Weather, seed: int):
        self.weather, self.now = weather, 0.0
        self.rng = np.random.default_rng([seed, 2])
        self.workers: dict[int, SimulatedWorker] = {}
        self.mail: list = []  # heap of (time, number, worker, message); the number decides between equal times
        self.numbers = itertools.count()
        self.adapting = 0.0  # seconds that the steps of all workers took
        self.ready: list[float] = []  # times at which workers were ready
        self.puzzles: dict[tuple[tuple[int, ...], int], PuzzleSet] = {}  # by the numbers of their tasks, and the member

    def clock(self) -> float:
        return self.now

    def start(self, slot: int) -> None:
        self.workers[slot] = SimulatedWorker(self, slot)

    def send(self, slot: int, message) -> None:
        if slot in self.workers:
            self.workers[slot].inbox.append((self.now, message))

    def stop(self, slot: int) -> None:
        worker = self.workers.pop(slot, None)
        self.mail = [entry for entry in self.mail if entry[2] is not worker]
        heapq.heapify(self.mail)

    def close(self) -> None:
        self.workers.clear()

    def receive(self, timeout: float):
        """Return the earliest message, or None if none comes before `timeout`.

        The worker that is furthest behind goes on until no worker can send an earlier message any more.
        """
        deadline = self.now + max(timeout, 1e-6)  # a clock that stood still would wait for ever
        while True:
            running = [worker for worker in self.workers.values() if worker.runs]
            behind = min(running, key=lambda worker: worker.now, default=None)
            horizon = min(deadline, behind.now if behind else math.inf)
            if self.mail and self.mail[0][0] <= horizon:
                time, _, worker, message = heapq.heappop(self.mail)
                self.now = max(self.now, time)
                return worker.slot, message
            if behind is None or behind.now >= deadline:
                self.now = deadline
                return None
            behind.advance()


class SimulatedWorker:
    """Runs the real loop of a worker around an engine that only lets time pass."""

    def __init__(self, pool: SimulatedPool, slot: int):
        self.pool, self.slot, self.now = pool, slot, pool.now
        self.inbox: deque = deque()
        self.hung = False
        self.idle = False
        self.life = Worker(
            self._receive, self._send, lambda setup, clock, say: SimulatedEngine(self, setup, clock), lambda: self.now
        ).run()

    @property
    def runs(self) -> bool:
        return self.life is not None and not self.hung and not (self.idle and not self.inbox)

    def advance(self) -> None:
        """Go on to the next safe point of the worker's loop."""
        if self.idle:
            self.now = max(self.now, self.inbox[0][0])
        try:
            state = next(self.life)
            self.idle = state is Activity.IDLE and not self._has_mail()
        except StopIteration:
            self.life = None
        except _Killed:
            self.life = None
            self._send(Lost("killed by the simulation"))

    def spend(self, seconds: float, faults: bool = True) -> float:
        """Let the time of a piece of work pass, about `seconds`, and return the seconds that passed.

        With `faults`, the work may fail instead.
        """
        weather, rng = self.pool.weather, self.pool.rng
        if faults and rng.random() < weather.fault:
            self._fault(rng)
        if self.now > weather.throttled_from * weather.budget:
            seconds *= weather.throttle
        seconds *= math.exp(rng.normal(0, weather.spread))
        if rng.random() < weather.stall:
            seconds += weather.budget * rng.exponential(0.02)
        self.now += seconds
        return seconds

    def _fault(self, rng) -> None:
        match rng.integers(4):
            case 0:
                raise torch.OutOfMemoryError("simulated")
            case 1:
                raise Diverged("simulated")
            case 2:
                raise _Killed
            case _:
                self.hung = True  # the worker never comes to its next safe point

    def _has_mail(self) -> bool:
        return bool(self.inbox) and self.inbox[0][0] <= self.now

    def _receive(self):
        return self.inbox.popleft()[1] if self._has_mail() else None

    def _send(self, message) -> None:
        heapq.heappush(self.pool.mail, (self.now, next(self.pool.numbers), self, message))


class _Killed(BaseException):
    """Ends a worker without a message, as SIGKILL does."""


class SimulatedEngine(Engine):
    """Keeps the real engine's rules about time, over work that only lets time pass."""

    def __init__(self, worker: SimulatedWorker, setup, clock):
        self.worker, self.setup, self.options, self.clock = worker, setup, setup.options, clock
        weather = worker.pool.weather
        worker.spend(weather.start)
        self.runtime = SimpleNamespace(device=SimpleNamespace(type="cpu"))
        self.choice = Choice(NetworkChoice(MODEL, recipe_of(weather), None), None, "simulated")
        self.tasks = load_tasks(self.options.challenges).tasks
        self.adaptation = None
        self.rows_per_step = ROWS_PER_STEP
        self.seconds_per_cost = self._probe()

    def hello(self) -> Hello:
        self.worker.pool.ready.append(self.worker.now)
        return Hello(
            "simulated",
            0,
            self.choice.network,
            None,
            "simulated",
            self.seconds_per_cost,
            1,
            "none",
            {},
        )

    def adapt(self, job):
        pool, recipe = self.worker.pool, self.choice.recipe
        source, began = ExampleSource(self._puzzles(job.tasks, job.member), 0), self.clock()
        planned = max(1, round(source.steps_per_visit * recipe.visits))
        model = SimpleNamespace(device=None)
        learner = SimpleNamespace(step=0, total_steps=planned, world=World(), model=model, ema=None)

        def learn(offered):
            pool.adapting += self.worker.spend(pool.weather.step * offered.tokens / recipe.tokens_per_step)
            learner.step += 1
            return [SimpleNamespace(metrics={"lm_loss": 1.0})]

        def offer(step: int):
            batch = source.batch(step)
            return SimpleNamespace(size=len(batch), tokens=tokens_of(batch))

        learner.learn = learn
        self.adaptation = Adaptation(learner, offer, planned, clock=self.clock, until=job.until, source=source)
        yield from self.adaptation.run()
        report = self.adaptation.finish()
        self.adaptation = None
        seconds = self.clock() - began
        self.adapted = Adapted(job.group, dataclasses.asdict(report) | {"seconds": seconds}, True, 0)

    def _puzzles(self, tasks: tuple[int, ...], member: int = 0) -> PuzzleSet:
        """Return the puzzles of some tasks, made once for all workers: they take half of the simulation's time."""
        known = self.worker.pool.puzzles
        if (tasks, member) not in known:
            known[tasks, member] = super()._puzzles(tasks, member)
        return known[tasks, member]

    def _new_network(self, puzzles):
        return None

    def _new_predictor(self, model, puzzles):
        predict = self._predict
        return SimpleNamespace(predict=predict, rehearse=predict, try_graphs=lambda batch: None, records=False)

    def _predictor(self, job):
        puzzles = self._puzzles(job.tasks, job.member)
        return self._new_predictor(None, puzzles), self.plan_of(puzzles)

    def _predict(self, batch) -> Votes:
        self.worker.spend(self.worker.pool.weather.token * tokens_of(batch))
        size = len(batch)
        sizes, grids, confidences = np.ones((size, 2), np.int32), np.zeros((size, 1, 1), np.uint8), np.full(size, 0.5)
        return Votes(batch.examples, sizes, grids, confidences)


def recipe_of(weather: Weather):
    """Return the recipe of a run: visits and members are the weather's, everything else is the same for all runs."""
    return dataclasses.replace(
        preset("hrm-132k").adapt,
        visits=weather.visits,
        members=weather.members,
        tokens_per_step=7_500,
        vote_views=24,
        predict_tokens=20_000,
        colour_permutations=24,
        conditioning="table",
    )
