"""Which tasks of one set are in another: told by content, whatever their names, turned, recoloured or re-ordered.

ARC's public sets repeat one another: 376 of ARC-AGI-1's 400 evaluation tasks are in ARC-AGI-2's training set. A network
that is pretrained must have seen none of the tasks that it is measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from hrm_offline.data.grids import dihedral
from hrm_offline.data.tasks import Pair, Task

_GENERATED_PAIRS = 20  # a task with so many has a generator behind it
# A pair that a generated task shares with another by chance says nothing of its rule, unless it shares more than this
# part of them.
_CHANCE_SHARE = 0.1


@dataclass(frozen=True)
class Leak:
    """A task that shares pairs with another set: how many `pairs`, and the ids of the `others` that hold them."""

    id: str
    others: tuple[str, ...]
    pairs: int


@lru_cache(maxsize=2**20)  # a pair is asked for again with each set that it is held against
def content_of(pair: Pair) -> bytes:
    """Return a key that all dihedral views and colour permutations of a pair share, and no other pair.

    Colours are numbered as they first appear, so that recolouring changes nothing. A digest of the
    smallest of the eight orientations stands for all of them. A pair whose output is not known has the key of its
    input.
    """
    known = [grid for grid in (pair.input, pair.output) if grid is not None]
    smallest = min(_numbered([dihedral(grid, element) for grid in known]) for element in range(8))
    return blake2b(smallest, digest_size=16).digest()


def is_generated(task: Task) -> bool:
    """Return whether a task has so many pairs that a generator must have made them."""
    return len(task.train) + len(task.test) >= _GENERATED_PAIRS


def find_leaks(tasks: Iterable[Task], held_out: Iterable[Task]) -> list[Leak]:
    """Return the tasks, in order, that share a pair in any view with a held-out task.

    A held-out test pair whose output is not known is found by its input.
    """
    owners: dict[bytes, set[str]] = {}
    for task in held_out:
        for pair in (*task.train, *task.test):
            owners.setdefault(content_of(pair), set()).add(task.id)
    leaks = []
    for task in tasks:
        found = [_owners_of(pair, owners) for pair in (*task.train, *task.test)]
        shared = [ids for ids in found if ids]
        if shared:
            leaks.append(Leak(task.id, tuple(sorted(set().union(*shared))), len(shared)))
    return leaks


def without_held_out(tasks: Iterable[Task], held_out: Iterable[Task]) -> tuple[Task, ...]:
    """Return the tasks without those that a held-out set contains.

    A task that has a held-out task's name is left out: it has the same rule, though its grids may be others. A name
    with something in front, such as "rearc-" and the task's id, counts too. A task that shares a pair, in any view, is
    left out, or loses just that pair where it has many (see `_without_pairs`).
    """
    held_out = list(held_out)
    names = {task.id for task in held_out}
    shared = {content_of(pair) for task in held_out for pair in (*task.train, *task.test)}
    named_otherwise = (task for task in tasks if names.isdisjoint(_names_of(task.id)))
    rests = (_without_pairs(task, shared) for task in named_otherwise)
    return tuple(rest for rest in rests if rest is not None)


def without_repeats(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Return the tasks without those that share a pair, in any view, with a task that was kept before them.

    A task with many pairs loses just the pair (see `_without_pairs`).
    """
    seen: set[bytes] = set()
    kept = []
    for task in tasks:
        rest = _without_pairs(task, seen)
        if rest is not None:
            kept.append(rest)
            seen |= {content_of(pair) for pair in (*rest.train, *rest.test)}
    return tuple(kept)


def _names_of(task_id: str) -> set[str]:
    """Return a task's id, and what follows its last hyphen or underscore."""
    return {task_id, task_id.rpartition("-")[2], task_id.rpartition("_")[2]}


def _without_pairs(task: Task, shared: set[bytes]) -> Task | None:
    """Return the task without the pairs whose content is `shared`, or None where it is to be left out for them.

    A generated task stays unless it shares more than `_CHANCE_SHARE` of its pairs.
    """

    train = tuple(pair for pair in task.train if not _is_among(pair, shared))
    test = tuple(pair for pair in task.test if not _is_among(pair, shared))
    pairs, lost = len(task.train) + len(task.test), len(task.train) + len(task.test) - len(train) - len(test)
    if not lost:
        return task
    if not is_generated(task) or lost > _CHANCE_SHARE * pairs or not train:
        return None
    return replace(task, train=train, test=test)


def _is_among(pair: Pair, shared: set[bytes]) -> bool:
    """Return whether the pair is `shared`, or its input with the output unknown."""
    return content_of(pair) in shared or _content_of_input(pair) in shared


@lru_cache(maxsize=2**20)
def _content_of_input(pair: Pair) -> bytes:
    return content_of.__wrapped__(Pair(pair.input, None))


def _owners_of(pair: Pair, owners: dict[bytes, set[str]]) -> set[str]:
    """Return the ids of the tasks that hold the pair, or that hold its input with the output unknown."""
    return owners.get(content_of(pair), set()) | owners.get(_content_of_input(pair), set())


def _numbered(grids: list[np.ndarray]) -> bytes:
    """Return the shapes and the cells of grids, with colours numbered as they first appear over all of them."""
    cells = b"".join(grid.tobytes() for grid in grids)  # row by row, however the grid lies in memory
    appearing = bytes(dict.fromkeys(cells))
    numbered = cells.translate(bytes.maketrans(appearing, bytes(range(len(appearing)))))
    return bytes(side for grid in grids for side in grid.shape) + numbered
