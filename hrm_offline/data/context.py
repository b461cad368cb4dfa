"""Few-shot conditioning: which demonstrations stand in a sequence's context."""

from __future__ import annotations

import numpy as np

NO_PAIR = -1


class ContextSource:
    """Demonstrations of each example's own task, without the example itself.

    `owners` int [N] names the puzzle of each example and `own` int [N] its place among all demonstrations, or
    `NO_PAIR`. The demonstrations of puzzle p are those from `first[p]` up to `first[p + 1]`. `pairs` are wanted.
    """

    def __init__(self, owners: np.ndarray, own: np.ndarray, first: np.ndarray, pairs: int):
        self.first, self.count = first[owners], np.diff(first)[owners]
        self.own, self.pairs = own, pairs
        self.most = int(np.diff(first).max())

    def draw(self, rng: np.random.Generator, example: np.ndarray) -> np.ndarray:
        """Demonstrations int64 [B, pairs] for examples [B], in random order; `NO_PAIR` where there are no more."""
        if not self.pairs:
            return np.zeros((len(example), 0), dtype=np.int64)
        place = np.arange(self.most)
        candidate = self.first[example, None] + place
        available = (place < self.count[example, None]) & (candidate != self.own[example, None])
        order = np.where(available, rng.random(candidate.shape), 2.0).argsort(axis=1)[:, : self.pairs]
        chosen = np.where(np.take_along_axis(available, order, 1), np.take_along_axis(candidate, order, 1), NO_PAIR)
        return np.pad(chosen, ((0, 0), (0, self.pairs - chosen.shape[1])), constant_values=NO_PAIR)
