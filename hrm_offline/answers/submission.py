"""The submission: a fallback that is valid before anything is learned, then the answers of votes; and reading it back.

Format: {task_id: [{"attempt_1": grid, "attempt_2": grid} for each test input, in order]}, with every task of the
challenges file. The platform rejects the whole file where one entry is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hrm_offline.answers.vote import Candidate, Pool, Rule, TestKey, Vote, choose_attempts, rank
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.files import read_json
from hrm_offline.data.tasks import GridError, Task, TaskSet, parse_grid

ATTEMPTS = ("attempt_1", "attempt_2")
Submission = dict[str, list[dict[str, list]]]


def null_attempts(task: Task) -> list[list[np.ndarray]]:
    """Return two attempts at each test input that need no learning: the two commonest demonstrated outputs.

    Outputs that are equally common keep their order. Where all outputs are the same, the test input itself is the
    second attempt.
    """
    ranking = rank(Vote(pair.output, 0.0) for pair in task.train)[: len(ATTEMPTS)]
    return [choose_attempts([*ranking, Candidate(pair.input, 0, 0.0)]) for pair in task.test]


def fallback_submission(task_set: TaskSet) -> Submission:
    """Return a complete submission of null attempts. A bad task gets [[0]] for each test input."""
    submission = {task.id: [_entry(attempts) for attempts in null_attempts(task)] for task in task_set.tasks}
    empty = np.zeros((1, 1), dtype=np.uint8)
    return submission | {bad.id: [_entry([empty, empty]) for _ in range(bad.test_count)] for bad in task_set.bad}


def build_submission(fallback: Submission, votes: dict[TestKey, Pool], choose: Rule = choose_attempts) -> Submission:
    """Return the fallback with the entry of every test input that has votes replaced.

    `choose` makes attempts of the candidates, by default the two best grids. Where it returns a single grid, the
    fallback's first attempt that differs is the second one, so that no attempt is wasted.
    """
    submission = {task_id: [dict(entry) for entry in entries] for task_id, entries in fallback.items()}
    for (task_id, index), pool in votes.items():
        attempts = [grid.tolist() for grid in choose(pool.ranking())]
        spare = [fallback[task_id][index][name] for name in ATTEMPTS]
        attempts += [grid for grid in spare if grid not in attempts]
        if len(attempts) == 1:
            attempts *= 2
        submission[task_id][index] = dict(zip(ATTEMPTS, attempts))  # the first two
    return submission


def read_submission(path: str | Path, expected: dict[str, int]) -> dict[str, list[list[np.ndarray]]]:
    """Read the attempts of a submission file: {task_id: [[grid, grid] for each test input]}.

    `expected` is the number of test inputs of every task by id. Raises `InputError` that names the task and the reason
    for whatever the platform would reject.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, found {type(raw).__name__}")
    for task_id in raw:
        if task_id not in expected:
            raise InputError(f"{path}: task {shown_name(task_id)}: is not among the expected tasks")
    attempts = {}
    for task_id, count in expected.items():
        where = f"{path}: task {shown_name(task_id)}"
        if task_id not in raw:
            raise InputError(f"{where}: is missing")
        entries = raw[task_id]
        if not isinstance(entries, list) or len(entries) != count:
            found = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise InputError(f"{where}: expected {count} entries, one per test input, found {found}")
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
    """Return the entry of a test input with these attempts."""
    return dict(zip(ATTEMPTS, (grid.tolist() for grid in attempts)))
