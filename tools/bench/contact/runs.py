"""Stages that run `solve` on real tasks: `solve` as a notebook does, and `fault` with a kernel that fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from hrm_offline.answers.score import score_files
from hrm_offline.answers.submission import fallback_submission, read_submission
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, write_json
from hrm_offline.data.tasks import Task, TaskSet, to_challenges, to_solutions
from hrm_offline.ops import add_rms_norm, causal_attention, dispatch, linear_swiglu, rotate
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.job import solve
from hrm_offline.solve.messages import Adapt
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.pool import InlinePool
from hrm_offline.solve.worker import Worker
from tools.bench.contact.contact import Contact, Skipped
from tools.bench.contact.runner import die_with_parent
from tools.support import environment
from tools.support.command_line import solve_command

# Kept back of a stage for the start and the end of a run.
_START_AND_END_SECONDS = 30.0
# Operations whose kernel may fail on purpose: the first that serves on this GPU is taken.
_FAILING = {
    "causal_attention": causal_attention,
    "linear_swiglu": linear_swiglu,
    "add_rms_norm": add_rms_norm,
    "rotate": rotate,
}


def solve_tasks(contact: Contact) -> None:
    """Run `solve` as a notebook does, in processes of its own, and check all that must hold."""
    out = _fresh_folder(contact, "solve")
    challenges = _write_challenges(out, contact.tasks("small"))
    seconds = contact.pick(contact.left() - _START_AND_END_SECONDS, 100.0)
    command = solve_command(
        challenges=challenges,
        out=out,
        budget=f"{seconds:.0f}s",
        preset=contact.pick(None, contact.preset),  # None: the one that `solve` chooses
        visits=contact.pick(None, 1),
        members=contact.pick(None, 1),
    )
    with open(out / "solve.log", "w", encoding="utf-8") as log:
        done = subprocess.run(
            command,
            cwd=environment.REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=die_with_parent,
        )
    contact.check("exit code", done.returncode == 0, f"{done.returncode}, see solve/solve.log")
    report = read_json(out / "report.json")
    contact.check("in time", report["seconds in all"] <= seconds, f"{report['seconds in all']} s of {seconds:.0f} s")
    if not contact.smoke:
        device, tested = str(report.get("device")), report.get("self-test") is not None
        contact.check("on the GPU", device.startswith("cuda"), device)
        contact.check("self-test", tested, "its rows are in solve/report.json" if tested else "there was none")
    demoted = report["demoted operations"]
    contact.check("no kernel failed", not demoted, "; ".join(demoted.values()) or "none was demoted")
    contact.check("undisturbed", not report["failures"], "; ".join(report["failures"]) or "no worker failed")
    _check_answers(contact, out, report)


def fail_on_purpose(contact: Contact) -> None:
    """Run `solve` with a kernel whose launch fails once learning has begun, and check that no task is lost.

    The launch raises what Triton raises for a kernel that needs too much of the chip. From there on everything is the
    product's own: the operation is demoted, the step is taken again, the report names the operation.
    """
    out = _fresh_folder(contact, "fault")
    challenges = _write_challenges(out, contact.tasks("small"))
    seconds = contact.pick(contact.left() - _START_AND_END_SECONDS, 100.0)
    options = SolveOptions(
        challenges,
        out,
        preset=contact.preset,
        workers=0,
        induce="off",
        overrides=contact.pick({}, {"visits": 1, "members": 1}),
    )
    budget, chosen = Budget(seconds), []

    class Failing(Engine):
        """Learns with a kernel that cannot be launched."""

        def adapt(self, job: Adapt) -> Iterator[int]:
            if not chosen:
                chosen.append(_serving(contact))
            with _broken(chosen[0], contact.smoke):
                yield from super().adapt(job)

    pool = InlinePool(lambda receive, send: Worker(receive, send, Failing, budget.now))
    report = solve(options, budget, say=lambda text: print(f"  {text}", flush=True), pool=pool)
    if chosen == [None]:
        raise Skipped("no kernel of ours serves on this GPU, so none can fail")
    demoted = report["demoted operations"]
    detail = "; ".join(demoted.values()) or "no kernel was demoted"
    contact.check("demotion is reported", bool(chosen) and chosen[0] in demoted, detail)
    _check_answers(contact, out, report)


def _serving(contact: Contact) -> str | None:
    """Return an operation that a kernel of ours serves, None if there is none."""
    if contact.smoke:
        return "causal_attention"
    serving = [op for op in _FAILING if dispatch.decide(op, contact.device, contact.runtime.dtype).triton]
    return serving[0] if serving else None


@contextlib.contextmanager
def _broken(op: str | None, on_cpu: bool) -> Iterator[None]:
    """Within, no kernel of `op` can be launched. A CPU, which has no kernels, is made to choose this one first."""
    if op is None:
        yield
        return

    def launch(*_, **__) -> None:
        raise RuntimeError(f"out of resource: shared memory, on purpose, for {op}")

    def decide(name: str, *_) -> dispatch.Decision:
        return dispatch.Decision(name == op, "for a kernel that fails on purpose")

    with patch.object(_FAILING[op], "launch", launch), contextlib.ExitStack() as stack:
        if on_cpu:
            stack.enter_context(patch.object(dispatch, "_decide", decide))
        yield


def _fresh_folder(contact: Contact, name: str) -> Path:
    """Return an empty folder for a run, so that no earlier run is continued."""
    shutil.rmtree(contact.folder / name, ignore_errors=True)
    return make_folder(contact.folder / name)


def _write_challenges(folder: Path, tasks: tuple[Task, ...]) -> Path:
    """Write the tasks without test outputs, as Kaggle shows them."""
    path = folder / "challenges.json"
    write_json(path, to_challenges(tasks))
    return path


def _check_answers(contact: Contact, out: Path, report: dict) -> None:
    """Check that the submission is valid and answers every test input, and write its score beside that of copying."""
    tasks = contact.tasks("small")
    counts = {task.id: len(task.test) for task in tasks}
    try:
        read_submission(out / "submission.json", counts)
        contact.check("valid", True, "the submission has two attempts for every test input")
    except InputError as error:
        contact.check("valid", False, str(error))
    unanswered = report["test inputs without a vote"]
    contact.check("answered", unanswered == 0, f"{unanswered} of {report['test inputs']} test inputs without a vote")
    solutions, null = out / "solutions.json", out / "null_submission.json"
    write_json(solutions, to_solutions(tasks))
    write_json(null, fallback_submission(TaskSet("small", tuple(task.without_labels() for task in tasks))))
    score, copied = score_files(out / "submission.json", solutions), score_files(null, solutions)
    contact.add(
        "run",
        tasks=len(tasks),
        points=score.task_points(2),
        solved=len(score.solved),
        **{
            "points of copying": copied.task_points(2),
            "seconds": report["seconds in all"],
            "steps": report.get("adapted", {}).get("steps"),
            "votes": report["votes per test input"]["mean"],
            "CUDA graphs": str(report.get("cuda graphs")),
            **report["rates"],
        },
    )
