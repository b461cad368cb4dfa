"""Does a run end in time and leave valid answers, whatever its workers do? Runs on a simulated clock.

    python tools/stress/simulate_runs.py --runs 1000

Everything that plans is the real code: `solve`, its schedule and supervision, each worker's loop and the pacing of
adaptation. Only what computes is simulated: steps and batches take random times, log-normal with heavy tails, with
stalls, chips that throttle, and workers that die, hang, run out of memory or diverge. Each run has 1 to 240 tasks, 1
to 4 workers and a budget of 0 seconds to 12 hours. Ends with exit code 1 if a run ended late or without valid answers,
or if adaptation used too little of what was plannable in a well-behaved one.
"""

from __future__ import annotations

import script_setup

import argparse
import dataclasses
import heapq
import itertools
import json
import math
import sys
import tempfile
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from hrm_offline.answers.submission import read_submission
from hrm_offline.answers.vote import Votes
from hrm_offline.common.budget import Budget
from hrm_offline.config import preset
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import load_tasks
from hrm_offline.predict.plan import BASE_ROUNDS, PredictionPlan, tokens_of
from hrm_offline.solve import ledger, schedule
from hrm_offline.solve.choice import Choice
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.job import SolveOptions, solve
from hrm_offline.solve.messages import Adapted, Hello, Lost, Network, State
from hrm_offline.solve.worker import Worker, end_with_parent
from hrm_offline.train.adapt import Adaptation, Diverged
from hrm_offline.train.distributed import World

# A budget shorter than this is over before the files can be written.
_UNAVOIDABLE_SECONDS = 1.0
_ENOUGH_USED = 0.9

MODEL = dataclasses.replace(preset("hrm-132k").model, puzzle_columns=1)


@dataclasses.dataclass(frozen=True)
class Weather:
    """What a run meets with. Seconds for a worker to start, a full adaptation step, predicting a canvas token and
    writing the answers; the spread of each (sigma of the logarithm); chances of a stall or a fault at a step; when the
    chips begin to throttle, as a share of the budget, and by how much."""

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

    @property
    def well_behaved(self) -> bool:
        """Whether it is a run whose adaptation can be planned."""
        steady = self.stall == self.fault == 0 and self.throttle == 1 and self.spread <= 0.2
        return steady and self.start < 0.1 * self.budget and self.budget >= 5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: seconds beyond its budget (negative: before), whether its answers are valid, and the share of
    the plannable adaptation that took place, None where that says nothing."""

    seed: int
    weather: Weather
    late: float
    valid: bool
    used: float | None


def draw_weather(seed: int) -> Weather:
    """Every other run is well-behaved."""
    rng = np.random.default_rng([seed, 1])
    budget = 0.0 if seed % 50 == 0 else float(np.exp(rng.uniform(np.log(0.5), np.log(12 * 3600))))
    steps = np.exp(rng.uniform(np.log(30), np.log(1500)))  # that fit into the budget
    calm = Weather(
        tasks=int(rng.integers(1, 241)),
        workers=int(rng.integers(1, 5)),
        budget=budget,
        visits=int(np.exp(rng.uniform(0, np.log(500)))),
        start=float(rng.uniform(0.001, 0.08)) * budget,
        step=float(budget / steps),
        token=float(budget * np.exp(rng.uniform(np.log(1e-9), np.log(3e-6)))),
        write=min(0.05, 0.002 * budget),
    )
    if seed % 2:
        return calm
    return dataclasses.replace(
        calm,
        start=calm.start * float(np.exp(rng.normal(0, 2))),
        spread=float(rng.uniform(0.2, 1.2)),
        stall=float(rng.choice([0, 1e-3, 1e-2])),
        fault=float(rng.choice([0, 1e-4, 3e-3, 3e-2])),
        throttled_from=float(rng.uniform(0, 1)),
        throttle=float(rng.choice([1, 2, 4])),
    )


class SimulatedPool:
    """Workers that run one after another, each on a clock of its own; the supervisor's clock follows the messages."""

    def __init__(self, weather: Weather, seed: int):
        self.weather, self.now = weather, 0.0
        self.rng = np.random.default_rng([seed, 2])
        self.workers: dict[int, SimulatedWorker] = {}
        self.mail: list = []  # heap of (time, number, worker, message)
        self.numbers = itertools.count()
        self.adapting = 0.0  # seconds that all steps took
        self.ready: list[float] = []  # when workers came up
        self.puzzles: dict[tuple[int, ...], PuzzleSet] = {}  # by tasks

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
        """The earliest message before `timeout`; workers go on until it is certain which one that is."""
        deadline = self.now + max(timeout, 1e-6)  # no clock stands still
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
    """The real loop of a worker around an engine that only spends time."""

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
        """Until its next safe point."""
        if self.idle:
            self.now = max(self.now, self.inbox[0][0])
        try:
            state = next(self.life)
            self.idle = state is State.IDLE and not self._has_mail()
        except StopIteration:
            self.life = None
        except _Killed:
            self.life = None
            self._send(Lost("killed by the simulation"))

    def spend(self, seconds: float, faults: bool = True) -> float:
        """Let a piece of work of about `seconds` take its time; returns what it took."""
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
                self.hung = True  # it never comes to its next safe point

    def _has_mail(self) -> bool:
        return bool(self.inbox) and self.inbox[0][0] <= self.now

    def _receive(self):
        return self.inbox.popleft()[1] if self._has_mail() else None

    def _send(self, message) -> None:
        heapq.heappush(self.pool.mail, (self.now, next(self.pool.numbers), self, message))


class _Killed(BaseException):
    """Ends a worker without a word, as SIGKILL does."""


class SimulatedEngine(Engine):
    """The engine's own rules about time, over work that only spends it."""

    def __init__(self, worker: SimulatedWorker, setup, clock):
        self.worker, self.setup, self.options, self.clock = worker, setup, setup.options, clock
        weather = worker.pool.weather
        worker.spend(weather.start)
        self.choice = Choice(Network(MODEL, recipe_of(weather), None), None, "simulated")
        self.tasks = load_tasks(self.options.challenges).tasks
        self.adaptation = None
        self.seconds_per_token = self._probe()

    def hello(self) -> Hello:
        self.worker.pool.ready.append(self.worker.now)
        return Hello(
            "simulated",
            0,
            self.choice.network,
            None,
            "simulated",
            self.seconds_per_token,
            1,
            "none",
            {},
        )

    def adapt(self, job):
        pool, recipe = self.worker.pool, self.choice.recipe
        source = ExampleSource(self._puzzles(job.tasks), 0)
        learner = SimpleNamespace(step=0, total_steps=0, world=World(), model=SimpleNamespace(device=None), ema=None)

        def learn(offered):
            pool.adapting += self.worker.spend(pool.weather.step * offered.tokens / recipe.tokens_per_step)
            learner.step += 1
            return [SimpleNamespace(metrics={"lm_loss": 1.0})]

        def offer(step: int):
            batch = source.batch(step)
            return SimpleNamespace(size=len(batch), tokens=tokens_of(batch))

        learner.learn = learn
        planned = max(1, round(source.steps_per_visit * recipe.visits))
        self.adaptation = Adaptation(learner, offer, planned, clock=self.clock, until=job.until)
        yield from self.adaptation.run()
        report = self.adaptation.finish()
        self.adaptation = None
        self.adapted = Adapted(job.group, dataclasses.asdict(report), True, 0)

    def _puzzles(self, tasks: tuple[int, ...]) -> PuzzleSet:
        """Made once for all workers and jobs of a run: half of the simulation's own time would go into it."""
        known = self.worker.pool.puzzles
        if tasks not in known:
            known[tasks] = super()._puzzles(tasks)
        return known[tasks]

    def _new_predictor(self, puzzles):
        return SimpleNamespace(predict=self._predict)

    def _predictor(self, job):
        puzzles = self._puzzles(job.tasks)
        return self._new_predictor(puzzles), PredictionPlan(puzzles, self.choice.recipe)

    def _predict(self, batch) -> Votes:
        self.worker.spend(self.worker.pool.weather.token * tokens_of(batch))
        size = len(batch)
        return Votes(batch.examples, np.ones((size, 2), np.int32), np.zeros((size, 1, 1), np.uint8), np.full(size, 0.5))


def recipe_of(weather: Weather):
    return dataclasses.replace(
        preset("hrm-132k").adapt,
        visits=weather.visits,
        tokens_per_step=7_500,
        vote_views=24,
        predict_tokens=20_000,
        colour_permutations=24,
        conditioning="table",
    )


def simulate(seed: int, sharing: str = "sharded", folder: Path | None = None) -> Outcome:
    """One run, and what came of it."""
    weather = draw_weather(seed)
    pool = SimulatedPool(weather, seed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        challenges = Path(scratch) / "challenges.json"
        challenges.write_text(json.dumps(_draw_tasks(weather.tasks, seed)))
        budget = Budget(weather.budget, 0.0, pool.clock)
        write = ledger.write_json

        def slow_write(*arguments):
            pool.now += weather.write * math.exp(pool.rng.normal(0, 0.5))
            write(*arguments)

        ledger.write_json = slow_write
        try:
            options = SolveOptions(
                challenges,
                Path(scratch) / "out",
                workers=weather.workers,
                sharing=sharing,
                hang_after=max(5.0, 3 * weather.start, 30 * weather.step),
            )
            report = solve(options, budget, lambda _: None, pool=pool)
        finally:
            ledger.write_json = write
        valid = True
        try:
            read_submission(
                Path(scratch) / "out" / "submission.json",
                {task_id: len(task["test"]) for task_id, task in _draw_tasks(weather.tasks, seed).items()},
            )
        except Exception:
            valid = False
        late = budget.elapsed() - max(weather.budget, _UNAVOIDABLE_SECONDS)
        used = _used(weather, pool, challenges, report) if weather.well_behaved else None
    return Outcome(seed, weather, late, valid, used)


def _draw_tasks(count: int, seed: int) -> dict:
    """Tasks of small grids with a large one now and then."""
    rng = np.random.default_rng([seed, 3])

    def grid() -> list:
        return rng.integers(0, 10, rng.integers(1, 21 if rng.random() < 0.1 else 6, 2)).tolist()

    return {
        f"t{i}": {
            "train": [{"input": grid(), "output": grid()} for _ in range(rng.integers(1, 5))],
            "test": [{"input": grid()} for _ in range(rng.integers(1, 4))],
        }
        for i in range(count)
    }


def _used(weather: Weather, pool: SimulatedPool, challenges: Path, report: dict) -> float | None:
    """Worker-seconds of adaptation as a share of what was plannable knowing the true mean speeds: the recipe's steps,
    or what the workers' time leaves beside prediction."""
    if not pool.ready or "adapted" not in report:
        return None
    if report["adapted"]["steps"] == report["adapted"]["planned_steps"]:
        return 1.0
    recipe = recipe_of(weather)
    puzzles = PuzzleSet(load_tasks(challenges).tasks, recipe, MODEL, 0)
    plan = PredictionPlan(puzzles, recipe)
    mean = math.exp(weather.spread**2 / 2)
    a_token = weather.token * mean / weather.workers
    base, extra = (
        a_token * sum(tokens_of(batch) for batches in rounds for batch in batches)
        for rounds in (plan.rounds[:BASE_ROUNDS], plan.rounds[BASE_ROUNDS:])
    )
    end = weather.budget - Budget(weather.budget, 0.0, lambda: 0.0).reserve
    span = end - pool.ready[0]
    if span <= 0:
        return None
    predict = min(base + min(extra, schedule.MAX_EXTRA_SHARE * span), schedule.MAX_PREDICT_SHARE * span)
    room = sum(max(0.0, end - ready - predict) for ready in pool.ready)
    tokens_per_visit = sum(len(bucket.members) * bucket.area for bucket in puzzles.buckets(puzzles.demonstrations))
    wanted = weather.step * mean * weather.visits * tokens_per_visit / recipe.tokens_per_step
    return pool.adapting / min(room, wanted) if min(room, wanted) > 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--adapt", choices=("sharded", "per-task"), default="sharded")
    options = parser.parse_args()
    outcomes, seeds = [], range(options.first, options.first + options.runs)
    with ProcessPoolExecutor(options.processes, get_context("spawn"), end_with_parent) as executor:
        for outcome in executor.map(partial(simulate, sharing=options.adapt), seeds, chunksize=5):
            outcomes.append(outcome)
            if outcome.late > 0 or not outcome.valid or (outcome.used is not None and outcome.used < _ENOUGH_USED):
                print(outcome, flush=True)
    late = sum(outcome.late > 0 for outcome in outcomes)
    invalid = sum(not outcome.valid for outcome in outcomes)
    used = sorted(outcome.used for outcome in outcomes if outcome.used is not None)
    print(
        f"{len(outcomes)} runs: {late} ended late, {invalid} without valid answers; nearest to its end by "
        f"{-max(outcome.late for outcome in outcomes):.3f} s"
    )
    wasteful = sum(share < _ENOUGH_USED for share in used)
    print(
        f"{len(used)} well-behaved runs: adaptation used {used[0]:.1%} to {used[-1]:.1%} of what was plannable, "
        f"median {used[len(used) // 2]:.1%}; {wasteful} under {_ENOUGH_USED:.0%}"
    )
    return 1 if late or invalid or wasteful else 0


if __name__ == "__main__":
    sys.exit(main())
