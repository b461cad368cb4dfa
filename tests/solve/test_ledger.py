"""Test the answers that a run knows so far, and the file that they are kept in."""

import json

import numpy as np
import pytest
from ballots import A, B, C, D, entry

from hrm_offline.answers.candidates import Outside
from hrm_offline.answers.vote import Candidate, Votes
from hrm_offline.solve.ledger import INDUCTION, NETWORK, Ledger
from hrm_offline.solve.ledger import test_keys as keys_of

FALLBACK = {"a": [entry(A, B)], "b": [entry(A, B)]}


def votes_for(test, grid, count=1):
    """Return the votes of one batch: `count` times a grid for the test input of that number."""
    cells = np.zeros((count, 3, 3), np.uint8)
    cells[:, : grid.shape[0], : grid.shape[1]] = grid
    sides = np.tile(np.array(grid.shape, np.int32), (count, 1))
    return Votes(np.full(count, test, np.int32), sides, cells, np.full(count, 0.5))


@pytest.fixture
def ledger(tmp_path):
    """Return a ledger of two tasks in one group. The test fails if the ledger reports a problem."""
    ledger = Ledger(FALLBACK, tmp_path / "submission.json", say=pytest.fail)
    ledger.reset([[("a", 0), ("b", 0)]])
    return ledger


def test_test_inputs_are_counted_in_the_order_of_the_groups_tasks(make_task):
    tasks = (make_task("a", test=[((3, 3), (3, 3))] * 2), make_task("b"), make_task("c"))
    assert keys_of(tasks, (2, 0)) == [("c", 0), ("a", 0), ("a", 1)]


def test_a_batch_that_is_predicted_twice_counts_once(ledger):
    assert ledger.submission() == FALLBACK
    ledger.add((0, 0, 0), votes_for(1, C))
    ledger.add((0, 0, 0), votes_for(1, C))
    ledger.add((0, 0, 1), votes_for(1, B, count=2))
    [(key, pool)] = ledger.votes().items()
    assert (key, pool.count) == (("b", 0), 3)
    assert ledger.submission() == {"a": FALLBACK["a"], "b": [entry(B, C)]}
    ledger.reset([[("b", 0)], [("a", 0)]])  # other groups, so the numbers mean other test inputs
    assert ledger.votes() == {}


def test_the_file_is_written_when_there_is_news_and_some_seconds_have_passed(ledger):
    now = [100.0]
    ledger.clock = lambda: now[0]
    ledger.write()
    assert json.loads(ledger.path.read_text()) == FALLBACK
    ledger.add((0, 0, 0), votes_for(0, C))
    ledger.write_if_due()
    assert json.loads(ledger.path.read_text()) == FALLBACK
    now[0] += 60
    ledger.write_if_due()
    assert json.loads(ledger.path.read_text()) == ledger.submission() != FALLBACK
    ledger.path.unlink()
    now[0] += 60
    ledger.write_if_due()  # nothing is new
    assert not ledger.path.exists()


def test_the_file_stays_while_the_votes_of_an_earlier_run_come_back(ledger):
    ledger.add((0, 0, 0), votes_for(0, C))
    ledger.write()
    before = ledger.path.read_text()
    with ledger.unwritten():
        ledger.reset([[("b", 0)], [("a", 0)]])
        ledger.write()  # as a watchdog does
        assert ledger.path.read_text() == before
        ledger.add((1, 0, 0), votes_for(0, B))
    ledger.write()
    assert ledger.path.read_text() != before


def test_a_disk_that_is_full_leaves_the_last_file(ledger, limit_file_size):
    ledger.write()
    said = []
    ledger.say = said.append
    ledger.add((0, 0, 0), votes_for(0, C))
    with limit_file_size(10):
        ledger.write()
    assert json.loads(ledger.path.read_text()) == FALLBACK
    assert ["keeps its last state" in line for line in said] == [True]


def test_all_networks_on_the_same_tasks_vote_and_judge_together(ledger):
    """Count under number 1 the votes of a second network on the tasks of number 0."""
    ledger.add((0, 0, 0), votes_for(0, A))
    ledger.add((1, 0, 0), votes_for(0, B, count=2))
    key = ledger.keys[0][0]
    assert [c.count for c in ledger.votes()[key].ranking()] == [2, 1]
    assert len(ledger.unjudged(0)) == len(ledger.unjudged(1)) == 2
    ledger.add_scores(0, Votes.of_grids(np.array([0]), [A], np.array([-1.0])))
    assert [grid.tolist() for _, grid in ledger.unjudged(0)] == [B.tolist()]
    assert len(ledger.unjudged(1)) == 2
    ledger.add_scores(1, Votes.of_grids(np.array([0, 0]), [A, B], np.array([-9.0, -4.0])))
    scores = {c.grid.tobytes(): c.score for c in ledger.votes()[key].ranking()}
    assert scores == {A.tobytes(): -5.0, B.tobytes(): -2.5}  # the first network has not judged B: its worst counts


def test_the_best_program_has_an_attempt_and_the_network_keeps_the_other(ledger):
    ledger.add((0, 0, 0), votes_for(0, C, count=9))
    ledger.add((0, 0, 1), votes_for(0, B, count=2))
    alone = ledger.submission()
    ledger.add_induced("a", [[Candidate(D, 0.1, 1.0), Candidate(A, 0.01, 1.0)]])
    ledger.add_induced("b", [[Candidate(C, 1.0, 1.0)]])
    assert ledger.submission() == {"a": [entry(D, C)], "b": [entry(C, A)]}
    assert ledger.alone() == {NETWORK: alone, INDUCTION: {"a": [entry(D, A)], "b": [entry(C, A)]}}
    assert ledger.origins() == {"a": [["induction", "network"]], "b": [["induction", "fallback"]]}
    ledger.add_induced("a", [[Candidate(C, 0.1, 1.0)]])  # the two agree
    assert ledger.origins()["a"] == [["network and induction", "network"]]


def test_induced_candidates_are_not_judged_and_others_are(ledger):
    ledger.outside = Outside({("b", 0): [([Candidate(A, 1, 1.0)], 1.0)]})
    ledger.add((0, 0, 0), votes_for(0, C))
    ledger.add_induced("a", [[Candidate(D, 1, 1.0)]])
    assert [(test, grid.tolist()) for test, grid in ledger.unjudged(0)] == [(0, C.tolist()), (1, A.tolist())]
    assert ledger.origins()["b"][0][0] == "elsewhere"
