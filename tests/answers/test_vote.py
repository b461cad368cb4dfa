"""Test how votes are counted and ranked."""

import numpy as np
import pytest
from ballots import EMPTY, A, B, C, grid, pool

from hrm_offline.answers.vote import Vote, choose_attempts, rank


def test_ranking_by_count_then_confidence_then_order():
    ranking = rank([Vote(A, 0.1), Vote(B, 0.9), Vote(A, 0.2), Vote(C, 0.95), Vote(B, 0.8)])
    assert [c.count for c in ranking] == [2, 2, 1]
    assert np.array_equal(ranking[0].grid, B)
    tied = rank([Vote(C, 0.5), Vote(A, 0.5), Vote(B, 0.5)])
    assert [c.grid.shape for c in tied] == [(2, 1), (1, 1), (1, 2)]


def test_grids_of_equal_bytes_and_different_shape_are_different_candidates():
    assert len(rank([Vote(grid([1, 1]), 0.5), Vote(grid([1], [1]), 0.5)])) == 2


def test_an_empty_prediction_is_never_an_attempt():
    attempts = choose_attempts(rank([Vote(EMPTY, 1.0)] * 5 + [Vote(A, 0.1), Vote(B, 0.0)]))
    assert [a.tolist() for a in attempts] == [A.tolist(), B.tolist()]


def test_counting_a_batch_of_votes_equals_counting_them_one_by_one():
    rng = np.random.default_rng(0)
    votes = [
        (grid(*rng.integers(0, 2, size=rng.integers(1, 3, size=2)).tolist()), float(rng.random())) for _ in range(300)
    ]
    ours, expected = pool(*votes), rank(Vote(g, c) for g, c in votes)
    assert ours.count == 300
    assert [c.count for c in ours.ranking()] == [c.count for c in expected]
    for one, other in zip(ours.ranking(), expected):
        assert np.array_equal(one.grid, other.grid)
        assert one.confidence == pytest.approx(other.confidence)
