"""Test how votes are counted and ranked."""

import dataclasses

import numpy as np
import pytest
from ballots import EMPTY, A, B, C, grid, pool

from hrm_offline.answers.vote import Candidate, Vote, Votes, choose_attempts, key_of, rank


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


def test_likelihood_decides_between_judged_candidates_and_they_come_before_others():
    ranking = [
        Candidate(C, 9, 0.9),
        Candidate(EMPTY, 8, 0.9, 5.0),
        Candidate(A, 5, 0.9, -30.0),
        Candidate(B, 1, 0.1, -2.0),
    ]
    assert [a.tolist() for a in choose_attempts(ranking)] == [B.tolist(), A.tolist()]
    assert [a.tolist() for a in choose_attempts(ranking[:3])] == [A.tolist(), C.tolist()]


def test_votes_count_beside_likelihood():
    ranking = [Candidate(A, 5, 0.9, -50.0), Candidate(B, 3, 0.9, -45.0), Candidate(C, 0.01, 0.9, -1.0)]
    assert [a.tolist() for a in choose_attempts(ranking)] == [C.tolist(), A.tolist()]
    unsure = [*ranking[:2], Candidate(C, 0.01, 0.9, -60.0)]
    assert [a.tolist() for a in choose_attempts(unsure)] == [A.tolist(), B.tolist()]


def test_a_vote_counts_for_its_weight():
    pools = {}
    votes = Votes.of_grids(np.zeros(3, dtype=int), (A, B, B), np.array([0.5, 0.2, 0.6]))
    dataclasses.replace(votes, weight=np.array([1.0, 0.25, 0.25])).add_to(pools)
    assert [(c.grid.tolist(), c.count, c.confidence) for c in pools[0].ranking()] == [
        (A.tolist(), 1, 0.5),
        (B.tolist(), 0.5, pytest.approx(0.4)),
    ]


def test_a_pool_gives_its_candidates_their_scores():
    counted = pool((A, 0.5), (B, 0.5))
    counted.scores[key_of(B)] = -3.0
    assert [(c.grid.tolist(), c.score) for c in counted.ranking()] == [(A.tolist(), None), (B.tolist(), -3.0)]


def test_votes_of_grids_gives_the_grids_back():
    votes = Votes.of_grids(np.array([4, 2]), (A, C), np.array([-1.0, -2.0]))
    assert [votes.grid(i).tolist() for i in range(2)] == [A.tolist(), C.tolist()]


def test_votes_from_elsewhere_keep_the_first_attempt_and_likelihood_chooses_the_second():
    ranking = [Candidate(C, 9, 0.9, -9.0, elsewhere=9), Candidate(A, 5, 0.9, -60.0), Candidate(B, 1, 0.1, -2.0)]
    assert [a.tolist() for a in choose_attempts(ranking)] == [C.tolist(), B.tolist()]
    outvoted = [Candidate(A, 9, 0.9, -30.0), Candidate(C, 5, 0.9, -40.0, elsewhere=5), Candidate(B, 1, 0.1, -2.0)]
    assert [a.tolist() for a in choose_attempts(outvoted)] == [A.tolist(), B.tolist()]
