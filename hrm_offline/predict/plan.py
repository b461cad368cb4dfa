"""Plan which test inputs are predicted in which views, round by round. The process that plans has no torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from hrm_offline.answers.vote import TestKey
from hrm_offline.common.tokens import COLOURS, Canvas
from hrm_offline.config import AdaptConfig
from hrm_offline.data.canvas import Bucket, output_lengths
from hrm_offline.data.grids import symmetries
from hrm_offline.data.puzzles import Batch, PuzzleSet

_DIHEDRAL_VIEWS = 8  # at most so many views keep a task's colours
_VIEWS_PER_ROUND = 16  # recoloured views

# The identity, then the other dihedral views: every test input should have these before any has more.
BASE_ROUNDS = 2
# A search has so many rounds at most. What each has found is judged before the next one begins, so that a search for
# which there is no time to its end is not in vain.
_SEARCH_ROUNDS = 8

# A step of a decoder costs as much as so many rows more, however many it has, and reading a token of the prompt costs
# such a share of writing one. On one core of a CPU 1 to 32 rows of `decoder-170k`, with canvases of 614 and 770 tokens
# and outputs of half of them, took this cost x 0.25 ms, to a tenth. A step on a GPU costs more rows
# (see `PredictionPlan.fit_rows_per_step`).
ROWS_PER_STEP, READING = 15.0, 0.05
# Assumed for a GPU until they are measured: an H200 wrote some 500 tokens of `decoder-2m` one after another per
# second, and reading the cache of another row takes a memory of 300 GB/s some 10 microseconds.
GPU_ROWS_PER_STEP, _MOST_ROWS_PER_STEP = 200.0, 4096.0


class PredictionPlan:
    """Batches of about `predict_tokens` canvas tokens over the test inputs of a puzzle set.

    `rounds` is a list of rounds, each a list of batches. The first round is the identity view of every test input,
    the second the other dihedral views, and the rest recoloured views, 16 at a time. So votes grow evenly, and
    stopping between two rounds leaves each test input its fair share. With translation the views then come once more,
    each placed somewhere on its canvas that leaves the room an answer needs; a decoder has no canvas to move on. Last,
    a decoder may search for further grids in the first eight views that vote, plain ones first. That takes several
    rounds, short sequences first, in which all views of a test input stand together. The canvas of their batches has a
    row for each grid that is decoded per view.

    `judging_points` are the numbers of complete rounds after which candidates are judged.

    `rows_per_step` says how many rows cost as much as a decoder's step does however many it has.

    `keys` names the test inputs: a vote for test input i is for `keys[i]`.
    """

    def __init__(self, puzzles: PuzzleSet, recipe: AdaptConfig, rows_per_step: float = ROWS_PER_STEP):
        self.puzzles, self.rows_per_step = puzzles, rows_per_step
        self.keys: list[TestKey] = [(task.id, index) for task in puzzles.tasks for index in range(len(task.test))]
        self.buckets = puzzles.buckets(puzzles.tests)
        self.predict_tokens = recipe.predict_tokens // puzzles.canvases
        self._contexts = puzzles.contexts(puzzles.tests)
        self._translates = "translation" in recipe.vote_augmentations and not puzzles.is_for_decoder
        self._find_voters(recipe)
        self.rounds = [
            [batch for index in range(len(self.buckets)) for batch in self._batches(index, ranks)]
            for ranks in self._ranks_by_round(recipe.vote_views)
        ]
        self.judging_points = {min(BASE_ROUNDS, len(self.rounds)), len(self.rounds)}
        if puzzles.is_for_decoder and recipe.search_branches:
            self.buckets = [self._for_search(bucket, recipe.search_branches) for bucket in self.buckets]
            ranks = range(min(_DIHEDRAL_VIEWS, recipe.vote_views))
            batches = [b for index in range(len(self.buckets)) for b in self._batches(index, ranks, by_test=True)]
            # By number, since costs are measured later on some devices, and all processes need the same rounds.
            size = max(1, -(-len(batches) // _SEARCH_ROUNDS))
            for start in range(0, len(batches), size):
                self.rounds.append(batches[start : start + size])
                self.judging_points.add(len(self.rounds))

    def cost_of(self, batch: Batch) -> int:
        """Return the cost of predicting a batch, by which its time is reckoned.

        The cost is the number of canvas tokens, and for a decoder the number of tokens to be written, with a fixed cost
        per step and a small one per token that is read.
        """
        if not self.puzzles.is_for_decoder:
            return tokens_of(batch)
        rows = batch.canvas[0] * len(batch)
        return round(self.rows_per_step * self._steps_of(batch) + rows * self._cost_per_row(batch))

    def fit_rows_per_step(self, few: Batch, few_seconds: float, many: Batch, many_seconds: float) -> float:
        """Return the `rows_per_step` by which the costs of two decoder's batches of one kind fit their seconds.

        Where more rows take no more time, it is the most that is believed.
        """
        more = (many.canvas[0] * len(many) - few.canvas[0] * len(few)) * self._cost_per_row(many)
        per_cost = (many_seconds - few_seconds) / max(1.0, more)
        if per_cost <= 0.0:
            return _MOST_ROWS_PER_STEP
        fixed = few_seconds / per_cost - few.canvas[0] * len(few) * self._cost_per_row(few)
        return min(_MOST_ROWS_PER_STEP, max(1.0, fixed / max(1, self._steps_of(few))))

    def _steps_of(self, batch: Batch) -> int:
        """Return how many tokens a decoder writes one after another at most for a batch."""
        return int(output_lengths(self.puzzles.tests.rooms[batch.examples]).max(initial=0))

    def _cost_per_row(self, batch: Batch) -> float:
        return self._steps_of(batch) + READING * batch.canvas[1]

    def _for_search(self, bucket: Bucket, branches: int) -> Bucket:
        """Return a bucket for sequences that each write `branches` grids beside the greedy one."""
        return Bucket((1 + branches, bucket.canvas[1]), bucket.members)

    def _find_voters(self, recipe: AdaptConfig) -> None:
        """Find the views that vote, counted over all puzzles: those of puzzle p from `_first_voter[p]` on."""
        views, kinds = self.puzzles.all_views, recipe.vote_augmentations
        votes = np.isin(views.elements, symmetries("rotations" in kinds, "flips" in kinds))
        if "colours" not in kinds:
            votes &= (views.colours == np.arange(COLOURS)).all(1)
        self._voters = np.flatnonzero(votes)
        self._first_voter = np.concatenate([[0], np.cumsum(votes)])[self.puzzles.first_view]

    def _ranks_by_round(self, most: int) -> list[range]:
        """Return for each round which of its voting views a test input gets, by rank; at most `most` in all."""
        views = int(np.diff(self._first_voter).max())  # of the puzzle that has most
        most = min(most, 2 * views if self._translates else views)
        recoloured = range(_DIHEDRAL_VIEWS, most, _VIEWS_PER_ROUND)
        starts = {start for start in (0, 1, *recoloured) if start < most}
        return [range(*span) for span in pairwise([*sorted(starts), most])]

    def _batches(self, index: int, ranks: range, by_test: bool = False) -> Iterator[Batch]:
        """Yield the batches of a round for the test inputs of bucket `index`, view by view, or test by test."""
        bucket = self.buckets[index]
        puzzles = self.puzzles.tests.puzzles[bucket.members]
        first = self._first_voter[puzzles]
        available = self._first_voter[puzzles + 1] - first
        rng = np.random.default_rng([self.puzzles.seed, index, ranks.start])
        parts = []
        for rank in ranks:
            # A rank beyond a puzzle's views is one of its views for the second time, then somewhere else.
            times, place = np.divmod(rank, available)
            is_there = times <= int(self._translates)
            examples, views = bucket.members[is_there], self._voters[(first + place)[is_there]]
            is_second = times[is_there] > 0
            corners = np.where(is_second[:, None], self._corners(rng, examples, views, bucket.canvas), 0)
            contexts = self._contexts.draw(rng, examples)
            # A second time at the corner (0, 0) would only repeat the first.
            is_new = ~is_second | corners.any(1)
            parts.append(Batch.of(index, bucket.canvas, examples, views, corners, contexts).rows(is_new))
        whole, size = Batch.joined(parts), bucket.batch_size(self.predict_tokens)
        if by_test:
            whole = whole.rows(np.argsort(whole.examples, kind="stable"))
        for start in range(0, len(whole), size):
            yield whole.rows(slice(start, start + size))

    def _corners(self, rng: np.random.Generator, examples: np.ndarray, views: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Draw a corner [B, 2] for each example that leaves the rows and columns it needs, turned as its view is."""
        rooms = self.puzzles.tests.rooms[examples]
        return rng.integers(0, self.puzzles.last_corners(rooms, views, canvas) + 1)


def tokens_of(batch: Batch) -> int:
    """Return the canvas tokens of a batch."""
    return len(batch) * batch.canvas[0] * batch.canvas[1]
