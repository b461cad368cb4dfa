"""Deal a decoder's examples into batches, epoch after epoch.

An epoch offers every example once, unless short examples are favoured: then it leaves out some of the long ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Batches whose examples are sorted by length together. More of them waste less where attention pads, and fewer mix the
# tasks better. A batch that was drawn from sequences of one length would often hold one task alone, many times over.
_WINDOW = 8
# An epoch that leaves out examples has so many batches or more, where one with all of them has. In fewer batches long
# and short sequences would stand together.
_LEAST_BATCHES = 4


@dataclass(frozen=True)
class _Stretch:
    """Epochs of one kind.

    `first` is the number of its first batch, and `batches` how many there are in each epoch. An epoch offers each
    example with a chance of `shares`, float [N].
    """

    first: int
    batches: int
    shares: np.ndarray


class Epochs:
    """The batches of some examples.

    A batch depends only on its number, on the arguments of `__init__` and on the calls of `favour_short`. It holds an
    example at most once.
    """

    def __init__(self, examples: np.ndarray, lengths: np.ndarray, tokens: int, seed: int, pool: int = 0):
        """Deal examples, int [N], into batches of about `tokens` tokens. Their `lengths`, int [N], are in tokens.

        Epochs with another `pool`, 0 or more, are dealt in another order.
        """
        self._examples = examples
        self._lengths = lengths
        self._tokens = tokens
        self._seed, self._pool = seed, pool
        self._stretches = [self._stretch(0, np.ones(len(examples)))]
        self._dealt: tuple[int, int, list[np.ndarray]] = (0, -1, [])  # a stretch and an epoch of it, with its batches

    @property
    def batches(self) -> int:
        """Return how many batches an epoch has that offers every example."""
        return self._stretches[0].batches

    def favour_short(self, number: int, full_length: int, power: float) -> None:
        """Deal anew from batch `number` on: examples longer than `full_length` tokens are offered less often.

        An epoch offers an example of L tokens with a chance of (full_length / L) to a `power`, at most 1.
        """
        self._stretches = [self._stretches[0], *(s for s in self._stretches[1:] if s.first < number)]
        self._stretches.append(self._stretch(number, self._shares(full_length, power)))
        self._dealt = (0, -1, [])

    def full_length(self, batches: float, power: float) -> int:
        """Return the length in tokens for `favour_short` with which an epoch has about so many `batches`.

        The result is the length of an example. An epoch has `_LEAST_BATCHES` batches or more, where one with
        all examples has.
        """
        lengths = np.unique(self._lengths)
        tokens = [float((self._shares(length, power) * self._lengths).sum()) for length in lengths.tolist()]
        wanted = self._tokens * max(batches, _LEAST_BATCHES)
        return int(lengths[min(np.searchsorted(tokens, wanted), len(lengths) - 1)])

    def batch(self, number: int) -> np.ndarray:
        """Return the examples of batch `number`, counted from 0 over all epochs."""
        place = max(i for i, stretch in enumerate(self._stretches) if stretch.first <= number)
        stretch = self._stretches[place]
        epoch, index = divmod(number - stretch.first, stretch.batches)
        if self._dealt[:2] != (place, epoch):
            seeds = [self._seed, epoch, 1 + self._pool] + ([place] if place else [])
            self._dealt = (place, epoch, self._deal(np.random.default_rng(seeds), stretch))
        return self._dealt[2][index]

    def _shares(self, full_length: int, power: float) -> np.ndarray:
        """Return the chance of each example to be offered in an epoch, float [N]."""
        return np.minimum(1.0, full_length / self._lengths) ** power

    def _stretch(self, first: int, shares: np.ndarray) -> _Stretch:
        """Return the stretch that begins with batch `first`. No batch of its epochs is empty."""
        batches = min(int(shares.sum()), round(float((shares * self._lengths).sum()) / self._tokens))
        return _Stretch(first, max(1, batches), shares)

    def _deal(self, rng: np.random.Generator, stretch: _Stretch) -> list[np.ndarray]:
        """Return the batches of an epoch in random order."""
        windows = -(-stretch.batches // _WINDOW)
        offered = rng.permutation(len(self._examples))
        if stretch is not self._stretches[0]:
            offered = _drawn(rng, offered, stretch.shares)
        shuffled = np.array_split(offered, windows)
        counts = [len(part) for part in np.array_split(np.arange(stretch.batches), windows)]
        batches = [batch for window, count in zip(shuffled, counts) for batch in self._cut(window, count)]
        # Each batch is shuffled too, since several processes share a batch by slices.
        return [self._examples[rng.permutation(batches[index])] for index in rng.permutation(stretch.batches)]

    def _cut(self, window: np.ndarray, count: int) -> list[np.ndarray]:
        """Sort examples by length, and cut them into `count` batches of near-equal tokens, none of them empty."""
        window = window[np.argsort(self._lengths[window], kind="stable")]
        ends = np.cumsum(self._lengths[window])
        middles = ends - self._lengths[window] / 2
        place = np.arange(1, count)
        cuts = np.searchsorted(middles, ends[-1] * place / count)
        cuts = np.maximum.accumulate(cuts - place).clip(0) + place
        return np.split(window, np.minimum(cuts, len(window) - count + place))


def _drawn(rng: np.random.Generator, order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Draw indices from `order`, each with the chance that `shares` gives it. Their number is fixed to within one.

    A ruler with marks at whole numbers, at a random place, lies along the cumulative shares. An index is drawn where
    its share holds a mark (systematic sampling).
    """
    marks = np.floor(np.concatenate([[0.0], np.cumsum(shares[order])]) + rng.random())
    return order[np.diff(marks) > 0]
