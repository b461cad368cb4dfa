"""Which tasks of one set are in another, told by content: whatever their names, turned, recoloured or re-ordered.

ARC's public sets repeat one another: 376 of ARC-AGI-1's 400 evaluation tasks are in ARC-AGI-2's training
set. What is learned in advance must hold none of the tasks it is then measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import dihedral
from hrm_offline.data.tasks import Pair, Task


@dataclass(frozen=True)
class Leak:
    """A task, the ids of the tasks of the other set that share a pair with it, and how many of its pairs they have."""

    id: str
    others: tuple[str, ...]
    pairs: int


def content_of(pair: Pair) -> bytes:
    """The same for all dihedral views and colour permutations of a pair, and for no other pair.

    Of the eight orientations that which comes first, with colours numbered as they first appear. A pair
    whose output is not known is told by its input.
    """
    known = [grid for grid in (pair.input, pair.output) if grid is not None]
    return min(_numbered([dihedral(grid, element) for grid in known]) for element in range(8))


def find_leaks(tasks: Iterable[Task], held_out: Iterable[Task]) -> list[Leak]:
    """The tasks that share a pair, in any view, with one that is held out, in order.

    A held-out test pair whose output is not known is found by its input.
    """
    owners: dict[bytes, set[str]] = {}
    for task in held_out:
        for pair in (*task.train, *task.test):
            owners.setdefault(content_of(pair), set()).add(task.id)
    leaks = []
    for task in tasks:
        found = [owner for pair in (*task.train, *task.test) if (owner := _owners_of(pair, owners))]
        if found:
            leaks.append(Leak(task.id, tuple(sorted(set().union(*found))), len(found)))
    return leaks


def without_repeats(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks without those that share a pair, in any view, with an earlier one."""
    seen: set[bytes] = set()
    kept = []
    for task in tasks:
        content = {content_of(pair) for pair in (*task.train, *task.test)}
        if seen.isdisjoint(content):
            kept.append(task)
            seen |= content
    return tuple(kept)


def _owners_of(pair: Pair, owners: dict[bytes, set[str]]) -> set[str]:
    """Ids of the tasks that hold the pair, or its input with the output unknown."""
    return owners.get(content_of(pair), set()) | owners.get(content_of(Pair(pair.input, None)), set())


def _numbered(grids: list[np.ndarray]) -> bytes:
    """Shapes and cells, the colours numbered as they first appear."""
    cells = np.concatenate([grid.ravel() for grid in grids])
    present, first = np.unique(cells, return_index=True)
    number = np.zeros(COLOURS, dtype=np.uint8)
    number[present[first.argsort()]] = np.arange(len(present))
    return bytes(side for grid in grids for side in grid.shape) + number[cells].tobytes()
