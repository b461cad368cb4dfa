"""Augmented views of a task: a dihedral transform and a colour permutation, exactly invertible.

A view is a code, applied when a batch is made; no augmented copy of the data is ever stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from hrm_offline.data.grids import DIHEDRAL_INVERSE, dihedral
from hrm_offline.data.tasks import COLOURS, Task

_RETRIES = 5  # draws for each view wanted, before a task with few distinct views is left short


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


def views_of(task: Task, seed: int, use_dihedral: bool = True, colour_permutations: int = 0,
             keep_black: bool = True) -> list[View]:
    """Distinct views of a task, the identity first, then the other dihedral ones, then recoloured.

    A view whose content equals an earlier one's (over demonstrations and test inputs) is left
    out. At most `colour_permutations` recoloured views are added; a task with few colours may
    have fewer. The draw depends on `seed` and the task's id alone. `keep_black` leaves colour 0.
    """
    contents = _dihedral_contents(task)
    name = hashlib.sha256(task.id.encode(errors="backslashreplace")).digest()
    rng = np.random.default_rng([seed, int.from_bytes(name[:8], "big")])
    elements = range(8) if use_dihedral else range(1)
    views, seen = [], set()

    def add(view: View) -> None:
        recoloured = contents[view.element].translate(bytes(view.colours) + bytes(range(COLOURS, 256)))
        digest = hashlib.blake2b(recoloured, digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            views.append(view)

    for element in elements:
        add(View(element))
    wanted = len(views) + colour_permutations
    for _ in range(_RETRIES * colour_permutations):
        if len(views) == wanted:
            break
        first = 1 if keep_black else 0
        permuted = first + rng.permutation(COLOURS - first)
        add(View(int(rng.choice(elements)), (*range(first), *(int(c) for c in permuted))))
    return views


def _dihedral_contents(task: Task) -> list[bytes]:
    """The task's grids as bytes under each dihedral element. Shapes are written as bytes >= 100,
    which a recolouring leaves alone."""
    grids = [g for p in task.train for g in (p.input, p.output)] + [p.input for p in task.test]
    contents = []
    for element in range(8):
        turned = [dihedral(g, element) for g in grids]
        contents.append(b"".join(bytes([100 + g.shape[0], 100 + g.shape[1]]) + g.tobytes() for g in turned))
    return contents
