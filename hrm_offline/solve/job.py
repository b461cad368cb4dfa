"""Do the test-time job: write a valid fallback first, then adapt, predict, vote and write.

The Kaggle notebook calls `solve`. Whatever happens later, `submission.json` is complete and valid from the first second
on, and the file is only ever replaced atomically. This process leads and never computes: it loads no torch, and no
fault of a worker can end it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hrm_offline.answers.candidates import VotesFile, read_outside, top_candidates, write_candidates
from hrm_offline.answers.submission import fallback_submission
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import INTERRUPTED_CODE, InputError, shown_name
from hrm_offline.common.files import make_folder, remove_drafts, write_json
from hrm_offline.common.lock import FolderLock
from hrm_offline.common.packages import require_packages
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import TaskSet, digest_of
from hrm_offline.solve.history import History, Past
from hrm_offline.solve.induction import Induction
from hrm_offline.solve.journal import Journal
from hrm_offline.solve.ledger import Ledger, test_keys
from hrm_offline.solve.messages import Setup
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.paths import FOLDER, INDUCTION_FILE
from hrm_offline.solve.pool import InlinePool, ProcessPool
from hrm_offline.solve.report import budget_line, last_line, make_report
from hrm_offline.solve.searcher import Searcher
from hrm_offline.solve.supervisor import Supervisor
from hrm_offline.solve.watchdog import Watchdog

SUBMISSION_FILE, REPORT_FILE, CANDIDATES_FILE = "submission.json", "report.json", "candidates.json"
ALONE_FILE = "submission_{}.json"  # what the network, or induction, would submit alone

_SECONDS_TO_END = 60.0  # for the watchdog, which ends the process
_EXIT_CODES = {"SIGINT": INTERRUPTED_CODE}  # of a run that was ended early, by the reason; 0 for the other reasons

Say = Callable[[str], None]


def solve(
    options: SolveOptions,
    budget: Budget,
    say: Say = print,
    end_process: Callable[[int], None] | None = None,
    pool: ProcessPool | InlinePool | None = None,
) -> dict:
    """Run the whole job and return the report that is also written to `report.json`.

    A run that was cut off goes on from its journal in `options.out`. A task that cannot be used keeps its fallback
    entry and is named in the report. `end_process` (`os._exit`) arms a watchdog: when SIGTERM or SIGINT arrives, or
    when all else hangs at the end of the budget, the best answers are written and `end_process` is called, with 130
    after SIGINT and with 0 otherwise. `pool` starts the workers; by default each worker is a process of its own.

    Raises `InputError` when nothing can be done at all. Without a readable challenges file or a writable folder, or
    while another run is at work in the folder, nothing is left behind. Without a usable task, if the device, preset or
    artifact asked for does not exist, or if a set to learn along cannot be read, the fallback is left behind.
    """
    files = [VotesFile.parse(text) for text in options.votes]
    watchdog = Watchdog(budget, budget.reserve / 2) if end_process else None
    with watchdog or contextlib.nullcontext():
        task_set = load_set(options.challenges)
        out = make_folder(options.out)
        with FolderLock(out, say) as lock:
            remove_drafts(out)
            supervisor = _prepare(options, out, task_set, files, budget, say, pool)

            ended_early = None

            def end_early(reason: str) -> None:
                nonlocal ended_early
                ended_early = reason  # the main thread may come to its own end now, and its report is to say the same
                try:
                    supervisor.ledger.write()  # first: to end many workers takes a while
                    supervisor.close()
                    _finish(supervisor, options, task_set, out, ended_early)
                    say(f"ended early with the best answers known ({reason}), after {budget.elapsed():.0f} s")
                    lock.release()
                finally:  # whatever fails now, the file on disk is valid
                    end_process(_EXIT_CODES.get(reason, 0))

            if watchdog:
                watchdog.start(end_early)
            _lead(supervisor, lambda: ended_early is None)
            if ended_early:
                watchdog.thread.join(_SECONDS_TO_END)
            report = _finish(supervisor, options, task_set, out, ended_early)
            supervisor.close_journals()
    say(budget_line(supervisor))
    say(last_line(supervisor))
    return report


def _prepare(
    options: SolveOptions,
    out: Path,
    task_set: TaskSet,
    files: list[VotesFile],
    budget: Budget,
    say: Say,
    pool: ProcessPool | InlinePool | None,
) -> Supervisor:
    """Write the first submission, and return the supervisor of the run."""
    ledger, history, induction = _open(options, out, task_set, files, budget, say)
    if not task_set.tasks:
        task_set.require_good()
    if options.artifact is not None and not options.artifact.is_dir():
        raise InputError(f"{options.artifact}: no such artifact folder")
    if pool is None:
        if options.induce != "only":
            require_packages("torch", "safetensors")  # here, since each worker would fail for itself
        pool = _inline_pool(budget) if options.workers == 0 else ProcessPool()
    past = _past_on(history, task_set) if history is not None else None
    setup = Setup(options, out / FOLDER, budget.total / len(task_set.tasks), past=past and past.identity)
    supervisor = Supervisor(pool, budget, ledger, history, setup, task_set.tasks, say)
    supervisor.take_in(induction)
    for warning in ledger.outside.warnings:
        supervisor.warn(warning)
    return supervisor


def _open(
    options: SolveOptions, out: Path, task_set: TaskSet, files: list[VotesFile], budget: Budget, say: Say
) -> tuple[Ledger, History | None, Induction | None]:
    """Write the first submission, open the journal, and count all votes that are there already.

    Without a past run the fallback is written before anything else is read. With a past run the file on disk may hold
    better answers than the fallback, so the journal's votes are counted first.
    """
    ledger = Ledger(fallback_submission(task_set), out / SUBMISSION_FILE, say, budget.now)
    has_past = (out / FOLDER).is_dir()
    if not has_past:
        _write_first(ledger, out)
    outside = ledger.outside = read_outside(files, task_set)
    history = _open_history(out, task_set, ledger, say)
    induction = _open_induction(options, out, task_set, ledger, budget, say)
    if has_past:
        _write_first(ledger, out)
    elif outside.sources:
        ledger.write()
    state = "answer" if ledger.tally.votes or outside.sources or ledger.induced else "fallback"
    say(f"{len(ledger.fallback)} tasks; a valid {state} is in {ledger.path}")
    for bad in task_set.bad:
        say(f"left out, keeps its fallback: task {shown_name(bad.id)}: {bad.reason}")
    for file in outside.counted:
        say(f"votes from {file['file']} on {file['test inputs']} test inputs, weight {file['weight']:g}")
    return ledger, history, induction


def _open_history(out: Path, task_set: TaskSet, ledger: Ledger, say: Say) -> History | None:
    """Open the journal, and count the votes that an earlier run on the same tasks left there."""
    try:
        history = History(out / FOLDER, say, ledger.clock)
    except (OSError, InputError) as error:
        say(f"WARNING: there is no journal ({error}): a run that is cut off starts from the beginning")
        return None
    past = _past_on(history, task_set)
    if past is not None:
        ledger.reset([test_keys(task_set.tasks, group) for group in past.groups])
        for key, votes in history.votes():
            ledger.add(key, votes)
        for group, votes in history.scores():
            ledger.add_scores(group, votes)
    return history


def _past_on(history: History, task_set: TaskSet) -> Past | None:
    """Return the run that the journal is of, None where it is of other tasks."""
    past = history.past()
    return past if past is not None and past.identity.get("challenges") == digest_of(task_set.tasks) else None


def _open_induction(
    options: SolveOptions, out: Path, task_set: TaskSet, ledger: Ledger, budget: Budget, say: Say
) -> Induction | None:
    """Return the search for programs, if it is wanted, with what an earlier run has found in the ledger already."""
    if options.induce == "off":
        return None
    try:
        journal = Journal(out / FOLDER / INDUCTION_FILE, say, ledger.clock)
    except OSError:  # the other journal of this folder has warned
        journal = None
    inline = InlinePool(lambda receive, send: Searcher(receive, send, budget.now)) if options.workers == 0 else None
    induction = Induction(task_set.tasks, ledger, budget, say, journal, options.hang_after, inline)
    if options.induce == "only":
        induction.take_all_cores()
    return induction


def _write_first(ledger: Ledger, out: Path) -> None:
    """Write the submission without which a run must not go on. Raises `InputError` if the folder refuses."""
    try:
        write_json(ledger.path, ledger.submission())
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error})") from None


def _inline_pool(budget: Budget) -> InlinePool:
    from hrm_offline.solve.worker import Worker

    return InlinePool(lambda receive, send: Worker(receive, send, clock=budget.now))


def _lead(supervisor: Supervisor, is_wanted: Callable[[], bool]) -> None:
    """Run to the end. After any fault but bad input, the answers so far are still to be written.

    A run that is no longer wanted has lost its workers to the watchdog, which is no fault.
    """
    try:
        supervisor.run()
    except InputError:
        raise
    except Exception:
        if is_wanted():
            supervisor.warn(f"the run was cut short by a fault of its own: {traceback.format_exc()}")


def _finish(
    supervisor: Supervisor, options: SolveOptions, task_set: TaskSet, out: Path, ended_early: str | None
) -> dict:
    """Write the submission, the candidates if they are wanted, and the report. Return the report.

    After induction beside the network there are two further submissions: what each of them would answer alone.
    """
    supervisor.ledger.write()
    for name, submission in supervisor.ledger.alone().items() if options.induce == "on" else ():
        _write_or_warn(supervisor, out / ALONE_FILE.format(name), partial(write_json, value=submission))
    if options.candidates is not None:
        candidates = top_candidates(supervisor.ledger.votes(), task_set.test_counts(), options.candidates)
        _write_or_warn(supervisor, out / CANDIDATES_FILE, lambda path: write_candidates(path, candidates))
    report = make_report(supervisor, options, task_set, ended_early)
    _write_or_warn(supervisor, out / REPORT_FILE, lambda path: write_json(path, report, indent=2))
    return report


def _write_or_warn(supervisor: Supervisor, path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        supervisor.warn(f"{path}: cannot be written ({error})")
