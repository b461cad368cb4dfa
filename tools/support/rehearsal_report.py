"""Report on a rehearsal: its scores, a projected timetable, and one check for each thing that must hold."""

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
from hrm_offline.solve.job import ALONE_FILE
from hrm_offline.solve.ledger import INDUCTION, NETWORK
from tools.build_wheel import build_wheel
from tools.support.timetable import timetable
from tools.vendor_wheels import sha256, verify


@dataclass(frozen=True)
class Run:
    """One execution of the notebook.

    `code` is its exit code, or None if the notebook was stopped at its time limit. `seconds` is the time it took.
    `killed` is the number of solve's processes that were killed on purpose, or None if none were to be killed.
    """

    code: int | None
    seconds: float
    killed: int | None = None


@dataclass
class Rehearsal:
    """Everything that the report needs.

    `tasks` have labels; `out` is the folder of the rehearsal; `budget` is solve's, in seconds. `mounted` is the dataset
    as the notebook saw it, or None for a notebook without a dataset. `built_here` says that the bundle was built from
    this working tree. `builds` holds the hashes of two more builds of the wheel. `means` says how the network was cut
    off, and `attempts` lists the attempts to use it. `left_by_kill` says why the submission was not valid after the
    kill; it is empty if the submission was valid.
    """

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
        """What solve reports of its run, or None if solve did not end by itself."""
        path = self.submission.with_name("report.json")
        return read_json(path) if path.exists() else None

    def problem_of_submission(self) -> str:
        """Return why Kaggle would reject the submission that is there now, or "" if the submission is valid."""
        try:
            read_submission(self.submission, {task.id: len(task.test) for task in self.tasks})
        except InputError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Check:
    """One line of the list of checks. `passed` is None if the check could not be made."""

    name: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        word = {True: "PASS", False: "FAIL", None: "SKIP"}[self.passed]
        return f"{word} {self.name}: {self.detail}"


def heading(text: str) -> None:
    """Print the heading of a part of the rehearsal's output."""
    print(f"\n===== {text}", flush=True)


def judge(rehearsal: Rehearsal) -> int:
    """Print the report and save the picture. Returns 1 if any check failed, else 0."""
    problem, report = rehearsal.problem_of_submission(), rehearsal.report
    heading("Score, against the labels that the notebook did not see")
    score = _score(rehearsal, problem)

    heading("Timetable on Kaggle")
    if report and "adapted" in report and len(rehearsal.runs) == 1:
        print("\n".join(timetable(rehearsal.tasks, report, rehearsal.workers)))
    else:
        print("No projection: the run did not go through, so its seconds say nothing about the speed.")

    heading("Checks")
    valid = Check("valid", not problem, problem or f"Kaggle would accept {rehearsal.submission}")
    checks = [_offline(rehearsal), _in_time(rehearsal), valid, _undisturbed(report), _deterministic(rehearsal), score]
    if len(rehearsal.runs) > 1:
        checks.append(_survives(rehearsal))
    print("\n".join(str(check) for check in checks))
    if not problem:
        picture = rehearsal.out / "predictions.png"
        draw_predictions(rehearsal.tasks, read_json(rehearsal.submission), picture, (report or {}).get("attempts"))
        print(f"\nPicture of all tasks with both attempts: {picture}")
    return 1 if any(check.passed is False for check in checks) else 0


def _score(rehearsal: Rehearsal, problem: str) -> Check:
    """Print the scores of the submission and of the null baseline, and compare the two."""
    if problem:
        print("No score: the submission is not valid.")
        return Check("score", False, "no valid submission")
    if not all(pair.output is not None for task in rehearsal.tasks for pair in task.test):
        print("No score: some tasks have no labels.")
        return Check("score", None, "some tasks have no labels")
    solutions, null_submission = rehearsal.out / "solutions.json", rehearsal.out / "null_submission.json"
    write_json(solutions, to_solutions(rehearsal.tasks))
    write_json(null_submission, fallback_submission(TaskSet("rehearsal", tuple(rehearsal.tasks))))
    score, null = score_files(rehearsal.submission, solutions), score_files(null_submission, solutions)
    beyond = [task_id for task_id in score.solved if task_id not in null.solved]
    print(score.as_text())
    print("\n".join(_scores_apart(rehearsal, solutions)))
    print(f"null baseline (the commonest demonstrated outputs, nothing learned): {null.summary()}")
    print(f"tasks solved that the null baseline does not solve: {len(beyond)} ({', '.join(beyond) or 'none'})")
    return Check(
        "score",
        score.per_output(2) >= null.per_output(2),
        f"{score.per_output(2):.2%} of the test outputs are right; the null baseline has {null.per_output(2):.2%}",
    )


def _scores_apart(rehearsal: Rehearsal, solutions: Path) -> list[str]:
    """Return a line for each submission: of the network alone, of induction alone, and of both together."""
    paths = {f"{name} alone": rehearsal.submission.with_name(ALONE_FILE.format(name)) for name in (NETWORK, INDUCTION)}
    if not all(path.exists() for path in paths.values()):
        return []
    paths["together"] = rehearsal.submission
    return [f"{name}: {score_files(path, solutions).summary()}" for name, path in paths.items()]


def _offline(rehearsal: Rehearsal) -> Check:
    for line in rehearsal.attempts:
        print(f"tried to use the network: {line}")
    count = len(rehearsal.attempts)
    return Check("offline", not count, f"network connections: {count}; cut off by {rehearsal.means}")


def _in_time(rehearsal: Rehearsal) -> Check:
    last, report = rehearsal.runs[-1], rehearsal.report
    if last.code is None:
        return Check("in time", False, f"the notebook was still running after {last.seconds:.0f} s")
    if last.code:
        return Check("in time", False, f"the notebook ended with exit code {last.code}")
    if report is None:
        return Check("in time", False, "solve did not end by itself; the submission is as far as solve came")
    took = report["seconds in all"]
    return Check(
        "in time",
        took <= rehearsal.budget,
        f"solve took {took:.0f} s of its budget of {rehearsal.budget:.0f} s; the whole notebook took "
        f"{last.seconds:.0f} s",
    )


def _undisturbed(report: dict | None) -> Check:
    """Check that solve had nothing to recover from: no failed worker, broken artifact or unanswered task."""
    found = [*report["failures"], *report["left out"], *report["tasks on their fallback"]] if report else ["no report"]
    return Check("undisturbed", not found, "; ".join(found) or "no worker failed, and every task has an answer")


def build_twice() -> set[str]:
    """Return the hashes of two builds of our wheel: only one if both have the same bytes.

    The second build runs under another umask, which must not matter.
    """
    with tempfile.TemporaryDirectory() as scratch:
        first = build_wheel(Path(scratch) / "first")
        before = os.umask(0o077)
        try:
            second = build_wheel(Path(scratch) / "second")
        finally:
            os.umask(before)
        return {sha256(first), sha256(second)}


def _deterministic(rehearsal: Rehearsal) -> Check:
    """Check that builds of the wheel are equal, and that the mounted files have their hashes."""
    name = "deterministic install"
    if len(rehearsal.builds) > 1:
        return Check(name, False, "two builds of the wheel differ")
    if rehearsal.mounted is None:
        return Check(name, True, "two builds of the wheel are equal; the notebook carries its own wheel")
    findings = verify(rehearsal.mounted)
    if findings:
        return Check(name, False, f"{rehearsal.mounted}: {'; '.join(findings)}")
    mounted = {sha256(path) for path in rehearsal.mounted.glob("hrm_offline-*.whl")}
    if mounted == rehearsal.builds:
        return Check(name, True, "two more builds equal the mounted wheel, and all mounted files have their hashes")
    # A bundle that was built earlier may well be of another commit.
    return Check(
        name,
        not rehearsal.built_here,
        "two builds are equal, but the mounted wheel was built from other sources; all mounted files have their hashes",
    )


def _survives(rehearsal: Rehearsal) -> Check:
    """Check that a valid submission was there after the kill, and that the second run went through."""
    killed, again = rehearsal.runs
    if not killed.killed:
        return Check(
            "killed",
            False,
            f"solve ended before it could be killed (the notebook took {killed.seconds:.0f} s); give a smaller "
            "--kill-at",
        )
    if rehearsal.left_by_kill:
        return Check("killed", False, f"the submission was not valid after the kill: {rehearsal.left_by_kill}")
    return Check(
        "killed",
        killed.code == 0 and again.code == 0,
        f"after the kill of {killed.killed} processes the submission was valid and the notebook ended with exit code "
        f"{killed.code}; the second run took {again.seconds:.0f} s and ended with exit code {again.code}",
    )
