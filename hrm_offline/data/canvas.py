"""How large a canvas, or how long a sequence, an example gets: by a rule that never reads a test output.

Small canvases make learning cheap: the mean task needs 200 to 360 of the published canvas' 900 cells. One rule serves
demonstrations and test inputs. So the room on a canvas tells the network no more about an output in training than it
does in prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hrm_offline.common.tokens import Canvas
from hrm_offline.data.tasks import MAX_SIDE, Pair, Task

# Few sides, so that whatever is prepared for a shape (rotary cosines, compiled kernels, CUDA graphs) is reused.
SIDES = (3, 5, 7, 10, 12, 14, 16, 18, 20, 23, 26, MAX_SIDE)
# Near-equal lengths together waste little where attention pads, and leave few buckets.
_LENGTH_RATIO = 1.25
# How much longer than all demonstrated outputs an output may be where no rule says how long it is: half more.
_UNRULY_NUMERATOR, _UNRULY_DENOMINATOR = 3, 2


def needed_room(task: Task, pair: Pair, with_output: bool) -> tuple[int, int]:
    """Return the rows and the columns, each one of `SIDES`, of the rectangle that should hold a pair's grids.

    The rectangle holds the input, and an output as long as the demonstrations let one expect (see
    `expected_output`). With `with_output` the pair's own output may be looked at, and is held too.
    """
    expected = expected_output(task, pair)
    rows, cols = (max(pair.input.shape[axis], expected[axis]) for axis in (0, 1))
    if with_output:
        rows, cols = max(rows, pair.output.shape[0]), max(cols, pair.output.shape[1])
    return _round_up(rows), _round_up(cols)


def expected_output(task: Task, pair: Pair) -> tuple[int, int]:
    """Return the rows and columns that hold the output to expect of a pair, which is not looked at."""
    return _expected_length(task, pair.input.shape[0], 0), _expected_length(task, pair.input.shape[1], 1)


def _expected_length(task: Task, length: int, axis: int) -> int:
    """Return the length along an axis that holds the output to expect for an input of this length.

    Three rules are held against the demonstrations: all outputs are their inputs times one factor, are longer by one
    number of cells, or are of one length. The longest output that a rule without exception foresees counts. A rule
    that would leave this input without a cell does not. Where no rule is left, or where a single demonstration is too
    little to show a rule, the output may be half longer than the longest demonstrated one; and where all outputs are
    longer than their inputs, it may be the input times the largest factor plus one.
    """
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
    foreseen = [cells for cells in foreseen if cells > 0]
    if not foreseen or len(task.train) == 1:
        foreseen.append(_divide_up(max(outputs) * _UNRULY_NUMERATOR, _UNRULY_DENOMINATOR))
        if min(factors) > 1:
            foreseen.append(round(length * (max(factors) + 1)))
    return min(MAX_SIDE, max(foreseen))


@lru_cache(maxsize=2)  # both axes of the task at hand, whose pairs are asked for one after another
def _demonstrated_lengths(task: Task, axis: int) -> frozenset[tuple[int, int]]:
    """Return the distinct pairs (length of an input, length of its output) among the demonstrations."""
    return frozenset((pair.input.shape[axis], pair.output.shape[axis]) for pair in task.train)


def _divide_up(value: int, by: int) -> int:
    return -(-value // by)


def _round_up(length: int) -> int:
    return min(side for side in SIDES if side >= length)


@dataclass(frozen=True, eq=False)
class Bucket:
    """The examples that share a canvas: `members` int64 [N] are indices into the list that was grouped."""

    canvas: Canvas
    members: np.ndarray

    @property
    def area(self) -> int:
        """Cells of the canvas."""
        return self.canvas[0] * self.canvas[1]

    def batch_size(self, tokens: int) -> int:
        """Return how many examples fit into `tokens` canvas tokens, at least 1."""
        return max(1, tokens // self.area)


def make_buckets(rooms: np.ndarray, canvas: str, largest: Canvas) -> list[Bucket]:
    """Group examples by canvas, each into exactly one bucket, the smallest canvas first.

    rooms int [N, 2]: the rows and columns that each example needs. With `canvas` "full" all share the `largest`
    canvas. With "tight" each gets the smallest square that holds its room, whichever way it is turned, and the EOS
    edge. There is at most one bucket for each of `SIDES`.
    """
    if canvas == "full":
        return [Bucket(largest, np.arange(len(rooms)))]
    sides = rooms.max(axis=1)
    buckets = []
    for side in np.unique(sides).tolist():
        square = (min(side + 1, largest[0]), min(side + 1, largest[1]))
        buckets.append(Bucket(square, np.flatnonzero(sides == side)))
    return buckets


def sequence_length(inputs: tuple[int, int], outputs: tuple[int, int]) -> int:
    """Return the tokens of a decoder's sequence for grids of these sides, in the longer of the two orientations.

    Each row of a grid has one token more than cells. START and SEPARATOR stand before the grids, and EOS is not read.
    """
    upright = inputs[0] * (inputs[1] + 1) + outputs[0] * (outputs[1] + 1)
    transposed = inputs[1] * (inputs[0] + 1) + outputs[1] * (outputs[0] + 1)
    return 2 + max(upright, transposed)


def output_lengths(sides: np.ndarray) -> np.ndarray:
    """Return the tokens int64 [N] that a decoder writes for outputs of sides int [N, 2], in the longer orientation.

    EOS is one of them.
    """
    rows, cols = sides.astype(np.int64).T
    return np.maximum(rows * (cols + 1), cols * (rows + 1)) + 1


def make_length_buckets(lengths: np.ndarray) -> list[Bucket]:
    """Group a decoder's sequences by their length, int [N], the shortest first.

    The longest of a bucket has at most `_LENGTH_RATIO` times the tokens of the shortest. A bucket's canvas is a single
    row as long as its longest sequence.
    """
    order = np.argsort(lengths, kind="stable")
    buckets, first = [], 0
    while first < len(order):
        most = _LENGTH_RATIO * lengths[order[first]]
        end = int(np.searchsorted(lengths[order], most, side="right"))
        buckets.append(Bucket((1, int(lengths[order[end - 1]])), np.sort(order[first:end])))
        first = end
    return buckets
