"""Augmented views of a task: a dihedral transform and a colour permutation, exactly invertible.

A view is a code, applied when a batch is made; no augmented copy of the data is ever stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral, symmetries
from hrm_offline.data.tasks import Task

_DRAWS = 5  # rounds of drawing what is still missing, before a task with few distinct views is left short


@dataclass(frozen=True)
class View:
    """`element` of the dihedral group, after `colours[c]` replaced colour c."""

    element: int = 0
    colours: tuple[int, ...] = tuple(range(COLOURS))

    def apply(self, grid: np.ndarray) -> np.ndarray:
        return dihedral(np.array(self.colours, dtype=np.uint8)[grid], self.element)

    def invert(self, grid: np.ndarray) -> np.ndarray:
        """The grid that `apply` turned into `grid`."""
        back = np.argsort(self.colours).astype(np.uint8)
        return back[dihedral(grid, DIHEDRAL_INVERSE[self.element])]


@dataclass(frozen=True, eq=False)
class Views:
    """Many views: elements uint8 [V], colours uint8 [V, 10]. `plain` of them, the first, keep the colours."""

    elements: np.ndarray
    colours: np.ndarray
    plain: int

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: int) -> View:
        return View(int(self.elements[index]), tuple(self.colours[index].tolist()))

    def __iter__(self) -> Iterator[View]:
        return (self[index] for index in range(len(self)))


def views_of(
    task: Task,
    seed: int,
    rotations: bool = True,
    flips: bool = True,
    colour_permutations: int = 0,
    keep_black: bool = True,
) -> Views:
    """Distinct views of a task, the identity first, then the others that rotations and flips make, then recoloured.

    A view whose content equals an earlier one's (over demonstrations and test inputs) is left
    out. At most `colour_permutations` recoloured views are added; a task with few colours may
    have fewer. The draw depends on `seed` and the task's id alone. `keep_black` leaves colour 0.
    """
    content = _Content(task)
    elements = group = np.array(symmetries(rotations, flips), dtype=np.uint8)
    colours = np.tile(np.arange(COLOURS, dtype=np.uint8), (len(group), 1))
    distinct = content.first_of_each(elements, colours)
    elements, colours = elements[distinct], colours[distinct]
    plain = len(elements)

    name = hashlib.sha256(task.id.encode(errors="backslashreplace")).digest()
    rng = np.random.default_rng([seed, int.from_bytes(name[:8], "big")])
    wanted = plain + colour_permutations
    for _ in range(_DRAWS):
        missing = wanted - len(elements)
        if not missing:
            break
        drawn = np.tile(np.arange(COLOURS, dtype=np.uint8), (missing, 1))
        first = 1 if keep_black else 0
        drawn[:, first:] = rng.permuted(drawn[:, first:], axis=1)
        elements = np.concatenate([elements, group[rng.integers(len(group), size=missing, dtype=np.uint8)]])
        colours = np.concatenate([colours, drawn])
        distinct = content.first_of_each(elements, colours)
        elements, colours = elements[distinct], colours[distinct]
    return Views(elements, colours, plain)


class _Content:
    """Which views of a task look alike, told without making them.

    The task's grids under a dihedral element are a pattern, in which colours are numbered as they
    first appear, and the list of these colours. Two views look alike if their patterns are the
    same and their permutations turn the two lists into the same one.
    """

    def __init__(self, task: Task):
        grids = [g for p in task.train for g in (p.input, p.output)] + [p.input for p in task.test]
        self.pattern = np.zeros(8, dtype=np.int64)
        self.appearing = np.full((8, COLOURS), COLOURS)  # by order of appearance; COLOURS where there are no more
        patterns: dict[bytes, int] = {}
        for element in range(8):
            turned = [dihedral(grid, element) for grid in grids]
            cells = np.concatenate([grid.ravel() for grid in turned])
            present, first = np.unique(cells, return_index=True)
            order = present[first.argsort()]
            self.appearing[element, : len(order)] = order
            number = np.zeros(COLOURS, dtype=np.uint8)
            number[order] = np.arange(len(order))
            key = bytes(side for grid in turned for side in grid.shape) + number[cells].tobytes()
            self.pattern[element] = patterns.setdefault(key, len(patterns))

    def first_of_each(self, elements: np.ndarray, colours: np.ndarray) -> np.ndarray:
        """Indices, ascending, of the views that look like none before them."""
        ending = np.concatenate([colours, np.full((len(colours), 1), COLOURS, dtype=np.uint8)], axis=1)
        shown = np.take_along_axis(ending, self.appearing[elements], axis=1).astype(np.int64)
        key = self.pattern[elements]
        for column in shown.T:
            key = key * (COLOURS + 1) + column
        return np.sort(np.unique(key, return_index=True)[1])
