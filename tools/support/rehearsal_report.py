"""What a rehearsal came to: scores, a projected timetable, and a line for each thing that has to hold."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hrm_offline.answers.score import score_files
from hrm_offline.answers.submission import fallback_submission, read_submission
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import read_json, write_json
from hrm_offline.data.tasks import TaskSet, to_solutions
from hrm_offline.show.draw import draw_predictions
from tools.build_wheel import build_wheel
from tools.support.timetable import timetable
from tools.vendor_wheels import sha256, verify


@dataclass(frozen=True)
class Run:
    """One execution of the notebook: its exit code (None: it was stopped at its limit), the seconds it took, and how
    many of solve's processes were killed on purpose, or None where none was to be."""

    code: int | None
    seconds: float
    killed: int | None = None


@dataclass
class Rehearsal:
    """All that is judged. `mounted` is the dataset as the notebook saw it, None for a notebook without one;
    `built_here` says that it was built from this working tree; `builds` are the hashes of two more builds of the wheel,
    made right after; `left_by_kill` is what was wrong with the submission that a killed run left, "" for nothing."""

    tasks: list
    out: Path
    budget: float
    workers: int
    mounted: Path | None
    built_here: bool
    builds: set[str]
    means: str
    attempts: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    left_by_kill: str = ""

    @property
    def submission(self) -> Path:
        return self.out / "kaggle" / "working" / "submission.json"

    @property
    def report(self) -> dict | None:
        path = self.submission.with_name("report.json")
        return read_json(path) if path.exists() else None

    def problem_of_submission(self) -> str:
        """Why Kaggle would reject what is in the working folder now; "" if it would not."""
        try:
            read_submission(self.submission, {task.id: len(task.test) for task in self.tasks})
        except InputError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Check:
    """One line of the list; `passed` is None for what could not be judged."""

    name: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        word = {True: "PASS", False: "FAIL", None: "SKIP"}[self.passed]
        return f"{word} {self.name}: {self.detail}"


def judge(rehearsal: Rehearsal) -> int:
    """Print everything, save the picture; returns 1 if any check failed, else 0."""
    problem = rehearsal.problem_of_submission()
    score = _score(rehearsal, problem)
    report = rehearsal.report
    if report and "adapted" in report and len(rehearsal.runs) == 1:
        print("\n".join(timetable(rehearsal.tasks, report, rehearsal.workers)))
    else:
        print("no timetable: the run was broken off, so its seconds say nothing of the speed")
    if not problem:
        picture = rehearsal.out / "predictions.png"
        draw_predictions(rehearsal.tasks, read_json(rehearsal.submission), picture)
        print(f"picture: {picture}")
    valid = Check("valid", not problem, problem or str(rehearsal.submission))
    checks = [_offline(rehearsal), _in_time(rehearsal), valid, _undisturbed(report), _deterministic(rehearsal), score]
    if len(rehearsal.runs) > 1:
        checks.append(_survives(rehearsal))
    print("\n".join(str(check) for check in checks))
    return 1 if any(check.passed is False for check in checks) else 0


def _offline(rehearsal: Rehearsal) -> Check:
    for line in rehearsal.attempts:
        print(f"tried to use the network: {line}")
    count = len(rehearsal.attempts)
    return Check("offline", not count, f"network connections: {count}; {rehearsal.means}")


def _in_time(rehearsal: Rehearsal) -> Check:
    last, report = rehearsal.runs[-1], rehearsal.report
    if last.code is None:
        return Check("in time", False, f"the notebook was still running after {last.seconds:.0f} s")
    if last.code:
        return Check("in time", False, f"the notebook ended with exit code {last.code}")
    if report is None:
        return Check("in time", False, "solve did not end; the submission is what it had reached")
    took = report["seconds in all"]
    return Check(
        "in time",
        took <= rehearsal.budget,
        f"solve took {took:.0f} s of its {rehearsal.budget:.0f} s, the notebook {last.seconds:.0f} s",
    )


def _undisturbed(report: dict | None) -> Check:
    """A run survives failing workers, a broken artifact and tasks it cannot answer; a rehearsal should have none."""
    found = [*report["failures"], *report["left out"], *report["tasks on their fallback"]] if report else ["no report"]
    return Check("undisturbed", not found, "; ".join(found) or "no worker failed, no task is on its fallback")


def build_twice() -> set[str]:
    """The hashes of two builds of our wheel, the second with another umask: one if they have the same bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        first = build_wheel(Path(scratch) / "first")
        before = os.umask(0o077)
        try:
            second = build_wheel(Path(scratch) / "second")
        finally:
            os.umask(before)
        return {sha256(first), sha256(second)}


def _deterministic(rehearsal: Rehearsal) -> Check:
    """Equal builds of the wheel, and the mounted folder against its hashes."""
    name = "deterministic install"
    if len(rehearsal.builds) > 1:
        return Check(name, False, "two builds of the wheel differ")
    if rehearsal.mounted is None:
        return Check(name, True, "two builds of the wheel are equal; the notebook carries its own")
    findings = verify(rehearsal.mounted)
    if findings:
        return Check(name, False, f"{rehearsal.mounted}: {'; '.join(findings)}")
    ours = {sha256(path) for path in rehearsal.mounted.glob("hrm_offline-*.whl")}
    if ours == rehearsal.builds:
        return Check(name, True, "two more builds equal the mounted wheel; all mounted files verified")
    # A bundle that was given may well be of another commit.
    return Check(
        name,
        not rehearsal.built_here,
        "two builds are equal, the mounted wheel is of other sources; all mounted files verified",
    )


def _survives(rehearsal: Rehearsal) -> Check:
    broken, again = rehearsal.runs
    if not broken.killed:
        return Check(
            "killed",
            False,
            f"solve had ended before, the notebook took {broken.seconds:.0f} s: give a smaller --kill-at",
        )
    if rehearsal.left_by_kill:
        return Check("killed", False, f"what it left is not valid: {rehearsal.left_by_kill}")
    return Check(
        "killed",
        broken.code == 0 and again.code == 0,
        f"{broken.killed} processes; it left a valid submission and its notebook ended with exit code "
        f"{broken.code}; the second run took {again.seconds:.0f} s and ended with exit code {again.code}",
    )


def _score(rehearsal: Rehearsal, problem: str) -> Check:
    """Print the scores, beside those of the null baseline, and compare them."""
    if problem:
        return Check("score", False, "no valid submission")
    if not all(pair.output is not None for task in rehearsal.tasks for pair in task.test):
        return Check("score", None, "not scored, some tasks have no labels")
    solutions, null_submission = rehearsal.out / "solutions.json", rehearsal.out / "null_submission.json"
    write_json(solutions, to_solutions(rehearsal.tasks))
    write_json(null_submission, fallback_submission(TaskSet("rehearsal", tuple(rehearsal.tasks))))
    score, null = score_files(rehearsal.submission, solutions), score_files(null_submission, solutions)
    beyond = [task_id for task_id in score.solved if task_id not in null.solved]
    print(score.as_text())
    print(f"null baseline: {null.summary()}")
    print(f"solved and not by the null baseline: {len(beyond)} ({', '.join(beyond) or 'none'})")
    return Check(
        "score",
        score.per_output(2) >= null.per_output(2),
        f"{score.per_output(2):.2%} of the test outputs, the null baseline has {null.per_output(2):.2%}",
    )
