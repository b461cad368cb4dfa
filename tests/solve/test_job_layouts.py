"""Test that `solve` reads the public sets as their repositories lay them out, made up small here."""

from __future__ import annotations

import json

import pytest

from hrm_offline.cli import main
from hrm_offline.config import PretrainConfig
from hrm_offline.data.sets import select_tasks


def task_of(colour: int, side: int = 2) -> dict:
    """Return a task of its own for each colour and side."""
    pairs = [{"input": [[c] * side, [colour] * side], "output": [[colour] * side]} for c in range(3)]
    return {"train": pairs[:2], "test": pairs[2:]}


WIDE = {"train": [{"input": [[0, 1] * 16], "output": [[1, 0] * 16]}], "test": [{"input": [[1]]}]}
LAYOUTS = {
    "ARC-AGI": {
        "README.md": "",
        "apps/testing_interface.html": "",
        "data/training/007bbfb7.json": task_of(3),
        "data/evaluation/00576224.json": task_of(4),
    },
    "ARC-AGI-2": {
        "data/training.txt": "",
        "data/training/00d62c1b.json": task_of(5),
        "data/evaluation/0934a4d8.json": task_of(6),
    },
    "ConceptARC": {
        "corpus/AboveBelow/AboveBelow1.json": task_of(3),
        "corpus/Center/Center1.json": task_of(4),
        "MinimalTasks/AboveBelow/AboveBelowMinimal.json": task_of(5),
        "corpus/.DS_Store": "",
    },
    "1D-ARC": {"dataset/1d_fill/1d_fill_0.json": task_of(3, side=9), "dataset/1d_fill/1d_fill_1.json": WIDE},
}
RE_ARC = {"metadata.json": {"007bbfb7": {"n_examples": 2}}, "tasks/007bbfb7.json": task_of(7)["train"]}


def lay_out(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def solved(challenges, out) -> int:
    """Solve with no time at all. Return the exit code."""
    return main(["solve", "--challenges", str(challenges), "--out", str(out), "--budget", "0s", "--workers", "0"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_repository_of_tasks_is_read_as_it_is(tmp_path, name):
    files = LAYOUTS[name]
    assert solved(lay_out(tmp_path / name, files), tmp_path / "out") == 0
    tasks = {path.rpartition("/")[2].removesuffix(".json"): files[path] for path in files if path.endswith(".json")}
    submission = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert submission.keys() == tasks.keys()
    for task_id, task in tasks.items():  # with no time, the answers are the demonstrated outputs
        expected = [[0]] if task is WIDE else task["train"][0]["output"]
        assert [entry["attempt_1"] for entry in submission[task_id]] == [expected]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["left out"]) == [task_id for task_id in tasks if tasks[task_id] is WIDE]


@pytest.mark.parametrize("path", ["", "tasks/007bbfb7.json"])
def test_lists_of_pairs_are_learned_and_solve_says_what_they_are(tmp_path, capsys, path):
    source = lay_out(tmp_path / "re_arc", RE_ARC) / path
    assert solved(source, tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("task 007bbfb7: is a list of 2 pairs (RE-ARC's form), which has no test inputs to answer")
    (task,) = select_tasks(PretrainConfig(data=(str(source),), held_out=())).tasks
    assert (task.id, len(task.train), len(task.test)) == ("007bbfb7", 2, 0)


def test_the_file_of_one_task_is_solved_under_its_name(tmp_path):
    file = lay_out(tmp_path, {"007bbfb7.json": task_of(3)}) / "007bbfb7.json"
    assert solved(file, tmp_path / "out") == 0
    assert list(json.loads((tmp_path / "out" / "submission.json").read_text())) == ["007bbfb7"]


def test_a_run_in_the_tasks_own_folder_finds_the_same_tasks_again(tmp_path):
    folder = lay_out(tmp_path / "tasks", {"a.json": task_of(3), "b.json": task_of(4)})
    for _ in range(2):
        assert solved(folder, folder) == 0
        assert solved(folder, folder / "runs" / "first") == 0
        assert set(json.loads((folder / "submission.json").read_text())) == {"a", "b"}
        assert json.loads((folder / "report.json").read_text())["left out"] == {}
