"""Repeat ARC Prize's analysis on a budget of one's own: `python tools/study/study.py NAME ...`, or `all`.

    python tools/study/study.py all --budget 2h --workers 2
    python tools/study/study.py outer-loop halting --set arc1-eval --tasks 60 --visits 800 --seeds 0 1 2 3

The studies and their arms are declared in studies.py. Every arm learns the demonstrations of the `--tasks` smallest
tasks of a set (by sizes, never by test outputs), from random weights unless it says otherwise, predicts, votes and is
scored, once a seed.

A finished run is a line of runs.jsonl in `--out` and is never repeated: the same command, or another that needs
it, goes on after a kill. All arms get a seed before any gets the next. Nothing is begun that would not end
within `--budget`; what is missing then, the report says. Writes, of each study, NAME.csv, NAME.png and NAME.md, and
README.md, a table of what was published and what was seen, over all studies done at this scale.
"""

from __future__ import annotations

import script_setup

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from hrm_offline.answers.candidates import merged
from hrm_offline.answers.vote import Pool
from hrm_offline.common.budget import parse_duration
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder
from hrm_offline.config import PRESETS, preset
from hrm_offline.data.tasks import Task, digest_of
from hrm_offline.induction.search import induce
from hrm_offline.model.artifact import bundled_artifact
from hrm_offline.solve.worker import end_with_parent
from tools.study.report import MIN_SEEDS, Scale, write_reports
from tools.study.studies import Arm, Study, studies_of
from tools.study.trial import (
    BUNDLED,
    Learned,
    Pools,
    Trial,
    busy_seconds,
    configs_of,
    learn,
    predict,
    score_votes,
    tasks_of,
)
from tools.support import environment

RUNS_FILE = "runs.jsonl"
_PRESET = "hrm-132k"


@dataclass(frozen=True)
class Job:
    """A learning and the ways of voting that are wanted of it, each by the name of its run."""

    trial: Trial
    votes: dict[str, dict]


class Runs:
    """The finished runs by name, a line each in a file. A line that a kill has torn, or that is no run, counts as
    missing."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, dict] = {}
        content = path.read_bytes() if path.exists() else b""
        self._ends_whole = not content or content.endswith(b"\n")
        for text in content.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "outcomes" in line:
                self.found[line["run"]] = line

    def add(self, line: dict) -> None:
        """Onto the disk, before anything else is begun."""
        with open(self.path, "ab") as file:
            file.write((b"" if self._ends_whole else b"\n") + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._ends_whole = True
        if "outcomes" in line:
            self.found[line["run"]] = line


def name_of_learning(trial: Trial, tasks: tuple[Task, ...]) -> str:
    """What tells a learning from all others: the whole network and recipe, not the words that changed them.
    Raises `InputError` for a trial that cannot be."""
    model, recipe, artifact = configs_of(trial, "study")
    about = [
        dataclasses.asdict(model),
        dataclasses.asdict(recipe),
        trial.seed,
        digest_of(tasks),
        artifact and artifact.digest,
        {name: trial.changes.get(name) for name in ("alone", "others", "start")},
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def name_of_run(learning: str, votes: dict) -> str:
    """A learning and a way of voting."""
    return hashlib.sha256(json.dumps([learning, votes], sort_keys=True).encode()).hexdigest()[:16]


def plan(studies: list[Study], scale: Scale, tasks: tuple[Task, ...]) -> dict[int, dict[tuple[str, str], str]]:
    """The name of each (study, arm)'s run, by seed. Raises `InputError`."""
    return {
        seed: {
            (study.name, arm.name): name_of_run(name_of_learning(_trial(arm, scale, seed), tasks), arm.votes)
            for study in studies
            for arm in _possible_arms(study, scale)
        }
        for seed in scale.seeds
    }


def _possible_arms(study: Study, scale: Scale) -> list[Arm]:
    """Those that the preset allows: not for each does an artifact come with the package."""
    bundled = bundled_artifact(scale.preset)
    return [arm for arm in study.arms if bundled or arm.learn.get("artifact") != BUNDLED]


def missing_jobs(studies: list[Study], scale: Scale, tasks: tuple[Task, ...], done: dict[str, dict]) -> list[Job]:
    """What is left to do, seed by seed; runs that learn the same make one job."""
    jobs: dict[str, Job] = {}
    for seed in scale.seeds:
        for arm in (arm for study in studies for arm in _possible_arms(study, scale)):
            trial = _trial(arm, scale, seed)
            learning = name_of_learning(trial, tasks)
            run = name_of_run(learning, arm.votes)
            if run not in done:
                jobs.setdefault(learning, Job(trial, {})).votes[run] = arm.votes
    return list(jobs.values())


def _trial(arm: Arm, scale: Scale, seed: int) -> Trial:
    return Trial(arm.learn, seed, scale.preset, scale.tasks, scale.visits)


def do(job: Job) -> list[dict]:
    """Learn once, vote in all ways that are wanted; a line each, or one that says why it failed."""
    about = {
        "learn": job.trial.changes,
        "seed": job.trial.seed,
        "commit": environment.commit_of_checkout(),
        "machine": describe_machine(),
    }
    try:
        tasks = tasks_of(job.trial.tasks)
        learned = learn(job.trial, tasks)
        about |= learned.about()
        return [{"run": run, "votes": votes} | about | _vote(learned, votes, tasks) for run, votes in job.votes.items()]
    except Exception as error:  # one arm that fails must not cost the others
        return [
            {"run": run, "votes": votes, "failed": f"{type(error).__name__}: {error}"} | about
            for run, votes in job.votes.items()
        ]


def _vote(learned: Learned, votes: dict, tasks: tuple[Task, ...]) -> dict:
    """Core-seconds of voting, outer steps computed for it, and of each task [share of outputs right, cells right]."""
    changes = dict(votes)
    solver = changes.pop("solver", "network")
    started = busy_seconds()
    pools, steps = ({}, 0) if solver == "induction" else predict(learned, changes)
    if solver != "network":
        pools = _with_induced(pools, tasks)
    score = score_votes(pools, tasks)
    outcomes = {task.id: [round(task.right_either / task.outputs, 4), round(task.cells, 4)] for task in score.tasks}
    return {"vote seconds": round(busy_seconds() - started, 1), "vote steps": steps, "outcomes": outcomes}


def _with_induced(pools: Pools, tasks: tuple[Task, ...]) -> Pools:
    """The votes joined by those of the inductive solver, which has not seen a test output either."""
    found = dict(pools)
    for task in tasks:
        for index, candidates in enumerate(induce(task.without_labels())):
            if candidates:
                found[task.id, index] = merged(pools.get((task.id, index), Pool()), [(candidates, 1.0)])
    return found


def describe_machine() -> str:
    """The GPU or the processor as far as it tells, and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    processor = ", ".join(sorted(names)) or platform.processor() or platform.machine()
    if torch.cuda.is_available():
        processor = f"{torch.cuda.get_device_name()}, {processor}"
    return (
        f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def work_off(jobs: list[Job], runs: Runs, workers: int, until: float) -> bool:
    """Do the jobs, `workers` at a time, as far as they end before `until` (on `time.monotonic`) by what the longest
    has taken; whether all were done. Where a worker dies (no memory, say), what was done is kept."""
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
            return all([*_rounds(pool, jobs, runs, workers, until)])  # all of them: one that fails ends nothing
    except BrokenProcessPool:
        print(
            "a worker died, so the rest is not done: the same command goes on, with fewer --workers if it was for "
            "memory",
            flush=True,
        )
        return False


def _rounds(pool: ProcessPoolExecutor, jobs: list[Job], runs: Runs, workers: int, until: float) -> Iterator[bool]:
    """Whether each job was done, as they end."""
    waiting, flying, longest = list(jobs), {}, 0.0
    while waiting or flying:
        while waiting and len(flying) < workers and time.monotonic() + longest < until:
            job = waiting.pop(0)
            flying[pool.submit(do, job)] = (job, time.monotonic())
        if not flying:
            print(f"the budget is spent: {len(waiting)} jobs are not done", flush=True)
            yield False
            return
        ended, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in ended:
            job, begun = flying.pop(future)
            longest = max(longest, time.monotonic() - begun)
            yield _record(future, job, runs, len(waiting) + len(flying))


def _record(future: Future, job: Job, runs: Runs, left: int) -> bool:
    lines = future.result()
    for line in lines:
        runs.add(line)
    failed = [line["failed"] for line in lines if "failed" in line]
    words = failed[0] if failed else f"{lines[0]['seconds']} s, loss {lines[0]['loss']}, {len(lines)} ways of voting"
    print(f"seed {job.trial.seed}, {job.trial.changes or 'as it is'}: {words}; {left} jobs left", flush=True)
    return not failed


def main() -> int:
    options = _parse_arguments()
    started = time.monotonic()
    try:
        every = studies_of(preset(options.preset).model)
        studies = [study for study in every if "all" in options.studies or study.name in options.studies]
        scale = Scale(
            options.preset,
            f"{options.set}:0:{options.tasks}",
            options.visits,
            tuple(options.seeds),
            f"python tools/study/study.py {' '.join(sys.argv[1:])}",
            options.workers,
        )
        budget = parse_duration(options.budget)
        tasks = tasks_of(scale.tasks)
        names = plan(list(every), scale, tasks)
        out = make_folder(options.out)
    except InputError as error:
        print(f"study: error: {error}", file=sys.stderr)
        return 2
    done = Runs(out / RUNS_FILE)
    jobs = missing_jobs(studies, scale, tasks, done.found)
    print(f"{len(tasks)} tasks, {len(scale.seeds)} seeds: {len(jobs)} learnings to be done", flush=True)
    complete = work_off(jobs, done, options.workers, started + budget)
    found = {
        seed: {arm: done.found[run] for arm, run in arms.items() if run in done.found} for seed, arms in names.items()
    }
    reported = [
        study
        for study in every
        if study in studies or any(all((study.name, arm.name) in runs for arm in study.arms) for runs in found.values())
    ]
    for path in write_reports(reported, found, tasks, scale, out):
        print(path)
    return 0 if complete else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [study.name for study in studies_of(PRESETS[_PRESET].model)]
    parser.add_argument(
        "studies", nargs="+", metavar="NAME", choices=["all", *names], help="all, or some of " + ", ".join(names)
    )
    parser.add_argument("--budget", default="2h", help="wall clock, e.g. 2h or 30m (default: %(default)s)")
    parser.add_argument("--set", default="rehearsal", help="a set's name or a file with labels (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=30, metavar="N", help="its smallest N (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(MIN_SEEDS)))
    parser.add_argument(
        "--visits",
        type=int,
        default=300,
        metavar="N",
        help="times each demonstration is offered (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        default=_PRESET,
        choices=[name for name, found in PRESETS.items() if found.model.architecture == "hrm"],
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1 if torch.cuda.is_available() else os.cpu_count(),
        metavar="N",
        help="runs at a time, a thread each (default: one a core, one on a GPU)",
    )
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).resolve(),
        metavar="DIR",
        default=environment.REPOSITORY / "studies",
        help="default: studies/",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
