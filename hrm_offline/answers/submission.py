"""The submission: a fallback that is valid before anything is learned, building and checking.

Format: {task_id: [{"attempt_1": grid, "attempt_2": grid}, one a test input, in order]}, every task
of the challenges file present. One entry short and the platform rejects the whole file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hrm_offline.answers.vote import Candidate, Pool, Vote, choose_attempts, rank
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.files import read_json
from hrm_offline.data.tasks import GridError, Task, TaskSet, parse_grid

ATTEMPTS = ("attempt_1", "attempt_2")
Submission = dict[str, list[dict[str, list]]]


def null_attempts(task: Task) -> list[list[np.ndarray]]:
    """Two attempts at each test input without learning anything: the commonest demonstrated outputs, in
    order of first appearance among equals, and the test input itself where all outputs agree."""
    ranking = rank(Vote(pair.output, 0.0) for pair in task.train)[: len(ATTEMPTS)]
    return [choose_attempts([*ranking, Candidate(pair.input, 0, 0.0)]) for pair in task.test]


def fallback_submission(task_set: TaskSet) -> Submission:
    """A complete submission of null attempts; a broken task gets [[0]] for each test input."""
    submission = {task.id: [_entry(attempts) for attempts in null_attempts(task)] for task in task_set.tasks}
    empty = np.zeros((1, 1), dtype=np.uint8)
    return submission | {bad.id: [_entry([empty, empty]) for _ in range(bad.test_count)] for bad in task_set.bad}


def build_submission(fallback: Submission, votes: dict[tuple[str, int], Pool]) -> Submission:
    """The fallback with every test input that has votes replaced by its two best grids.

    `votes` is keyed by (task id, test index). A single candidate is joined by the fallback's
    first attempt that differs from it, so that no attempt is wasted.
    """
    submission = {task_id: [dict(entry) for entry in entries] for task_id, entries in fallback.items()}
    for (task_id, index), pool in votes.items():
        attempts = [grid.tolist() for grid in choose_attempts(pool.ranking())]
        spare = [fallback[task_id][index][name] for name in ATTEMPTS]
        attempts += [grid for grid in spare if grid not in attempts]
        if len(attempts) == 1:
            attempts *= 2
        submission[task_id][index] = dict(zip(ATTEMPTS, attempts))
    return submission


def read_submission(path: str | Path, expected: dict[str, int]) -> dict[str, list[list[np.ndarray]]]:
    """Attempts of a submission file: {task_id: [[grid, grid] for each test input]}.

    `expected` has the number of test inputs of every task. Raises `InputError` naming the task
    and the reason for whatever the platform would reject.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, found {type(raw).__name__}")
    for task_id in raw:
        if task_id not in expected:
            raise InputError(f"{path}: task {shown_name(task_id)}: is not a task of the solutions")
    attempts = {}
    for task_id, count in expected.items():
        where = f"{path}: task {shown_name(task_id)}"
        if task_id not in raw:
            raise InputError(f"{where}: is missing")
        entries = raw[task_id]
        if not isinstance(entries, list) or len(entries) != count:
            found = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise InputError(f"{where}: expected {count} entries, one a test input, found {found}")
        attempts[task_id] = [_read_entry(entry, f"{where}: entry {i}") for i, entry in enumerate(entries)]
    return attempts


def _read_entry(entry, where: str) -> list[np.ndarray]:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with attempt_1 and attempt_2")
    grids = []
    for name in ATTEMPTS:
        if name not in entry:
            raise InputError(f"{where}: has no {name}")
        try:
            grids.append(parse_grid(entry[name]))
        except GridError as error:
            raise InputError(f"{where}: {name}: {error}") from None
    return grids


def _entry(attempts: Iterable[np.ndarray]) -> dict[str, list]:
    return dict(zip(ATTEMPTS, (grid.tolist() for grid in attempts)))
