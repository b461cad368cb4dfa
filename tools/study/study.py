"""Repeat ARC Prize's analysis of the Hierarchical Reasoning Model, on your own budget.

    python tools/study/study.py all --budget 2h --workers 2
    python tools/study/study.py outer-loop halting --set arc1-eval --tasks 60 --visits 800 --seeds 0 1 2 3
    python tools/study/study.py all --set rehearsal deep-30 --tasks 30 --budget 8h --out runs/sixty
    python tools/study/study.py ingredients --core-seconds 40

tools/study/studies.py declares the studies and their arms. Once per seed, every arm learns the demonstrations of the
smallest tasks of each set (by sizes, never by test outputs), predicts, votes and is scored. Arms begin with random
weights unless they say otherwise. Arms are compared by their test losses first, and by their points.

A finished run is a line of runs.jsonl in --out and is never repeated, so the same command goes on after a kill. All
arms run with one seed before any runs with the next. No run starts that would not end within --budget, and the report
says which runs are missing. The tool writes NAME.md, NAME.csv and NAME.png for each study, and README.md, a table of
the published findings beside the measured ones.
"""

from __future__ import annotations

import script_setup

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from hrm_offline.answers.candidates import merged
from hrm_offline.answers.vote import Pool
from hrm_offline.common.budget import parse_duration
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder
from hrm_offline.common.settings import identity_of
from hrm_offline.data.tasks import Task, digest_of
from hrm_offline.induction.search import induce
from hrm_offline.model.artifact import bundled_artifact
from hrm_offline.presets import PRESETS, preset
from hrm_offline.solve.pool import end_with_parent
from tools.study.differences import MIN_SEEDS
from tools.study.report import Scale, write_reports
from tools.study.studies import Arm, Study, studies_of
from tools.study.trial import (
    BUNDLED,
    Learned,
    Pools,
    Trial,
    add_length,
    busy_seconds,
    configs_of,
    learn,
    predict,
    score_votes,
    tasks_of,
    test_losses_of,
    visits_of,
)
from tools.support import environment
from tools.support.command_line import absolute_path, add_seeds, parser_of, run_tool
from tools.support.machine import describe_machine
from tools.support.run_lines import RunLines

RUNS_FILE = "runs.jsonl"
_PRESET = "hrm-132k"


@dataclass(frozen=True)
class Job:
    """A learning, and the ways of voting that are wanted with its networks, by the names of their runs."""

    trial: Trial
    votes: dict[str, dict]


class Runs(RunLines):
    """The finished runs of a file by name, in `found`. The lines of runs that failed do not count."""

    @property
    def found(self) -> dict[str, dict]:
        return {line["run"]: line for line in self.lines if "outcomes" in line}


def name_of_learning(trial: Trial, tasks: tuple[Task, ...]) -> str:
    """Return a hash of everything that a learning depends on: the whole network and recipe, the seed and the tasks.

    Two trials that change other settings but come to the same network and recipe have the same name.
    Raises `InputError` for a trial that is not possible.
    """
    model, recipe, artifact = configs_of(trial, "study")
    about = [
        identity_of(model),
        identity_of(recipe),
        trial.seed,
        digest_of(tasks),
        artifact and artifact.digest,
        {name: trial.changes.get(name) for name in ("alone", "others", "start")}
        | {name: trial.changes[name] for name in ("along",) if name in trial.changes},
    ]
    if trial.core_seconds:
        about.append(trial.core_seconds)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def name_of_run(learning: str, votes: dict) -> str:
    """Return a hash of a learning's name and a way of voting."""
    return hashlib.sha256(json.dumps([learning, votes], sort_keys=True).encode()).hexdigest()[:16]


def plan(studies: list[Study], scale: Scale, tasks: tuple[Task, ...]) -> dict[int, dict[tuple[str, str], str]]:
    """Return the names of all runs, by seed and (study, arm). Raises `InputError` for an arm that is not possible."""
    return {
        seed: {
            (study.name, arm.name): name_of_run(name_of_learning(_trial(arm, scale, seed), tasks), arm.votes)
            for study in studies
            for arm in _possible_arms(study, scale)
        }
        for seed in scale.seeds
    }


def _possible_arms(study: Study, scale: Scale) -> list[Arm]:
    """Return the arms that the preset allows: the package has no artifact for some presets."""
    bundled = bundled_artifact(scale.preset)
    return [arm for arm in study.arms if bundled or arm.learn.get("artifact") != BUNDLED]


def missing_jobs(studies: list[Study], scale: Scale, tasks: tuple[Task, ...], done: dict[str, dict]) -> list[Job]:
    """Return the jobs that are left, seed by seed. Runs that learn alike make one job."""
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
    return Trial(arm.learn, seed, scale.preset, scale.tasks, scale.visits, scale.core_seconds)


def do(job: Job) -> list[dict]:
    """Learn once, and vote in all ways that are wanted. Returns a line for each run, with the error if it failed."""
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
    except Exception as error:  # an arm that fails must not end the others
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return [{"run": run, "votes": votes, "failed": reason} | about for run, votes in job.votes.items()]


def _vote(learned: Learned, votes: dict, tasks: tuple[Task, ...]) -> dict:
    """Vote in one way, and return the part of a run's line that is about voting.

    "vote seconds" are core-seconds, "vote steps" the outer steps that were computed. "outcomes" holds, by task, the
    share of its outputs that are right and the share of their cells. "test losses", by task too, are those of the
    network's predictions, so they are there where the network votes alone.
    """
    changes = dict(votes)
    solver = changes.pop("solver", "network")
    started = busy_seconds()
    pools, steps = ({}, 0) if solver == "induction" else predict(learned, changes)
    if solver != "network":
        pools = _with_induced(pools, tasks)
    found = {"vote seconds": round(busy_seconds() - started, 1), "vote steps": steps}
    score = score_votes(pools, tasks)
    found["outcomes"] = {t.id: [round(t.right_either / t.outputs, 4), round(t.cells, 4)] for t in score.tasks}
    if solver == "network":
        losses = test_losses_of(learned, tasks, changes)
        found["test losses"] = {task.id: round(losses[task.id], 4) for task in tasks}
    return found


def _with_induced(pools: Pools, tasks: tuple[Task, ...]) -> Pools:
    """Return the pools with the votes of the inductive solver added. That solver sees no test output either."""
    found = dict(pools)
    for task in tasks:
        for index, candidates in enumerate(induce(task.without_labels())):
            if candidates:
                found[task.id, index] = merged(pools.get((task.id, index), Pool()), [(candidates, 1.0)])
    return found


def work_off(jobs: list[Job], runs: Runs, workers: int, until: float) -> bool:
    """Do the jobs, `workers` at a time, and return whether all were done.

    A job starts only if it would end before `until` (on the clock `time.monotonic`) if it took as long as the longest
    so far. If a worker dies, for example because memory runs out, the finished runs are kept.
    """
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
            # The list makes every job run: all() alone would stop at the first that fails.
            return all([*_rounds(pool, jobs, runs, workers, until)])
    except BrokenProcessPool:
        print(
            "a worker died, so the remaining jobs are not done; start the same command again to go on, with fewer "
            "--workers if memory ran out",
            flush=True,
        )
        return False


def _rounds(pool: ProcessPoolExecutor, jobs: list[Job], runs: Runs, workers: int, until: float) -> Iterator[bool]:
    """Yield whether a job was done, for each job when it ends, and False once if the budget is spent."""
    waiting, running, longest = list(jobs), {}, 0.0
    while waiting or running:
        while waiting and len(running) < workers and time.monotonic() + longest < until:
            job = waiting.pop(0)
            running[pool.submit(do, job)] = (job, time.monotonic())
        if not running:
            print(f"the budget is spent: {len(waiting)} jobs are not done", flush=True)
            yield False
            return
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            job, started = running.pop(future)
            longest = max(longest, time.monotonic() - started)
            yield _record(future, job, runs, len(waiting) + len(running))


def _record(future: Future, job: Job, runs: Runs, left: int) -> bool:
    """Keep the lines of a job that ended, and print how it went. Returns whether it was done."""
    lines = future.result()
    for line in lines:
        runs.add(line)
    failed = [line["failed"] for line in lines if "failed" in line]
    words = failed[0] if failed else f"{lines[0]['seconds']} s, loss {lines[0]['loss']}, {len(lines)} ways of voting"
    print(f"seed {job.trial.seed}, {job.trial.changes or 'no changes'}: {words}; {left} jobs left", flush=True)
    return not failed


def main() -> int:
    options = _parse_arguments()
    started = time.monotonic()
    every_study = studies_of(preset(options.preset).model)
    studies = [
        study for study in every_study if study.name in options.studies or ("all" in options.studies and study.in_all)
    ]
    scale = Scale(
        options.preset,
        "+".join(f"{name}:0:{options.tasks}" for name in options.set),
        visits_of(options),
        tuple(options.seeds),
        f"python tools/study/study.py {' '.join(sys.argv[1:])}",
        options.workers,
        options.core_seconds,
    )
    budget = parse_duration(options.budget)
    tasks = tasks_of(scale.tasks)
    names = plan(list(every_study), scale, tasks)
    out = make_folder(options.out)
    runs = Runs(out / RUNS_FILE)
    jobs = missing_jobs(studies, scale, tasks, runs.found)
    print(f"{len(tasks)} tasks, {len(scale.seeds)} seeds: {len(jobs)} learnings to be done", flush=True)
    complete = work_off(jobs, runs, options.workers, started + budget)
    done = runs.found
    found = {seed: {arm: done[run] for arm, run in arms.items() if run in done} for seed, arms in names.items()}
    reported = [study for study in every_study if study in studies or _is_complete(study, found)]
    for path in write_reports(reported, found, tasks, scale, out):
        print(path)
    return 0 if complete else 1


def _is_complete(study: Study, found: dict[int, dict]) -> bool:
    """Return whether all arms of a study have a run with some seed, so that the report may show the study."""
    return any(all((study.name, arm.name) in runs for arm in study.arms) for runs in found.values())


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    names = [study.name for study in studies_of(PRESETS[_PRESET].model)]
    parser.add_argument(
        "studies",
        nargs="+",
        metavar="NAME",
        choices=["all", *names],
        help="all (without ingredients), or some of: " + ", ".join(names),
    )
    parser.add_argument(
        "--budget", default="2h", metavar="TIME", help="time to run, such as 30m or 2h (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=["rehearsal"],
        metavar="SET",
        help="names of sets or files with labels (default: rehearsal)",
    )
    parser.add_argument(
        "--tasks",
        type=int,
        default=30,
        metavar="N",
        help="take the N smallest tasks of each set (default: %(default)s)",
    )
    add_seeds(parser, list(range(MIN_SEEDS)))
    add_length(parser)
    parser.add_argument(
        "--preset",
        default=_PRESET,
        choices=[name for name, found in PRESETS.items() if found.model.architecture == "hrm"],
        help="network and recipe that the arms change (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1 if torch.cuda.is_available() else os.cpu_count(),
        metavar="N",
        help="runs at a time, with one thread each (default: one per core, one on a GPU)",
    )
    parser.add_argument(
        "--out",
        type=absolute_path,
        metavar="DIR",
        default=environment.REPOSITORY / "studies",
        help="folder for the runs and the report (default: studies/ in the repository)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
