"""Augmented views of a task: a dihedral transform and a colour permutation, exactly invertible.

A view is a number and a permutation, applied when a batch is made. No augmented copy of the data is ever stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral, symmetries
from hrm_offline.data.tasks import Task

# Rounds of drawing the views that are still missing. A task with few distinct views is then left with fewer.
_DRAWS = 5


@dataclass(frozen=True)
class View:
    """One augmentation: every colour c becomes `colours[c]`, then the dihedral `element` transforms the grid."""

    element: int = 0
    colours: tuple[int, ...] = tuple(range(COLOURS))

    def apply(self, grid: np.ndarray) -> np.ndarray:
        """Return a grid of the task as this view shows it."""
        return dihedral(np.array(self.colours, dtype=np.uint8)[grid], self.element)

    def invert(self, grid: np.ndarray) -> np.ndarray:
        """Return the grid of the task that `apply` turned into `grid`."""
        original_of = np.argsort(self.colours).astype(np.uint8)
        return original_of[dihedral(grid, DIHEDRAL_INVERSE[self.element])]


@dataclass(frozen=True, eq=False)
class Views:
    """Many views: elements uint8 [V], colours uint8 [V, 10]. The first `plain` of them keep the colours."""

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
) -> Views:
    """Return distinct views of a task: the identity, the others that rotations and flips make, then recoloured ones.

    A view whose grids (demonstrations and test inputs) equal those of an earlier view is left out. At most
    `colour_permutations` recoloured views are added; a task with few colours may have fewer. Colour 0 stays as it
    is. The draw depends on `seed` and the task's id alone.
    """
    content = _Content(task)
    group = np.array(symmetries(rotations, flips), dtype=np.uint8)
    elements, colours = content.distinct(group, _identities(len(group)))
    plain = len(elements)

    rng = np.random.default_rng([seed, _number_of(task.id)])
    for _ in range(_DRAWS):
        missing = plain + colour_permutations - len(elements)
        if not missing:
            break
        drawn = _identities(missing)
        drawn[:, 1:] = rng.permuted(drawn[:, 1:], axis=1)
        drawn_elements = group[rng.integers(len(group), size=missing, dtype=np.uint8)]
        elements, colours = content.distinct(
            np.concatenate([elements, drawn_elements]), np.concatenate([colours, drawn])
        )
    return Views(elements, colours, plain)


def _identities(count: int) -> np.ndarray:
    """Return permutations uint8 [count, 10] that keep every colour."""
    return np.tile(np.arange(COLOURS, dtype=np.uint8), (count, 1))


def _number_of(task_id: str) -> int:
    """Return a number that seeds the draw; Python's `hash` would differ between processes."""
    digest = hashlib.sha256(task_id.encode(errors="backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big")


class _Content:
    """Tells which views of a task look alike, without making them.

    The task's grids under a dihedral element are described by two things: a pattern, in which colours are numbered as
    they first appear, and the list of these colours. Two views look alike if their patterns are the same and their
    permutations turn the two lists into the same list.
    """

    def __init__(self, task: Task):
        grids = [g for p in task.train for g in (p.input, p.output)] + [p.input for p in task.test]
        self.pattern = np.zeros(8, dtype=np.int64)  # the number of each element's pattern
        self.appearing = np.full((8, COLOURS), COLOURS)  # colours as they first appear, filled up with COLOURS
        numbers: dict[bytes, int] = {}
        for element in range(8):
            turned = [dihedral(grid, element) for grid in grids]
            cells = np.concatenate([grid.ravel() for grid in turned])
            present, first = np.unique(cells, return_index=True)
            order = present[first.argsort()]
            self.appearing[element, : len(order)] = order
            place = np.zeros(COLOURS, dtype=np.uint8)  # of a colour in that order
            place[order] = np.arange(len(order))
            shapes = bytes(side for grid in turned for side in grid.shape)
            self.pattern[element] = numbers.setdefault(shapes + place[cells].tobytes(), len(numbers))

    def distinct(self, elements: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the elements [V] and the colours [V, 10] of the views that look like none before them, in order."""
        # An eleventh column lets the filling COLOURS stand for itself.
        filled = np.concatenate([colours, np.full((len(colours), 1), COLOURS, dtype=np.uint8)], axis=1)
        shown = np.take_along_axis(filled, self.appearing[elements], axis=1).astype(np.int64)
        # One number per view: its pattern and the ten shown colours as digits to the base 11.
        key = self.pattern[elements]
        for column in shown.T:
            key = key * (COLOURS + 1) + column
        first = np.sort(np.unique(key, return_index=True)[1])
        return elements[first], colours[first]
