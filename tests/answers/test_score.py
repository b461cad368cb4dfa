import json

import numpy as np
import pytest

from hrm_offline.answers.score import cells_right, score_attempts, score_files
from hrm_offline.answers.submission import build_submission, fallback_submission
from hrm_offline.answers.vote import Vote, Votes, choose_attempts, rank
from hrm_offline.cli import main
from hrm_offline.data.tasks import BadTask, Pair, Task, TaskSet


def grid(*rows):
    return np.array(rows, dtype=np.uint8)


A, B, C, EMPTY = grid([1]), grid([2, 2]), grid([3], [3]), np.zeros((0, 0), dtype=np.uint8)


def entry(first, second):
    return {"attempt_1": first.tolist(), "attempt_2": second.tolist()}


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


def task(outputs, tests=(A,)):
    return Task("t", tuple(Pair(A, output) for output in outputs), tuple(Pair(test, None) for test in tests))


def test_fallback_is_the_two_commonest_outputs_else_the_input():
    fallback = fallback_submission(TaskSet("x", (task([B, C, C, A]),), (BadTask("bad", "why", 2),)))
    assert fallback["t"] == [entry(C, B)]
    assert fallback["bad"] == [entry(grid([0]), grid([0]))] * 2
    assert fallback_submission(TaskSet("x", (task([B, B], tests=(C, B)),)))["t"] == [entry(B, C), entry(B, B)]


def pool(*votes):
    """The votes of one test input, as prediction counts them: a batch at a time."""
    side = max(max(g.shape) for g, _ in votes)
    cells = np.zeros((len(votes), side, side), dtype=np.uint8)
    for cell, (g, _) in zip(cells, votes):
        cell[: g.shape[0], : g.shape[1]] = g
    pools = {}
    Votes(
        np.full(len(votes), 7, dtype=np.int32),
        np.array([g.shape for g, _ in votes], dtype=np.int32),
        cells,
        np.array([confidence for _, confidence in votes]),
    ).add_to(pools)
    return pools[7]


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


def test_votes_replace_the_fallback_with_two_different_attempts():
    fallback = fallback_submission(TaskSet("x", (task([A, B], tests=(A, A, A, A)),)))
    submission = build_submission(
        fallback,
        {
            ("t", 0): pool((C, 0.5), (C, 0.5), (B, 0.9)),
            ("t", 1): pool((C, 0.5)),
            ("t", 2): pool((A, 0.5)),
        },
    )
    assert submission["t"] == [entry(C, B), entry(C, A), entry(A, B), entry(A, B)]
    assert build_submission(fallback, {("t", 0): pool((EMPTY, 1.0))}) == fallback


@pytest.fixture
def files(write_json):
    """Write a submission and solutions for tasks a (two tests) and b."""

    def write(submission):
        solutions = {"a": [A.tolist(), B.tolist()], "b": [C.tolist()]}
        return str(write_json("sub.json", submission)), str(write_json("sol.json", solutions))

    return write


GOOD = {"a": [entry(A, C), entry(C, B)], "b": [entry(A, B)]}


def test_score_by_output_and_by_task(files, capsys, tmp_path):
    score = score_files(*files(GOOD))
    assert (score.per_output(1), score.per_output(2)) == (1 / 3, 2 / 3)
    assert (score.per_task(1), score.per_task(2)) == (1 / 4, 1 / 2)
    assert score.solved == ["a"]
    assert main(["score", *files(GOOD), "--json", str(tmp_path / "s.json")]) == 0
    assert "pass@2 66.67% of 3 test outputs" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["solved"] == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": None}, ["task b", "found NoneType"]),
        ({"a": GOOD["a"][:1]}, ["task a", "expected 2 entries"]),
        ({"b": [{"attempt_1": [[1]]}]}, ["task b", "attempt_2"]),
        ({"b": [{"attempt_1": [[1]], "attempt_2": [[10]]}]}, ["task b", "attempt_2", "10"]),
        ({"b": [{"attempt_1": [], "attempt_2": [[1]]}]}, ["task b", "attempt_1"]),
        ({"b": [[]]}, ["task b", "attempt_1"]),
        ({"z": []}, ["task z"]),
    ],
)
def test_an_invalid_submission_is_refused_by_task_and_reason(files, capsys, change, words):
    assert main(["score", *files(GOOD | change)]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert all(word in line for word in words)


def test_a_missing_task_is_refused(files, capsys):
    assert main(["score", *files({"a": GOOD["a"]})]) == 2
    assert "task b: is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "truth", "share"),
    [
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], 1.0),
        ([[1, 2], [3, 5]], [[1, 2], [3, 4]], 0.75),
        ([[1, 2]], [[1, 2], [3, 4]], 0.5),  # rows are missing
        ([[1, 2], [3, 4]], [[1, 2]], 0.5),  # rows too many count as wrong
        ([[1, 2]], [[1], [2]], 0.25),  # they overlap in one cell of the 2 x 2 that holds both
        ([[7]], [[1, 2], [3, 4]], 0.0),
    ],
)
def test_the_share_of_cells_that_are_right(grid, truth, share):
    assert cells_right(np.array(grid), np.array(truth)) == share


def test_the_better_attempt_counts_for_cells_and_outputs_are_averaged():
    truths = [np.array([[1, 2]]), np.array([[3, 4]])]
    attempts = [[np.array([[1, 0]]), np.array([[1, 2]])], [np.array([[3, 0]]), np.array([[0, 0]])]]
    [task] = score_attempts({"t": attempts}, {"t": truths}).tasks
    assert task.cells == (1.0 + 0.5) / 2
