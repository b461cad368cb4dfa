"""Doubt candidates that lack what all demonstrations of a task have in common.

A property of a pair is, for instance, that its output has the colours of its input. A property that all demonstrations
share is an invariant of the task. Few true answers break one (`BROKEN`), so a candidate that does is unlikely.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.data.tasks import Pair, Task

# A doubt counts so many times in a score, which sums log-likelihoods over eight views. Chosen among 1, 3, 10
# and 30 on ConceptARC and on the tasks that are new in ARC-AGI-2: see LOG.md, 2026-11-26.
DOUBT_WEIGHT = 10.0
_LEAST_DEMONSTRATIONS = 2  # that have a property, for an invariant

# How often the true output of a test input breaks an invariant, by property. Counted on ARC-AGI-1's training tasks by
# `tools/study/invariants.py`, with one broken and one kept invariant added, so that none is 0.
BROKEN = {
    "another grid than the input": 0.0024,
    "new colours": 0.0025,
    "lost colours": 0.0029,
    "columns of the input": 0.0035,
    "rows of the input": 0.0035,
    "no new colour": 0.0037,
    "no lost colour": 0.0039,
    "sides by the input's": 0.0058,
    "sides less the input's": 0.0059,
    "colours of the input": 0.0060,
    "colours": 0.0067,
    "number of colours less the input's": 0.0080,
    "no fewer cells of a colour": 0.0104,
    "square": 0.0114,
    "no black": 0.0118,
    "no more cells of a colour": 0.0165,
    "sides of the input, turned": 0.0175,
    "commonest colour of the input": 0.0182,
    "left and right mirrored": 0.0217,
    "commonest colour": 0.0263,
    "as many cells of a colour": 0.0343,
    "cells of each colour": 0.0345,
    "sides": 0.0356,
    "number of colours": 0.0393,
    "holds the input": 0.0400,
    "rows of one colour": 0.0435,
    "rows": 0.0456,
    "top and bottom mirrored": 0.0476,
    "columns of one colour": 0.0500,
    "columns": 0.0513,
    "half turn": 0.0513,
    "part of the input": 0.0606,
    "other diagonal mirrored": 0.0769,
    "diagonal mirrored": 0.0882,
}


@dataclass(frozen=True)
class Invariants:
    """The properties that all demonstrations of a task share, with their common values."""

    values: dict[tuple, Hashable]

    @classmethod
    def of(cls, demonstrations: Iterable[Pair]) -> Invariants:
        """Find the invariants of demonstrations. A single demonstration shows none."""
        found: dict[tuple, list] = {}
        for pair in demonstrations:
            for name, value in properties(pair.input, pair.output).items():
                found.setdefault(name, []).append(value)
        return cls(
            {
                name: values[0]
                for name, values in found.items()
                if len(values) >= _LEAST_DEMONSTRATIONS and values[0] is not False and len(set(values)) == 1
            }
        )

    def broken_by(self, inputs: np.ndarray, output: np.ndarray) -> list[str]:
        """Return the properties, by name, of the invariants that an output breaks; a name once per colour."""
        shown = properties(inputs, output)
        return [name[0] for name, value in self.values.items() if name in shown and shown[name] != value]

    def doubt(self, inputs: np.ndarray, output: np.ndarray) -> float:
        """Return how much an output is to be doubted, in nats: the sum of -log `BROKEN` of what it breaks."""
        return -sum(math.log(BROKEN[name]) for name in self.broken_by(inputs, output))


class Doubts:
    """The doubts about outputs for test inputs. A task's invariants are found when they are first asked for.

    Test input i is `inputs[i]`. It belongs to `tasks[owners[i]]`.
    """

    def __init__(self, tasks: Sequence[Task], owners: Sequence[int], inputs: Sequence[np.ndarray]):
        self.tasks, self.owners, self.inputs = tasks, owners, inputs
        self._found: dict[int, Invariants] = {}  # by task

    def __call__(self, test: int, output: np.ndarray) -> float:
        """Return the doubt in nats about an output for a test input (see `Invariants.doubt`)."""
        owner = int(self.owners[test])
        if owner not in self._found:
            self._found[owner] = Invariants.of(self.tasks[owner].train)
        return self._found[owner].doubt(self.inputs[test], output)


def properties(inputs: np.ndarray, output: np.ndarray) -> dict[tuple, Hashable]:
    """Return the properties of a pair by name and, where there is one per colour, by colour.

    A property that says nothing about the pair is not among them.
    """
    found = _of_sides(inputs.shape, output.shape) | _of_colours(inputs, output) | _of_cells(inputs, output)
    return {(name,): value for name, value in found.items()} | _of_counts(inputs, output)


def _of_sides(inputs: tuple[int, int], output: tuple[int, int]) -> dict[str, Hashable]:
    return {
        "sides": output,
        "rows": output[0],
        "columns": output[1],
        "sides by the input's": (output[0] / inputs[0], output[1] / inputs[1]),
        "sides less the input's": (output[0] - inputs[0], output[1] - inputs[1]),
        "rows of the input": output[0] == inputs[0],
        "columns of the input": output[1] == inputs[1],
        "sides of the input, turned": output == inputs[::-1],
        "square": output[0] == output[1],
    }


def _of_colours(inputs: np.ndarray, output: np.ndarray) -> dict[str, Hashable]:
    before, after = (frozenset(np.unique(grid).tolist()) for grid in (inputs, output))
    return {
        "colours": after,
        "number of colours": len(after),
        "new colours": after - before,
        "lost colours": before - after,
        "number of colours less the input's": len(after) - len(before),
        "colours of the input": after == before,
        "no new colour": after <= before,
        "no lost colour": after >= before,
        "no black": 0 not in after,
        "commonest colour": _commonest(output),
        "commonest colour of the input": _commonest(output) == _commonest(inputs),
    }


def _of_cells(inputs: np.ndarray, output: np.ndarray) -> dict[str, Hashable]:
    return {
        "left and right mirrored": np.array_equal(output, output[:, ::-1]),
        "top and bottom mirrored": np.array_equal(output, output[::-1]),
        "diagonal mirrored": np.array_equal(output, output.T),
        "other diagonal mirrored": np.array_equal(output, output[::-1, ::-1].T),
        "half turn": np.array_equal(output, output[::-1, ::-1]),
        "rows of one colour": bool((output == output[:, :1]).all()),
        "columns of one colour": bool((output == output[:1]).all()),
        "part of the input": _contains(inputs, output),
        "holds the input": _contains(output, inputs),
        "another grid than the input": not np.array_equal(inputs, output),
    }


def _of_counts(inputs: np.ndarray, output: np.ndarray) -> dict[tuple, Hashable]:
    before, after = (np.bincount(grid.ravel(), minlength=COLOURS).tolist() for grid in (inputs, output))
    found: dict[tuple, Hashable] = {("cells of each colour",): before == after}
    for colour in range(COLOURS):
        if before[colour]:
            found["as many cells of a colour", colour] = before[colour] == after[colour]
            found["no more cells of a colour", colour] = before[colour] >= after[colour]
            found["no fewer cells of a colour", colour] = before[colour] <= after[colour]
    return found


def _commonest(grid: np.ndarray) -> int:
    return int(np.bincount(grid.ravel()).argmax())


def _contains(grid: np.ndarray, part: np.ndarray) -> bool:
    """Return whether a grid has a part somewhere, as it stands."""
    if part.shape[0] > grid.shape[0] or part.shape[1] > grid.shape[1]:
        return False
    windows = np.lib.stride_tricks.sliding_window_view(grid, part.shape)
    return bool((windows == part).all((2, 3)).any())
