"""Voting over predicted grids: by count, then by mean halting confidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass(frozen=True, eq=False)
class Vote:
    """One predicted grid, de-augmented, and the halting head's confidence in it, 0 to 1."""

    grid: np.ndarray
    confidence: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """A distinct grid with its number of votes, weighted where they come from elsewhere, and their mean confidence."""

    grid: np.ndarray
    count: float
    confidence: float


@dataclass
class Pool:
    """The votes of one test input: the sum of them by distinct grid, in first-seen order."""

    sums: dict[tuple, list] = field(default_factory=dict)  # grid, count, summed confidence
    count: float = 0

    def add(self, grid: np.ndarray, count: float, confidence: float) -> None:
        """`count` votes for a grid, with their summed confidence."""
        entry = self.sums.setdefault((grid.shape, grid.tobytes()), [grid, 0, 0.0])
        entry[1] += count
        entry[2] += confidence
        self.count += count

    def ranking(self) -> list[Candidate]:
        """Distinct grids, best first. Ties in count and confidence keep first-seen order."""
        candidates = [Candidate(grid, count, total / count) for grid, count, total in self.sums.values()]
        return sorted(candidates, key=lambda c: (c.count, c.confidence), reverse=True)


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes of a batch of sequences: which test input each is for, int [N]; the grid's sides int32
    [N, 2]; its cells uint8 [N, M, M], zero outside the grid; the confidence float [N]."""

    tests: np.ndarray
    sides: np.ndarray
    cells: np.ndarray
    confidence: np.ndarray

    @classmethod
    def joined(cls, parts: list[Votes]) -> Votes:
        """The votes of several parts of one batch, in order."""
        return cls(*(np.concatenate([vars(part)[f.name] for part in parts]) for f in fields(cls)))

    def __len__(self) -> int:
        return len(self.tests)

    def grid(self, index: int) -> np.ndarray:
        rows, cols = self.sides[index]
        return self.cells[index, :rows, :cols]

    def add_to(self, pools: dict[int, Pool]) -> None:
        """Count the votes into the pools of their test inputs."""
        flat = self.cells.reshape(len(self), -1)
        rows = np.concatenate([self.tests[:, None].astype(">i4").view(np.uint8), self.sides.astype(np.uint8), flat], 1)
        whole_rows = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()
        _, first, which = np.unique(whole_rows, return_index=True, return_inverse=True)
        count = np.bincount(which)
        confidence = np.bincount(which, weights=self.confidence)
        for i in np.argsort(first):
            index = first[i]
            pool = pools.setdefault(int(self.tests[index]), Pool())
            pool.add(np.ascontiguousarray(self.grid(index)), int(count[i]), float(confidence[i]))


BatchKey = tuple[int, int, int]  # group of tasks, round, batch of the round


class Tally:
    """The votes of a run by the batch that gave them, so that a batch predicted twice counts once and
    the order in which batches arrive changes nothing."""

    def __init__(self):
        self.votes: dict[BatchKey, Votes] = {}

    def add(self, key: BatchKey, votes: Votes) -> None:
        self.votes[key] = votes

    def pools(self, group: int) -> dict[int, Pool]:
        """The votes of a group of tasks, pooled by its test inputs."""
        pools: dict[int, Pool] = {}
        for key in sorted(key for key in self.votes if key[0] == group):
            self.votes[key].add_to(pools)
        return pools


def rank(votes: Iterable[Vote]) -> list[Candidate]:
    """Distinct grids among votes, best first (see `Pool.ranking`)."""
    pool = Pool()
    for vote in votes:
        pool.add(vote.grid, 1, vote.confidence)
    return pool.ranking()


def best(ranking: list[Candidate], count: int) -> list[Candidate]:
    """The first `count` of a ranking that can be an answer, or as many as there are. An empty grid never can."""
    return [c for c in ranking if c.grid.size][:count]


def choose_attempts(ranking: list[Candidate]) -> list[np.ndarray]:
    """The two best grids, or as many as there are."""
    return [c.grid for c in best(ranking, 2)]
