"""What is to be predicted of a puzzle set, round by round. Never torch: the process that plans has none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from hrm_offline.common.tokens import COLOURS
from hrm_offline.config import AdaptConfig
from hrm_offline.data.grids import TRANSPOSES, symmetries
from hrm_offline.data.puzzles import Batch, PuzzleSet

_DIHEDRAL_VIEWS = 8  # at most these keep a task's colours
_VIEWS_PER_ROUND = 16  # recoloured ones

# The identity, then the other dihedral views: what every test input should have before any has more.
BASE_ROUNDS = 2


class PredictionPlan:
    """Batches of about `predict_tokens` canvas tokens over the test inputs of a puzzle set.

    `rounds` holds a list of batches each: the identity view of every test input, the other dihedral
    ones, then recoloured ones by the dozen, so that votes grow evenly and stopping between two
    rounds leaves each test input its fair share. `keys` name the test inputs that votes
    count: (task id, index of its test input). With translation the views come once more, each placed
    somewhere on its canvas that leaves the room an answer needs.
    """

    def __init__(self, puzzles: PuzzleSet, config: AdaptConfig):
        self.puzzles = puzzles
        self.keys = [(task.id, index) for task in puzzles.tasks for index in range(len(task.test))]
        self.buckets = puzzles.buckets(puzzles.tests)
        self.predict_tokens = config.predict_tokens // puzzles.canvases
        self._contexts = puzzles.contexts(puzzles.tests)
        self._translates = "translation" in config.vote_augmentations
        self._find_voters(config)
        most = min(config.vote_views, int(np.diff(self._first_voter).max()) * (1 + self._translates))
        stops = [0, 1, _DIHEDRAL_VIEWS, *range(_DIHEDRAL_VIEWS + _VIEWS_PER_ROUND, most, _VIEWS_PER_ROUND), most]
        stops = sorted({min(stop, most) for stop in stops})
        self.rounds = [
            [batch for index in range(len(self.buckets)) for batch in self._batches(index, range(*span))]
            for span in pairwise(stops)
        ]

    def _find_voters(self, config: AdaptConfig) -> None:
        """The views that vote, counted over all puzzles; those of puzzle p from `_first_voter[p]` on."""
        views, kinds = self.puzzles.all_views, config.vote_augmentations
        votes = np.isin(views.elements, symmetries("rotations" in kinds, "flips" in kinds))
        if "colours" not in kinds:
            votes &= (views.colours == np.arange(COLOURS)).all(1)
        self._voters = np.flatnonzero(votes)
        self._first_voter = np.concatenate([[0], np.cumsum(votes)])[self.puzzles.first_view]

    def _batches(self, index: int, ranks: range) -> Iterator[Batch]:
        bucket = self.buckets[index]
        puzzles = self.puzzles.tests.puzzles[bucket.members]
        first = self._first_voter[puzzles]
        available = self._first_voter[puzzles + 1] - first
        rng = np.random.default_rng([self.puzzles.seed, index, ranks.start])
        plans = []
        for rank in ranks:
            times, place = np.divmod(rank, available)  # the second time elsewhere
            there = times <= int(self._translates)
            example, view = bucket.members[there], self._voters[(first + place)[there]]
            corner = np.where(times[there, None], self._corners(rng, example, view, bucket.canvas), 0)
            is_new = (times[there] == 0) | corner.any(1)
            plans.append(np.column_stack([example, view, corner, self._contexts.draw(rng, example)])[is_new])
        plan = np.concatenate(plans).astype(np.int32)
        size = bucket.batch_size(self.predict_tokens)
        for start in range(0, len(plan), size):
            yield Batch(index, bucket.canvas, plan[start : start + size])

    def _corners(self, rng, example: np.ndarray, view: np.ndarray, canvas) -> np.ndarray:
        """A corner [B, 2] for each example that leaves the rows and columns it needs, turned as its view is."""
        rooms = self.puzzles.tests.rooms[example]
        turned = TRANSPOSES[self.puzzles.all_views.elements[view]]
        room = np.maximum(canvas - np.where(turned[:, None], rooms[:, ::-1], rooms), 0)
        return rng.integers(0, room + 1)


def tokens_of(batch: Batch) -> int:
    """Canvas tokens of a batch, what its time is reckoned by."""
    return len(batch) * batch.canvas[0] * batch.canvas[1]
