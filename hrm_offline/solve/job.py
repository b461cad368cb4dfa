"""The test-time job: a valid fallback first, then adapt, predict, vote and write.

`solve` is what the Kaggle notebook calls. Whatever happens later, `submission.json` is complete
and valid from the first second on, and it is only ever replaced atomically. This process leads and
never computes: it loads no torch, and no worker's fault can end it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hrm_offline import __version__
from hrm_offline.answers.candidates import VotesFile, read_outside, top_candidates, write_candidates
from hrm_offline.answers.submission import fallback_submission
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.files import make_folder, write_json
from hrm_offline.common.packages import require_packages
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import TaskSet, digest_of
from hrm_offline.solve.history import History
from hrm_offline.solve.ledger import Ledger, test_keys
from hrm_offline.solve.messages import Setup
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.paths import FOLDER
from hrm_offline.solve.pool import InlinePool, ProcessPool
from hrm_offline.solve.supervisor import Crew, Supervisor
from hrm_offline.solve.watchdog import Watchdog

SUBMISSION_FILE, REPORT_FILE, CANDIDATES_FILE = "submission.json", "report.json", "candidates.json"


def solve(
    options: SolveOptions,
    budget: Budget,
    say: Callable[[str], None] = print,
    end_process: Callable[[int], None] | None = None,
    pool=None,
) -> dict:
    """Run the whole job and return the report that is also written to `report.json`.

    A run that was cut off goes on from its journal in `out`. Tasks that cannot be used keep their
    fallback entries and are named in the report. `end_process` (`os._exit`) arms the dead man's switch: it
    is called with 0 once the best answers are written, when SIGTERM arrives or all else hangs at the end
    of the budget. `pool` is where workers come from, by default processes of their own.

    Raises `InputError` when nothing can be done at all: an unreadable challenges file or a folder that cannot be
    written (nothing is left), or not one usable task, or a device, preset or artifact folder that is not
    there (the fallback is written).
    """
    files = [VotesFile.parse(text) for text in options.votes]
    task_set = load_set(options.challenges)
    out = make_folder(options.out)
    ledger = Ledger(fallback_submission(task_set), out / SUBMISSION_FILE, say, budget.now)
    has_past = (out / FOLDER).is_dir()
    if not has_past:
        _write_first(ledger, out)
    outside = ledger.outside = read_outside(files, task_set)
    history = _open_history(out, task_set, ledger, say)
    if has_past:
        _write_first(ledger, out)
    elif outside.sources:
        ledger.write()
    state = "answer" if ledger.tally.votes or outside.sources else "fallback"
    say(f"{len(ledger.fallback)} tasks; a valid {state} is in {ledger.path}")
    for bad in task_set.bad:
        say(f"left out, keeps its fallback: task {shown_name(bad.id)}: {bad.reason}")
    for file in outside.counted:
        say(f"votes from {file['file']} on {file['test inputs']} test inputs, weight {file['weight']:g}")
    if not task_set.tasks:
        task_set.require_good()
    if options.artifact is not None and not options.artifact.is_dir():
        raise InputError(f"{options.artifact}: no such artifact folder")

    if pool is None:
        require_packages("torch", "safetensors")  # now, not in each worker
        pool = _inline_pool(budget) if options.workers == 0 else ProcessPool()
    setup = Setup(
        options.challenges,
        out / FOLDER,
        options.seed,
        options.device,
        options.dtype,
        options.threads,
        options.artifact,
        options.bundled,
        options.preset,
        dict(options.overrides),
        budget.total / len(task_set.tasks),
        options.save_every,
    )
    crew = Crew(1 if options.workers == 0 else options.workers, options.sharing, options.hang_after)
    supervisor = Supervisor(pool, budget, ledger, history, setup, crew, task_set.tasks, say)
    for warning in outside.warnings:
        supervisor.warn(warning)

    def end_early(reason: str) -> None:
        try:
            supervisor.pool.close()
            _finish(supervisor, options, task_set, out, ended_early=reason)
            say(f"ended early with the best answers known ({reason}), after {budget.elapsed():.0f} s")
        finally:  # whatever else goes wrong now: the file that is there is valid
            end_process(0)

    with Watchdog(budget, budget.reserve / 2, end_early) if end_process else contextlib.nullcontext():
        _lead(supervisor)
        report = _finish(supervisor, options, task_set, out)
        if history is not None:
            history.close(options.keep_networks)
    say(f"done in {budget.elapsed():.0f} s of {budget.total:.0f} s")
    return report


def _lead(supervisor: Supervisor) -> None:
    """Run to the end. Whatever goes wrong here, the answers so far are to be written."""
    try:
        supervisor.run()
    except InputError:
        raise
    except Exception:
        supervisor.warn(f"the run was cut short by a fault of its own: {traceback.format_exc()}")


def _open_history(out: Path, task_set: TaskSet, ledger: Ledger, say) -> History | None:
    """The journal, and in the ledger the votes that a run on the same tasks left there."""
    try:
        history = History(out / FOLDER, say, ledger.clock)
    except (OSError, InputError) as error:
        say(f"WARNING: there is no journal ({error}): a run that is cut off starts from the beginning")
        return None
    past = history.past()
    if past is not None and past.identity.get("challenges") == digest_of(task_set.tasks):
        ledger.reset([test_keys(task_set.tasks, group) for group in past.groups])
        for key, votes in history.votes():
            ledger.add(key, votes)
    return history


def _write_first(ledger: Ledger, out: Path) -> None:
    """What a run may not go on without. Raises `InputError` where it cannot be written."""
    try:
        write_json(ledger.path, ledger.submission())
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error})") from None


def _inline_pool(budget: Budget) -> InlinePool:
    from hrm_offline.solve.worker import Worker

    return InlinePool(lambda receive, send: Worker(receive, send, clock=budget.now))


def _finish(
    supervisor: Supervisor, options: SolveOptions, task_set: TaskSet, out: Path, ended_early: str | None = None
) -> dict:
    """Write the submission, the candidates where they are wanted, and the report."""
    supervisor.ledger.write()
    if options.candidates is not None:
        candidates = top_candidates(supervisor.ledger.votes(), task_set.test_counts(), options.candidates)
        _write_or_warn(supervisor, out / CANDIDATES_FILE, lambda path: write_candidates(path, candidates))
    report = _report(supervisor, options, task_set, ended_early)
    _write_or_warn(supervisor, out / REPORT_FILE, lambda path: write_json(path, report, indent=2))
    return report


def _write_or_warn(supervisor: Supervisor, path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        supervisor.warn(f"{path}: cannot be written ({error})")


def _report(supervisor: Supervisor, options: SolveOptions, task_set: TaskSet, ended_early: str | None) -> dict:
    budget, votes, outside = supervisor.budget, supervisor.ledger.votes(), supervisor.ledger.outside
    tests = [(task.id, i) for task in task_set.tasks for i in range(len(task.test))]
    counts = [votes[test].count if test in votes else 0 for test in tests]
    unanswered = [test for test, count in zip(tests, counts) if not count and test not in outside.sources]
    report = {
        "tasks": len(task_set.test_counts()),
        "left out": {bad.id: bad.reason for bad in task_set.bad} | supervisor.unsuited,
        "test inputs": len(tests),
        "test inputs without a vote": len(unanswered),
        "tasks on their fallback": _on_fallback(supervisor, unanswered),
        "votes per test input": {"least": min(counts), "mean": float(np.mean(counts)), "most": max(counts)},
        "votes from elsewhere": outside.counted,
        "failures": supervisor.failures,
        "ended early": ended_early,
        "seconds": {name: round(value, 2) for name, value in supervisor.phases().items()},
        "seconds in all": round(budget.elapsed(), 2),
        "budget seconds": budget.total,
        **_of_network(supervisor),
        "seed": options.seed,
        "sharing": options.sharing,
        "challenges": _whereabouts(options.challenges),
        "versions": {
            "hrm_offline": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": sys.platform,
        }
        | (supervisor.hello.versions if supervisor.hello else {}),
    }
    if options.price_per_hour is not None:
        report["price"] = options.price_per_hour * budget.elapsed() / 3600
        report["price per task"] = report["price"] / report["tasks"]
    return report


def _of_network(supervisor: Supervisor) -> dict:
    """What is known once a worker has come up: what computed, on what, and how far it came."""
    hello, schedule = supervisor.hello, supervisor.schedule
    if hello is None or schedule is None:
        return {}
    reports = [
        {"tasks": [supervisor.tasks[i].id for i in group.tasks], **group.report}
        for group in schedule.groups
        if group.report is not None
    ]
    totals = {name: sum(report[name] for report in reports) for name in ("planned_steps", "steps", "examples")}
    losses = [report["loss"] for report in reports if report["steps"]]
    return {
        "device": hello.device,
        "workers": len(supervisor.slots),
        "threads": hello.threads,
        "operations": hello.operations,
        "model": dataclasses.asdict(hello.model),
        "artifact": hello.artifact,
        "adapt": dataclasses.asdict(hello.recipe),
        "adapted": totals | {"loss": float(np.mean(losses)) if losses else None, "groups": reports},
    }


def _whereabouts(challenges: Path) -> str:
    """Where the tasks are found again from any folder: a path, or the name of a set."""
    return os.path.abspath(challenges) if os.path.exists(challenges) else str(challenges)


def _on_fallback(supervisor: Supervisor, tests: list[tuple[str, int]]) -> dict[str, str]:
    """The tasks of test inputs that have no vote, and why the network gave none."""
    reasons = {}
    for group in supervisor.schedule.groups if supervisor.schedule else []:
        for i in group.tasks:
            reasons[supervisor.tasks[i].id] = group.lost or "there was no time"
    return {
        task_id: supervisor.unsuited.get(task_id) or reasons.get(task_id, "no worker came up in time")
        for task_id, _ in tests
    }
