"""How large a canvas an example gets: a rule that reads demonstrations and never a test output.

Small canvases are what makes learning cheap: the mean task would fill 200 to 360 of the published
30 x 30 cells. The same rule serves demonstrations and test inputs, so the room on a canvas tells
the network no more about an output at training than it does at prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hrm_offline.common.tokens import Canvas
from hrm_offline.data.tasks import MAX_SIDE, Pair, Task

# Few sides, so that whatever is prepared for a shape (rotary cosines, compiled kernels, CUDA graphs) is reused.
SIDES = (3, 5, 7, 10, 12, 14, 16, 18, 20, 23, 26, MAX_SIDE)
_UNRULY_NUMERATOR, _UNRULY_DENOMINATOR = 3, 2


def needed_room(task: Task, pair: Pair, with_output: bool) -> tuple[int, int]:
    """Rows and columns of the rectangle, each one of `SIDES`, that should hold a pair's grids.

    Along each axis it holds the input and what the demonstrations say of the output's length:
    where every output is its input times one factor, or plus one length, or of one length, the
    largest that these rules foresee; where no rule holds, or only one demonstration is there to
    show it, half more than the largest demonstrated output and, if all grow, the input times the
    largest factor plus one. `with_output` says that the pair's output may be looked at: it is held too.
    """
    rows, cols = (_needed_length(task, pair.input.shape[axis], axis) for axis in (0, 1))
    if with_output:
        rows, cols = max(rows, pair.output.shape[0]), max(cols, pair.output.shape[1])
    return _round_up(rows), _round_up(cols)


def _needed_length(task: Task, length: int, axis: int) -> int:
    lengths = _demonstrated_lengths(task, axis)
    factors = {after / before for before, after in lengths}
    gains = {after - before for before, after in lengths}
    outputs = {after for _, after in lengths}
    foreseen = []
    if len(factors) == 1:
        foreseen.append(round(length * max(factors)))
    if len(gains) == 1:
        foreseen.append(length + max(gains))
    if len(outputs) == 1:
        foreseen.append(max(outputs))
    if not foreseen or len(task.train) == 1:
        foreseen.append(-(-max(outputs) * _UNRULY_NUMERATOR // _UNRULY_DENOMINATOR))
        if min(factors) > 1:
            foreseen.append(round(length * (max(factors) + 1)))
    return min(MAX_SIDE, max(length, *foreseen))


@lru_cache(maxsize=2)  # both axes of the task at hand, whose pairs are asked for one after another
def _demonstrated_lengths(task: Task, axis: int) -> frozenset[tuple[int, int]]:
    """The distinct lengths of demonstrated inputs and their outputs."""
    return frozenset((pair.input.shape[axis], pair.output.shape[axis]) for pair in task.train)


def _round_up(length: int) -> int:
    return min(side for side in SIDES if side >= length)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Examples that share a canvas: `members` int64 [N] by index, of their list."""

    canvas: Canvas
    members: np.ndarray

    @property
    def area(self) -> int:
        return self.canvas[0] * self.canvas[1]

    def batch_size(self, tokens: int) -> int:
        """Examples that fit in `tokens` canvas tokens; one at the least."""
        return max(1, tokens // self.area)


def make_buckets(rooms: np.ndarray, canvas: str, largest: Canvas) -> list[Bucket]:
    """Each example in exactly one bucket: all on the `largest` canvas ("full"), or each on the
    smallest square that holds its room [N, 2] whichever way it is turned, and the EOS edge
    ("tight"). At most one bucket for each of `SIDES`, smallest first."""
    if canvas == "full":
        return [Bucket(largest, np.arange(len(rooms)))]
    sides = rooms.max(axis=1)
    return [
        Bucket((min(side + 1, largest[0]), min(side + 1, largest[1])), np.flatnonzero(sides == side))
        for side in np.unique(sides).tolist()
    ]
