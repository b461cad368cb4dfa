"""Simulate whole runs, and check that each ends in time with valid answers, whatever its workers do.

    python tools/stress/simulate_runs.py --runs 1000

The real `solve` runs, with its schedule and its supervision, on a simulated clock and with simulated workers
(tools/stress/simulation.py). Steps and batches take random times with heavy tails; workers stall, throttle, die, hang,
run out of memory or diverge. A run has 1 to 240 tasks, 1 to 4 workers and a budget of 0 seconds to 12 hours. The exit
code is 1 if a run ended late or without valid answers, or if a well-behaved run used too little of its time to adapt.
"""

from __future__ import annotations

import script_setup

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from hrm_offline.answers.submission import read_submission
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import load_tasks
from hrm_offline.predict.plan import BASE_ROUNDS, PredictionPlan, tokens_of
from hrm_offline.solve import ledger, schedule
from hrm_offline.solve.job import SolveOptions, solve
from hrm_offline.solve.pool import end_with_parent
from tools.stress.simulation import MODEL, SimulatedPool, Weather, recipe_of
from tools.support.command_line import parser_of

# A budget shorter than this is over before the files can be written.
_UNAVOIDABLE_SECONDS = 1.0
# The share of the plannable adaptation that a well-behaved run has to use.
_MIN_USED = 0.95
# A further member that would take so much of the time that is left, at most, should have been started.
_FITTING_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a run.

    `late` is the seconds beyond its budget, negative if the run ended before. `valid` says whether the answers are
    valid. `used` is the share of the plannable adaptation that took place, or None if nothing can be said. `members`
    is the number of networks per group of tasks, on average, and `ceiling` says whether the first of them made all
    visits.
    """

    seed: int
    weather: Weather
    late: float
    valid: bool
    used: float | None
    members: float = 0.0
    ceiling: bool = False


def draw_weather(seed: int) -> Weather:
    """Draw the conditions of a run. Runs of odd seeds are calm, the others meet with faults and stalls."""
    rng = np.random.default_rng([seed, 1])
    budget = 0.0 if seed % 50 == 0 else float(np.exp(rng.uniform(np.log(0.5), np.log(12 * 3600))))
    steps = np.exp(rng.uniform(np.log(30), np.log(1500)))  # steps that fit into the budget
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
    calm = dataclasses.replace(calm, members=int(np.random.default_rng([seed, 4]).choice([1, 2, 8])))
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


def simulate(seed: int, sharing: str = "sharded", folder: Path | None = None) -> Outcome:
    """Simulate the run of a seed. `sharing` is solve's way to adapt; temporary files go below `folder`."""
    weather = draw_weather(seed)
    tasks = _draw_tasks(weather.tasks, seed)
    pool = SimulatedPool(weather, seed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        challenges, out = Path(scratch) / "challenges.json", Path(scratch) / "out"
        challenges.write_text(json.dumps(tasks))
        budget = Budget(weather.budget, 0.0, pool.clock)
        hang_after = max(5.0, 3 * weather.start, 30 * weather.step)
        options = SolveOptions(
            challenges, out, workers=weather.workers, sharing=sharing, hang_after=hang_after, induce="off"
        )
        with _slow_writing(pool) as writing:
            report = solve(options, budget, lambda _: None, pool=pool)
        late = budget.elapsed() - max(weather.budget, _UNAVOIDABLE_SECONDS)
        used = _used(weather, pool, challenges, report, sum(writing)) if weather.well_behaved else None
        networks = report.get("adapted", {}).get("groups", [])
        first = [network for network in networks if not network["member"]]
        valid = _is_valid(out / "submission.json", {task_id: len(task["test"]) for task_id, task in tasks.items()})
    return Outcome(
        seed, weather, late, valid, used, len(networks) / max(1, len(first)), bool(first) and _is_whole(first)
    )


@contextlib.contextmanager
def _slow_writing(pool: SimulatedPool) -> Iterator[list[float]]:
    """Let time pass on the supervisor's clock whenever the run writes its answers.

    Yields a list, which collects the seconds of each writing after a worker was ready.
    """
    write, writing = ledger.write_json, []

    def slow_write(*arguments):
        seconds = pool.weather.write * math.exp(pool.rng.normal(0, 0.5))
        pool.now += seconds
        if pool.ready:
            writing.append(seconds)
        write(*arguments)

    ledger.write_json = slow_write
    try:
        yield writing
    finally:
        ledger.write_json = write


def _is_valid(submission: Path, test_counts: dict[str, int]) -> bool:
    try:
        read_submission(submission, test_counts)
    except InputError:
        return False
    return True


def _draw_tasks(count: int, seed: int) -> dict:
    """Draw the tasks of a challenges file: small grids, with a large one now and then."""
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


def _used(weather: Weather, pool: SimulatedPool, challenges: Path, report: dict, writing: float) -> float | None:
    """Return the share of the plannable adaptation that took place, in seconds of all workers.

    A planner that knew the mean speeds could have planned all steps up to the recipe's ceiling, or as many as fit into
    the time that prediction leaves, and the seconds in which answers are written, `writing`. An adaptation ends with a
    whole step, so each group may lose one. Beyond the ceiling everything counts as used, unless a whole further member
    would have fitted into the time that was left.
    """
    if not pool.ready or "adapted" not in report:
        return None
    first = [network for network in report["adapted"]["groups"] if not network["member"]]
    if first and _is_whole(first):
        return _used_beyond(weather, report, first)
    recipe = recipe_of(weather)
    puzzles = PuzzleSet(load_tasks(challenges).tasks, recipe, MODEL, 0)
    end = weather.budget - Budget(weather.budget, 0.0, lambda: 0.0).reserve
    span = end - pool.ready[0]
    if span <= 0:
        return None
    predict = _prediction_seconds(weather, PredictionPlan(puzzles, recipe), span)
    room = sum(max(0.0, end - ready - predict - writing) for ready in pool.ready)
    room -= len(first) * weather.step * _mean_factor(weather)
    tokens_per_visit = sum(len(bucket.members) * bucket.area for bucket in puzzles.buckets(puzzles.demonstrations))
    steps = weather.visits * tokens_per_visit / recipe.tokens_per_step
    wanted = weather.step * _mean_factor(weather) * steps
    plannable = min(room, wanted)
    return pool.adapting / plannable if plannable > 0 else None


def _is_whole(networks: list[dict]) -> bool:
    """Return whether networks have made all steps of their recipe."""
    return all(network["steps"] == network["planned_steps"] for network in networks)


def _used_beyond(weather: Weather, report: dict, first: list[dict]) -> float:
    """Return 1, or the share of the budget that was used by a run that could have had one more whole member."""
    networks, shares = report["adapted"]["groups"], report["shares of the budget"]
    reserve = Budget(weather.budget, 0.0, lambda: 0.0).reserve
    left = weather.budget * shares["left"] - reserve
    following = first[len(networks) % len(first)]
    # The prediction of a group by one worker, from the mean over all workers and groups.
    predict = weather.budget * shares["prediction"] * weather.workers / len(first)
    fits = following["seconds"] + predict < _FITTING_SHARE * left
    return 1 - shares["left"] if fits and len(networks) < weather.members * len(first) else 1.0


def _prediction_seconds(weather: Weather, plan: PredictionPlan, span: float) -> float:
    """Return the seconds that the schedule leaves to prediction, of `span` seconds in which the workers are ready."""
    seconds_per_token = weather.token * _mean_factor(weather) / weather.workers
    base, extra = (
        seconds_per_token * sum(tokens_of(batch) for batches in rounds for batch in batches)
        for rounds in (plan.rounds[:BASE_ROUNDS], plan.rounds[BASE_ROUNDS:])
    )
    return min(base + min(extra, schedule.MAX_EXTRA_SHARE * span), schedule.MAX_PREDICT_SHARE * span)


def _mean_factor(weather: Weather) -> float:
    """Return the mean of the log-normal factor of all times, whose median is 1."""
    return math.exp(weather.spread**2 / 2)


def main() -> int:
    options = _parse_arguments()
    outcomes, seeds = [], range(options.first, options.first + options.runs)
    with ProcessPoolExecutor(options.processes, get_context("spawn"), end_with_parent) as executor:
        for outcome in executor.map(partial(simulate, sharing=options.adapt), seeds, chunksize=5):
            outcomes.append(outcome)
            if outcome.late > 0 or not outcome.valid or (outcome.used is not None and outcome.used < _MIN_USED):
                print(outcome, flush=True)
    return report_on(outcomes)


def report_on(outcomes: list[Outcome]) -> int:
    """Print a summary. Returns 1 if a run was late, invalid or wasteful, else 0."""
    late = sum(outcome.late > 0 for outcome in outcomes)
    invalid = sum(not outcome.valid for outcome in outcomes)
    closest = -max(outcome.late for outcome in outcomes)
    print(
        f"{len(outcomes)} runs: {late} ended late, {invalid} without valid answers; the closest ended {closest:.3f} s "
        "before its limit"
    )
    used = sorted(outcome.used for outcome in outcomes if outcome.used is not None)
    wasteful = sum(share < _MIN_USED for share in used)
    if used:
        below = sorted(outcome.used for outcome in outcomes if outcome.used is not None and not outcome.ceiling)
        beyond = [outcome.members for outcome in outcomes if outcome.used is not None and outcome.ceiling]
        if below:
            print(
                f"{len(below)} well-behaved runs below the ceiling of their recipe: adaptation used {below[0]:.1%} to "
                f"{below[-1]:.1%} of the plannable time, median {below[len(below) // 2]:.1%}"
            )
        if beyond:
            print(f"{len(beyond)} beyond it: {sum(beyond) / len(beyond):.2f} networks per group of tasks on average")
        print(f"{wasteful} used less than {_MIN_USED:.0%}")
    return 1 if late or invalid or wasteful else 0


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=int, default=1000, metavar="N", help="runs to simulate (default: %(default)s)")
    parser.add_argument(
        "--first", type=int, default=0, metavar="SEED", help="seed of the first run; the others follow (default: 0)"
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="runs at once (default: %(default)s)")
    parser.add_argument(
        "--adapt",
        choices=("sharded", "per-task"),
        default="sharded",
        help="how solve shares the tasks among networks (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
