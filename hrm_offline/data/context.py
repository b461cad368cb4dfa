"""Few-shot conditioning: which demonstrations stand in a sequence's context."""

from __future__ import annotations

import numpy as np

NO_PAIR = -1


class ContextSource:
    """Draws demonstrations of each example's own task, never the example itself.

    owners int [N]: the puzzle of each example.
    own int [N]: the index of each example among all demonstrations, or `NO_PAIR` where it is none of them.
    first int [puzzles + 1]: the demonstrations of puzzle p are those from `first[p]` up to `first[p + 1]`.
    pairs: how many demonstrations a context holds.
    """

    def __init__(self, owners: np.ndarray, own: np.ndarray, first: np.ndarray, pairs: int):
        counts = np.diff(first)
        self.first, self.count = first[owners], counts[owners]
        self.own, self.pairs = own, pairs
        self.most = int(counts.max())

    def draw(self, rng: np.random.Generator, example: np.ndarray) -> np.ndarray:
        """Return demonstrations int64 [B, pairs] for examples [B], in random order.

        `NO_PAIR` stands at the end where a task has too few demonstrations.
        """
        if not self.pairs:
            return np.zeros((len(example), 0), dtype=np.int64)
        place = np.arange(self.most)
        candidate = self.first[example, None] + place  # [B, most]
        available = (place < self.count[example, None]) & (candidate != self.own[example, None])
        # Sorting random keys shuffles. The key 2.0, beyond all of them, puts what is not available last.
        key = np.where(available, rng.random(candidate.shape), 2.0)
        order = key.argsort(axis=1)[:, : self.pairs]
        is_drawn = np.take_along_axis(available, order, 1)
        chosen = np.where(is_drawn, np.take_along_axis(candidate, order, 1), NO_PAIR)
        short = self.pairs - chosen.shape[1]
        return np.pad(chosen, ((0, 0), (0, short)), constant_values=NO_PAIR)
