"""Deal a decoder's examples into batches, epoch after epoch. Each epoch offers every example once."""

from __future__ import annotations

import numpy as np

# Batches whose examples are sorted by length together. More of them waste less where attention pads, and fewer mix the
# tasks better. A batch that was drawn from sequences of one length would often hold one task alone, many times over.
_WINDOW = 8


class Epochs:
    """The batches of some examples.

    `batches` is their number in each epoch. A batch depends only on its number and on the arguments of `__init__`. It
    holds an example at most once.
    """

    def __init__(self, examples: np.ndarray, lengths: np.ndarray, tokens: int, seed: int, pool: int = 0):
        """Deal examples, int [N], into batches of about `tokens` tokens. Their `lengths`, int [N], are in tokens.

        Epochs with another `pool`, 0 or more, are dealt in another order.
        """
        self.batches = min(len(examples), max(1, round(lengths.sum() / tokens)))
        self._examples = examples
        self._lengths = lengths
        self._seed, self._pool = seed, pool
        self._dealt: tuple[int, list[np.ndarray]] = (-1, [])  # the last epoch, with its batches

    def batch(self, number: int) -> np.ndarray:
        """Return the examples of batch `number`, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.batches)
        if self._dealt[0] != epoch:
            self._dealt = (epoch, self._deal(np.random.default_rng([self._seed, epoch, 1 + self._pool])))
        return self._dealt[1][place]

    def _deal(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the batches of an epoch in random order."""
        windows = -(-self.batches // _WINDOW)
        shuffled = np.array_split(rng.permutation(len(self._examples)), windows)
        counts = [len(part) for part in np.array_split(np.arange(self.batches), windows)]
        batches = [batch for window, count in zip(shuffled, counts) for batch in self._cut(window, count)]
        # Each batch is shuffled too, since several processes share a batch by slices.
        return [self._examples[rng.permutation(batches[index])] for index in rng.permutation(self.batches)]

    def _cut(self, window: np.ndarray, count: int) -> list[np.ndarray]:
        """Sort examples by length, and cut them into `count` batches of near-equal tokens, none of them empty."""
        window = window[np.argsort(self._lengths[window], kind="stable")]
        ends = np.cumsum(self._lengths[window])
        middles = ends - self._lengths[window] / 2
        place = np.arange(1, count)
        cuts = np.searchsorted(middles, ends[-1] * place / count)
        cuts = np.maximum.accumulate(cuts - place).clip(0) + place
        return np.split(window, np.minimum(cuts, len(window) - count + place))
