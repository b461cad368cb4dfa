"""Test the score of a submission, and what `score` refuses."""

import json

import numpy as np
import pytest
from ballots import A, B, C, entry

from hrm_offline.answers.score import cells_right, score_attempts, score_files
from hrm_offline.cli import main
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import to_challenges


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
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Kaggle's score, by test output: pass@2 66.67% of 3 (pass@1 33.33%); by task: pass@2 50.00%")
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["solved"] == ["a"]
    assert next(iter(written.items())) == ("Kaggle's score", 2 / 3)


def test_the_file_for_the_totals_gets_its_folder_or_one_line(files, capsys, tmp_path):
    """Try a missing folder, a folder in place of the file, a file in place of the folder, and a name too long."""
    arguments = ["score", *files(GOOD), "--json"]
    assert main([*arguments, str(tmp_path / "new" / "deep" / "s.json")]) == 0
    assert json.loads((tmp_path / "new" / "deep" / "s.json").read_text())["tasks"] == 2
    for path in (tmp_path, tmp_path / "sub.json" / "s.json", tmp_path / ("x" * 300)):
        capsys.readouterr()
        assert main([*arguments, str(path)]) == 2
        printed = capsys.readouterr()
        assert "Kaggle's score" in printed.out  # which is not lost
        assert printed.err.count("\n") == 1 and str(tmp_path) in printed.err
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.fixture
def labelled():
    """Return tasks with labels as parsed JSON, and a submission that has them right."""
    pair = {"input": [[1, 0]], "output": [[0, 1]]}
    tasks = {name: {"train": [pair], "test": [{"input": [[2, 0]], "output": [[0, 2]]}]} for name in "ab"}
    return tasks, {name: [{"attempt_1": [[0, 2]], "attempt_2": [[0]]}] for name in tasks}


def test_tasks_with_labels_stand_in_for_solutions_as_a_file_or_a_folder(labelled, write_json, tmp_path):
    tasks, submission = labelled
    submission = write_json("sub.json", submission)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, task in tasks.items():
        (folder / f"{name}.json").write_text(json.dumps(task))
    for source in (write_json("challenges.json", tasks), folder):
        assert score_files(submission, source).per_output(1) == 1.0
        assert score_files(submission, source).outputs == 2


def test_tasks_without_labels_are_no_solutions(labelled, write_json, capsys):
    tasks, submission = labelled
    del tasks["b"]["test"][0]["output"]
    challenges = str(write_json("challenges.json", tasks))
    assert main(["score", str(write_json("sub.json", submission)), challenges]) == 2
    line = capsys.readouterr().err
    assert "task b: has a test input without output, expected labels" in line and line.count("\n") == 1


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


def test_a_set_with_test_outputs_stands_in_for_a_solutions_file(write_json, tmp_path, capsys):
    tasks = load_set("synthetic-2-sides-5").tasks
    right = {task.id: [entry(pair.output, pair.output) for pair in task.test] for task in tasks}
    submission = str(write_json("sub.json", right))
    assert main(["score", submission, "synthetic-2-sides-5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 tasks solved whole" in lines[-1]
    assert len({len(line) for line in lines[:-1]}) == 1  # the columns are aligned, however long the ids are
    folder = tmp_path / "hidden"
    folder.mkdir()
    for task_id, task in to_challenges(tasks).items():
        (folder / f"{task_id}.json").write_text(json.dumps(task))
    assert main(["score", submission, str(folder)]) == 2
    assert "has a test input without output" in capsys.readouterr().err
