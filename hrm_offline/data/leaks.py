"""Which tasks of one set are in another: told by content, whatever their names, turned, recoloured or re-ordered.

ARC's public sets repeat one another: 376 of ARC-AGI-1's 400 evaluation tasks are in ARC-AGI-2's training set. A network
that is pretrained must have seen none of the tasks that it is measured on.
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
    """A task that shares pairs with another set: how many `pairs`, and the ids of the `others` that hold them."""

    id: str
    others: tuple[str, ...]
    pairs: int


def content_of(pair: Pair) -> bytes:
    """Return a key that all dihedral views and colour permutations of a pair share, and no other pair.

    Colours are numbered as they first appear, so that recolouring changes nothing. The smallest key of the eight
    orientations stands for all of them. A pair whose output is not known has the key of its input.
    """
    known = [grid for grid in (pair.input, pair.output) if grid is not None]
    return min(_numbered([dihedral(grid, element) for grid in known]) for element in range(8))


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


def without_repeats(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Return the tasks without those that share a pair, in any view, with a task that was kept before them."""
    seen: set[bytes] = set()
    kept = []
    for task in tasks:
        content = {content_of(pair) for pair in (*task.train, *task.test)}
        if seen.isdisjoint(content):
            kept.append(task)
            seen |= content
    return tuple(kept)


def _owners_of(pair: Pair, owners: dict[bytes, set[str]]) -> set[str]:
    """Return the ids of the tasks that hold the pair, or that hold its input with the output unknown."""
    return owners.get(content_of(pair), set()) | owners.get(content_of(Pair(pair.input, None)), set())


def _numbered(grids: list[np.ndarray]) -> bytes:
    """Return the shapes and the cells of grids, with colours numbered as they first appear over all of them."""
    cells = np.concatenate([grid.ravel() for grid in grids])
    present, first = np.unique(cells, return_index=True)
    number = np.zeros(COLOURS, dtype=np.uint8)
    number[present[first.argsort()]] = np.arange(len(present))
    return bytes(side for grid in grids for side in grid.shape) + number[cells].tobytes()
