"""Votes for predicted grids, and the rule that makes two attempts of them.

The votes for a test input are counted in a `Pool`. `Pool.ranking` orders the distinct grids, the candidates: by count,
then by mean confidence. A decoder also judges candidates: their scores are log-likelihoods, less what is doubtful.
`choose_attempts` is the rule that turns ranking and scores into attempts. For another rule, write a function like it
here and give it to `build_submission`, where `hrm_offline.solve.ledger` calls that.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

TestKey = tuple[str, int]  # task id, index of its test input
BatchKey = tuple[int, int, int]  # group of tasks, round, batch of the round

_ATTEMPTS = 2
_JUDGED = 8  # candidates for a test input, those with most votes
# All votes for a test input weigh as much as so many nats of a candidate's log-likelihood, summed over eight views.
# Chosen on ConceptARC's tasks of ranks 30 to 70 by size: see LOG.md, 2026-11-26.
_VOTES_IN_NATS = 64.0


@dataclass(frozen=True, eq=False)
class Vote:
    """One predicted grid in the task's own orientation and colours, with the halting head's confidence, 0 to 1."""

    grid: np.ndarray
    confidence: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """A grid that may be the answer: its number of votes and their mean confidence.

    `count` need not be whole, because votes from elsewhere are weighted, and doubted votes count less. `elsewhere` is
    the part of `count` that came from elsewhere. `score` is what a decoder found when it judged the grid (see
    `DecoderPredictor.judge`), or None where none has.
    """

    grid: np.ndarray
    count: float
    confidence: float
    score: float | None = None
    elsewhere: float = 0.0


Rule = Callable[[list[Candidate]], list[np.ndarray]]  # from candidates, best first, to attempts


def key_of(grid: np.ndarray) -> tuple:
    """Return a key that equal grids share."""
    return grid.shape, grid.tobytes()


@dataclass
class Pool:
    """The votes for one test input.

    `sums` holds [grid, count, summed confidence] of each distinct grid, in the order in which they were first seen;
    `count` is the number of all votes. `scores` holds the scores of the grids that were judged, by `key_of`,
    and `elsewhere` how many votes a grid has from elsewhere, likewise.
    """

    sums: dict[tuple, list] = field(default_factory=dict)
    count: float = 0
    scores: dict[tuple, float] = field(default_factory=dict)
    elsewhere: dict[tuple, float] = field(default_factory=dict)

    def add(self, grid: np.ndarray, count: float, confidence: float) -> None:
        """Count `count` votes for a grid; `confidence` is the sum of theirs."""
        entry = self.sums.setdefault(key_of(grid), [grid, 0, 0.0])
        entry[1] += count
        entry[2] += confidence
        self.count += count

    def ranking(self) -> list[Candidate]:
        """Return the candidates, best first: by count, then by mean confidence, then as first seen."""
        candidates = [
            Candidate(grid, count, total / count, self.scores.get(key), self.elsewhere.get(key, 0.0))
            for key, (grid, count, total) in self.sums.items()
        ]
        return sorted(candidates, key=lambda c: (c.count, c.confidence), reverse=True)  # a stable sort

    def take(self, other: Pool) -> None:
        """Count the votes of another pool too."""
        for grid, count, confidence in other.sums.values():
            self.add(grid, count, confidence)

    def unjudged(self, judged: Container[tuple] | None = None) -> list[np.ndarray]:
        """Return the grids that are worth judging, those with most votes or with a score, and are not among `judged`.

        `judged` are the keys of the grids that the network at hand has judged; without, those that have a score.
        """
        judged = self.scores if judged is None else judged
        possible = [candidate for candidate in self.ranking() if candidate.grid.size]
        worth = possible[:_JUDGED] + [c for c in possible[_JUDGED:] if c.score is not None]
        return [candidate.grid for candidate in worth if key_of(candidate.grid) not in judged]


@dataclass(frozen=True, eq=False)
class Votes:
    """The votes of a batch of N sequences.

    tests int [N]: which test input each vote is for.
    sides int32 [N, 2]: rows and columns of its grid.
    cells uint8 [N, M, M]: the grid's cells, with zeros beyond its sides.
    confidence float [N].
    weight float [N]: how many votes it counts for; by default 1.
    """

    tests: np.ndarray
    sides: np.ndarray
    cells: np.ndarray
    confidence: np.ndarray
    weight: np.ndarray = None

    def __post_init__(self):
        if self.weight is None:
            object.__setattr__(self, "weight", np.ones(len(self.tests), dtype=np.float32))

    @classmethod
    def joined(cls, parts: list[Votes]) -> Votes:
        """Return the votes of several parts of one batch, in order."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @classmethod
    def of_grids(cls, tests: np.ndarray, grids: Sequence[np.ndarray], confidence: np.ndarray) -> Votes:
        """Return votes for the given grids."""
        sides = np.array([grid.shape for grid in grids], dtype=np.int32).reshape(-1, 2)
        cells = np.zeros((len(grids), *sides.max(axis=0, initial=1)), dtype=np.uint8)
        for room, grid in zip(cells, grids):
            room[: grid.shape[0], : grid.shape[1]] = grid
        return cls(tests, sides, cells, confidence)

    def __len__(self) -> int:
        return len(self.tests)

    def grid(self, index: int) -> np.ndarray:
        """Return the grid of one vote, uint8 [rows, cols]."""
        rows, cols = self.sides[index]
        return self.cells[index, :rows, :cols]

    def add_to(self, pools: dict[int, Pool]) -> None:
        """Count the votes into the pools of their test inputs; a test input without a pool gets one."""
        if not len(self):
            return
        # Votes are alike where test input, sides and cells are. Side by side as bytes these make one key per vote.
        tests = self.tests[:, None].astype(">i4").view(np.uint8)  # [N, 4]
        cells = self.cells.reshape(len(self), -1)  # [N, M * M]
        rows = np.ascontiguousarray(np.concatenate([tests, self.sides.astype(np.uint8), cells], axis=1))
        keys = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()  # [N]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        count = np.bincount(group, weights=self.weight)
        confidence = np.bincount(group, weights=self.weight * self.confidence)
        for i in np.argsort(first):  # in the order in which the grids are first seen
            vote = first[i]
            pool = pools.setdefault(int(self.tests[vote]), Pool())
            votes = float(count[i])
            pool.add(
                np.ascontiguousarray(self.grid(vote)),
                int(votes) if votes.is_integer() else votes,
                float(confidence[i]),
            )


class Tally:
    """The votes of a run, kept by the batch that gave them.

    So a batch that was predicted twice counts once, and the order in which batches arrive changes nothing.
    """

    def __init__(self):
        self.votes: dict[BatchKey, Votes] = {}

    def add(self, key: BatchKey, votes: Votes) -> None:
        """Keep the votes of a batch, in place of earlier ones of the same batch."""
        self.votes[key] = votes

    def pools(self, group: int) -> dict[int, Pool]:
        """Return the votes of a group of tasks, pooled by the group's test inputs."""
        pools: dict[int, Pool] = {}
        for key in sorted(key for key in self.votes if key[0] == group):
            self.votes[key].add_to(pools)
        return pools


def combine_scores(members: list[dict[tuple, float]]) -> dict[tuple, float]:
    """Return the mean score of each candidate over the networks that judged candidates for one test input.

    A network that has not judged a candidate counts with its lowest score: the candidate came from another network
    later, and was in no view the first choice of this one.
    """
    members = [scores for scores in members if scores]
    worst = [min(scores.values()) for scores in members]
    keys = dict.fromkeys(key for scores in members for key in scores)
    return {key: sum(scores.get(key, least) for scores, least in zip(members, worst)) / len(members) for key in keys}


def rank(votes: Iterable[Vote]) -> list[Candidate]:
    """Return the candidates among votes for one test input, best first (see `Pool.ranking`)."""
    pool = Pool()
    for vote in votes:
        pool.add(vote.grid, 1, vote.confidence)
    return pool.ranking()


def best(ranking: list[Candidate], count: int) -> list[Candidate]:
    """Return the first `count` candidates that can be an answer, or as many as there are. An empty grid never can.

    Judged candidates come first, by score and votes together. The others follow in the order of the ranking. Where
    votes came from elsewhere, the first of the ranking stays first: another program and the network's judgement each
    get an attempt.
    """
    possible = [candidate for candidate in ranking if candidate.grid.size]
    first = possible[:1] if any(candidate.elsewhere for candidate in possible) else []
    rest = possible[len(first) :]
    # The network's own votes alone count here, so that its attempt is the one that it would make alone.
    nats_per_vote = _VOTES_IN_NATS / max(1.0, sum(candidate.count - candidate.elsewhere for candidate in ranking))
    judged = [candidate for candidate in rest if candidate.score is not None]
    judged.sort(key=lambda c: c.score + nats_per_vote * (c.count - c.elsewhere), reverse=True)
    return [*first, *judged, *(c for c in rest if c.score is None)][:count]


def choose_attempts(ranking: list[Candidate]) -> list[np.ndarray]:
    """Return the two best grids of a ranking, or as many as there are.

    Without scores this is the published rule: the grids with most votes. With scores, likelihood and votes decide
    together (see `best`).
    """
    return [candidate.grid for candidate in best(ranking, _ATTEMPTS)]
