"""Voting over predicted grids: by count, then by mean halting confidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Vote:
    """One predicted grid, de-augmented, and the halting head's confidence in it, 0 to 1."""

    grid: np.ndarray
    confidence: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """A distinct grid with its number of votes and their mean confidence."""

    grid: np.ndarray
    count: int
    confidence: float


def rank(votes: Iterable[Vote]) -> list[Candidate]:
    """Distinct grids, best first. Ties in count and confidence keep first-seen order."""
    pools: dict[tuple, list[Vote]] = {}
    for vote in votes:
        pools.setdefault((vote.grid.shape, vote.grid.tobytes()), []).append(vote)
    candidates = [Candidate(p[0].grid, len(p), sum(v.confidence for v in p) / len(p)) for p in pools.values()]
    return sorted(candidates, key=lambda c: (c.count, c.confidence), reverse=True)


def choose_attempts(ranking: list[Candidate]) -> list[np.ndarray]:
    """The two best grids, or as many as there are. An empty grid is never an attempt."""
    return [c.grid for c in ranking if c.grid.size][:2]
