"""Sets of tasks by name: what `load_tasks` reads, the rehearsal's set and made-up tasks; and what may be pretrained on.

A pretraining set is made of sources less all that the held-out sets contain, by content (see `leaks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hrm_offline.common.errors import InputError
from hrm_offline.config import PretrainConfig
from hrm_offline.data.augment import View, views_of
from hrm_offline.data.leaks import find_leaks, without_repeats
from hrm_offline.data.synthetic import FAMILIES, synthetic_tasks
from hrm_offline.data.tasks import MAX_SIDE, Pair, Task, TaskSet, load_tasks

REHEARSAL = "rehearsal"
# How much of each split the rehearsal takes, smallest tasks first.
_REHEARSAL_SPLIT = (("arc1-train", 20), ("arc1-eval", 10))
_MIN_DEMONSTRATIONS = 3
_SYNTHETIC = re.compile(r"synthetic-([1-9]\d{0,5})(?:-sides-(\d{1,2}))?(?:-(only|without)-([a-z_,]+))?")


def load_set(source: str | Path, max_side: int = MAX_SIDE) -> TaskSet:
    """Tasks by name. Beside what `load_tasks` takes: "rehearsal", the rehearsal's 30 tasks, and "synthetic-N", N
    made-up tasks of sides up to `max_side` or fewer ("synthetic-N-sides-5"), of all families, of some
    ("synthetic-N-only-tile,shift") or of all but some ("synthetic-N-without-tile,shift"). Raises `InputError`."""
    name = str(source)
    if name == REHEARSAL:
        return TaskSet(name, rehearsal_tasks())
    if match := _SYNTHETIC.fullmatch(name):
        count, sides, how, families = match.groups()
        most = min(int(sides or max_side), max_side)
        return TaskSet(name, synthetic_tasks(int(count), most, families=_families(name, how, families)))
    return load_tasks(source)


def _families(source: str, how: str | None, names: str | None) -> tuple[str, ...]:
    named = tuple((names or "").split(","))
    for name in named if how else ():
        if name not in FAMILIES:
            raise InputError(f"set '{source}': there is no family '{name}', expected some of {', '.join(FAMILIES)}")
    return named if how == "only" else tuple(name for name in FAMILIES if name not in named)


def rehearsal_tasks(count: int | None = None) -> tuple[Task, ...]:
    """The smallest 20 of ARC-AGI-1's training split and 10 of its evaluation split, or `count` in that proportion."""
    split = _REHEARSAL_SPLIT
    if count is not None:
        evaluation = count // 3
        split = (("arc1-train", count - evaluation), ("arc1-eval", evaluation))
    return tuple(task for source, number in split for task in smallest(load_tasks(source).require_good(), number))


def smallest(tasks: Iterable[Task], count: int | None) -> list[Task]:
    """The first `count` (None: all) of the tasks with at least three demonstrations, by `size_of`."""
    return sorted((task for task in tasks if len(task.train) >= _MIN_DEMONSTRATIONS), key=size_of)[:count]


def size_of(task: Task) -> tuple[int, int, str]:
    """What sets are ordered by: largest side and largest area over demonstrations and test inputs, id. Never looks at a
    test output."""
    grids = [grid for pair in task.train for grid in (pair.input, pair.output)] + [pair.input for pair in task.test]
    return max(max(grid.shape) for grid in grids), max(grid.size for grid in grids), task.id


@dataclass(frozen=True)
class Selection:
    """Tasks to pretrain on, and how many were left out for being held out, a repeat of an earlier one, or too large."""

    tasks: tuple[Task, ...]
    held_out: int
    repeated: int
    too_large: int

    def __str__(self) -> str:
        return (
            f"{len(self.tasks)} tasks; left out: {self.held_out} that the held-out sets contain, {self.repeated} "
            f"repeats, {self.too_large} too large"
        )


def select_tasks(config: PretrainConfig) -> Selection:
    """What `config` says to pretrain on. Raises `InputError` if that is nothing, or two tasks have one id."""
    tasks = [task for source in config.data for task in load_set(source, config.max_side).require_good()]
    small = [task for task in tasks if _largest_side(task) <= config.max_side]
    forbidden = [task for source in config.held_out for task in load_set(source).require_good()]
    leaked = {leak.id for leak in find_leaks(small, forbidden)}
    clean = [task for task in small if task.id not in leaked]
    distinct = without_repeats(clean)
    chosen = distinct[: config.limit] if config.limit else distinct
    if not chosen:
        raise InputError(
            f"{', '.join(config.data)}: no task with sides of {config.max_side} or less that is not held out"
        )
    _require_distinct_ids(chosen)
    copies = tuple(copy for task in chosen for copy in _recoloured(task, config.recoloured, config.seed))
    return Selection(chosen + copies, len(small) - len(clean), len(clean) - len(distinct), len(tasks) - len(small))


def _recoloured(task: Task, copies: int, seed: int) -> list[Task]:
    """The task in other colours, black left as it is; fewer copies where it has too few colours to differ."""
    views = views_of(task, seed, rotations=False, flips=False, colour_permutations=copies)
    return [_viewed(task, view, f"{task.id}-recoloured-{i}") for i, view in enumerate(views) if i]


def _viewed(task: Task, view: View, name: str) -> Task:
    def apply(grid: np.ndarray | None) -> np.ndarray | None:
        return None if grid is None else view.apply(grid)

    return replace(
        task,
        id=name,
        **{
            part: tuple(Pair(apply(p.input), apply(p.output)) for p in getattr(task, part))
            for part in ("train", "test")
        },
    )


def _require_distinct_ids(tasks: tuple[Task, ...]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise InputError(f"task {task.id}: two different tasks have this id, expected distinct ids")
        seen.add(task.id)


def _largest_side(task: Task) -> int:
    return max(
        max(grid.shape) for pair in (*task.train, *task.test) for grid in (pair.input, pair.output) if grid is not None
    )
