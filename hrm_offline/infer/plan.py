"""What is to be predicted of a puzzle set, round by round. Never torch: the process that plans has none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import Batch, PuzzleSet

_DIHEDRAL_VIEWS = 8  # at most these keep a task's colours
_VIEWS_A_ROUND = 16  # recoloured ones

# The identity, then the other dihedral views: what every test input should have before any has more.
BASE_ROUNDS = 2


class PredictionPlan:
    """Batches of about `predict_tokens` canvas tokens over the test inputs of a puzzle set.

    `rounds` holds a list of batches each: the identity view of every test input, the other dihedral
    ones, then recoloured ones by the dozen, so that votes grow evenly and stopping between two
    rounds leaves each test input its fair share. `keys` name the test inputs that votes
    count: (task id, index of its test input).
    """

    def __init__(self, puzzles: PuzzleSet, config: AdaptConfig):
        self.puzzles = puzzles
        self.keys = [(task.id, index) for task in puzzles.tasks for index in range(len(task.test))]
        self.buckets = puzzles.buckets(puzzles.tests)
        self.predict_tokens = config.predict_tokens
        most = min(config.vote_views, max(len(views) for views in puzzles.views))
        stops = [0, 1, _DIHEDRAL_VIEWS, *range(_DIHEDRAL_VIEWS + _VIEWS_A_ROUND, most, _VIEWS_A_ROUND), most]
        stops = sorted({min(stop, most) for stop in stops})
        self.rounds = [[batch for index in range(len(self.buckets)) for batch in self._batches(index, range(*span))]
                       for span in pairwise(stops)]

    def _batches(self, index: int, views: range) -> Iterator[Batch]:
        bucket, tests = self.buckets[index], self.puzzles.tests
        puzzles = tests.puzzles[bucket.members]
        first = self.puzzles.first_view[puzzles]
        available = self.puzzles.first_view[puzzles + 1] - first
        plans = [np.column_stack([bucket.members, first + view])[view < available] for view in views]
        plan = np.concatenate(plans)
        plan = np.concatenate([plan, np.zeros_like(plan)], axis=1).astype(np.int32)  # all at the canvas' corner
        size = bucket.batch_size(self.predict_tokens)
        for start in range(0, len(plan), size):
            yield Batch(index, bucket.canvas, plan[start : start + size])


def tokens_of(batch: Batch) -> int:
    """Canvas tokens of a batch, what its time is reckoned by."""
    return len(batch) * batch.canvas[0] * batch.canvas[1]
