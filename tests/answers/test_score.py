"""Test the score of a submission, and what `score` refuses."""

import json

import numpy as np
import pytest
from ballots import A, B, C, entry

from hrm_offline.answers.score import cells_right, score_attempts, score_files
from hrm_offline.cli import main


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
