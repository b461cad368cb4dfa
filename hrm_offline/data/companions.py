"""Companions: public tasks that are learned along with the tasks to be answered.

All their known pairs are learned, so none of them may give an answer away. A task that is among those to be answered,
by its name or by a pair in any view, is left out (see `leaks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.data.leaks import without_held_out, without_repeats
from hrm_offline.data.sets import largest_side, load_set, require_distinct_ids
from hrm_offline.data.tasks import Task

_IS_HIDDEN = "is among the tasks to answer, by its name or by a pair"
_MOST_NAMES = 10  # in a line for the user


@dataclass(frozen=True)
class Companions:
    """Tasks to learn along. All their pairs are demonstrations, and none has a test input.

    `left_out` says by id why a task is not learned. `repeated` counts the tasks that share pairs with an earlier one.
    `unusable` has a line for each set with tasks that cannot be used.
    """

    tasks: tuple[Task, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    unusable: tuple[str, ...] = ()

    @property
    def pairs(self) -> int:
        """Return how many pairs the tasks have."""
        return sum(len(task.train) for task in self.tasks)

    def fitting(self, side: int) -> Companions:
        """Return the companions without those that have a grid of more rows or columns than `side`."""
        large = {
            task.id: f"has a grid side of more than {side} cells" for task in self.tasks if largest_side(task) > side
        }
        tasks = tuple(task for task in self.tasks if task.id not in large)
        return replace(self, tasks=tasks, left_out=self.left_out | large)

    def __str__(self) -> str:
        words = f"{len(self.tasks):,} tasks with {self.pairs:,} pairs"
        if self.left_out:
            first, *_ = names = sorted(self.left_out)
            told = ", ".join(map(shown_name, names[:_MOST_NAMES]))
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            words += f"; left out: {told}{more} ({shown_name(first)} {self.left_out[first]})"
        return words + (f"; {self.repeated} repeat earlier tasks" if self.repeated else "")


def load_companions(sources: Iterable[str], hidden: Iterable[Task]) -> Companions:
    """Return the companions that some sets have for the tasks to be answered.

    Raises `InputError` naming the set that cannot be read or has no usable task, or the sets in which two different
    tasks have one id.
    """
    sets = [load_set(source, needs_tests=False) for source in sources]
    tasks = [task for found in sets for task in found.require_some()]
    try:
        chosen = choose_companions(tasks, hidden)
    except InputError as error:
        raise InputError(f"{', '.join(found.source for found in sets)}: {error}") from None
    return replace(chosen, unusable=tuple(filter(None, (found.left_out() for found in sets))))


def choose_companions(tasks: Iterable[Task], hidden: Iterable[Task]) -> Companions:
    """Return the companions among some tasks for the tasks to be answered, in order.

    A task of 20 pairs or more loses just the pairs that it shares, as in pretraining. Raises `InputError` where two
    different tasks have one id.
    """
    tasks = [_all_demonstrated(task) for task in tasks]
    clean = without_held_out(tasks, hidden)
    distinct = without_repeats(clean)
    require_distinct_ids(distinct)
    kept = {task.id for task in clean}
    left_out = {task.id: _IS_HIDDEN for task in tasks if task.id not in kept}
    return Companions(distinct, left_out, len(clean) - len(distinct))


def _all_demonstrated(task: Task) -> Task:
    """Return the task with all its known pairs as demonstrations, and without test inputs."""
    return Task(task.id, tuple(pair for pair in (*task.train, *task.test) if pair.output is not None), ())
