"""Test which tasks are found in files and folder trees, whatever else lies there."""

from __future__ import annotations

import json
import os

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.task_files import Damaged, entries_needed, read_raw_tasks

PAIR = {"input": [[1]], "output": [[2]]}
TASK = {"train": [PAIR], "test": [{"input": [[3]]}]}


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a value, or bytes, to a path below the folder `tasks`, and returns that folder."""

    def write(path: str, value):
        file = tmp_path / "tasks" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return tmp_path / "tasks"

    return write


@pytest.mark.parametrize(
    "path",
    [
        "._a.json",
        ".DS_Store",
        ".hidden.json",
        ".ipynb_checkpoints/a-checkpoint.json",
        ".git/config.json",
        "__MACOSX/a.json",
        "deep/__MACOSX/deep/._a.json",
        "Thumbs.db",
        "desktop.ini",
        "README.md",
        "a.json.bak",
    ],
)
def test_what_programs_leave_beside_tasks_is_no_task(put, path):
    put("a.json", TASK)
    assert read_raw_tasks(put(path, b"\0\5\x16\7")) == {"a": TASK}


@pytest.mark.parametrize("content", [b"", b" \n", b"{", b"\xff\xfe\xff", b"[" * 100_000, b'{"train": NaN'])
def test_a_damaged_file_costs_its_own_task(put, content):
    put("a.json", TASK)
    found = read_raw_tasks(put("b.json", content))
    assert list(found) == ["a", "b"]
    assert isinstance(found["b"], Damaged) and found["b"].reason
    assert entries_needed(found["b"]) == 1


@pytest.mark.parametrize("value", [3, None, "x", [], {}, True])
def test_json_that_is_no_task_costs_its_own_task(put, value):
    put("a.json", TASK)
    assert read_raw_tasks(put("b.json", value)) == {"a": TASK, "b": value}


def test_a_file_that_cannot_be_opened_costs_its_own_task(put, tmp_path):
    folder = put("a.json", TASK)
    os.mkfifo(folder / "b.json")
    (folder / "c.json").symlink_to(tmp_path / "nowhere")
    found = read_raw_tasks(folder)
    assert [type(value) for value in found.values()] == [dict, Damaged, Damaged]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_one_file_of_a_folder_may_have_another_encoding(put, encoding):
    put("a.json", TASK)
    assert read_raw_tasks(put("b.json", json.dumps(TASK).encode(encoding))) == {"a": TASK, "b": TASK}


def test_a_tree_is_read_and_equal_names_become_paths(put):
    put("data/training/a.json", TASK)
    put("data/training/b.JSON", TASK)
    put("data/evaluation/a.json", TASK)
    (put("c.json", TASK) / "empty" / "folder").mkdir(parents=True)
    assert set(read_raw_tasks(put("a.b.json", TASK))) == {"data/training/a", "b", "data/evaluation/a", "c", "a.b"}


def test_a_link_to_a_folder_above_is_not_followed(put):
    folder = put("a.json", TASK)
    (folder / "again").symlink_to(folder)
    assert list(read_raw_tasks(folder)) == ["a"]


def test_what_solve_leaves_in_the_tasks_folder_is_no_task(put):
    put("a.json", TASK)
    entries = [{"attempt_1": [[0]], "attempt_2": [[0]]}]
    for folder in ("", "runs/first/"):
        put(f"{folder}submission.json", {"a": entries})
        put(f"{folder}report.json", {"device": "cpu"})
        put(f"{folder}candidates.json", {"a": [[]]})
        put(f"{folder}journal/run.journal", b"")
        put(f"{folder}journal/adapting-0/state.json", {})
    put("dataset-metadata.json", {"title": "tasks"})
    assert read_raw_tasks(put("more/journal/b.json", TASK)) == {"a": TASK, "b": TASK}
    assert read_raw_tasks(put("report.json", TASK)) == {"a": TASK, "b": TASK, "report": TASK}


@pytest.mark.parametrize("value", [TASK, {"train": [PAIR]}, {"test": []}, {"train": 3, "name": "x"}, [PAIR, PAIR]])
def test_the_file_of_one_task_is_named_after_the_file(write_json, value):
    assert read_raw_tasks(write_json("007bbfb7.json", value)) == {"007bbfb7": value}


@pytest.mark.parametrize(
    "value", [{"train": TASK, "test": TASK}, {"a": TASK, "train": [[1]]}, {"test": TASK, "a": 3}, {"a": 3}]
)
def test_a_challenges_file_may_hold_tasks_named_train_and_test(write_json, value):
    assert read_raw_tasks(write_json("c.json", value)) == value


@pytest.mark.parametrize("value", [[], [PAIR, 3], 3, None, {}, '"x"'])
def test_a_file_without_tasks_is_refused(write_json, value):
    with pytest.raises(InputError, match=r"c\.json: expected a non-empty object of tasks"):
        read_raw_tasks(write_json("c.json", value))


@pytest.mark.parametrize("path", ["x.txt", "sub/._a.json", "submission.json", ".hidden/a.json"])
def test_a_folder_without_tasks_is_refused(put, path):
    with pytest.raises(InputError, match=r"tasks: no \.json files"):
        read_raw_tasks(put(path, {"a": []}))


@pytest.mark.parametrize(
    ("task", "count"), [(TASK, 1), ({"test": []}, 1), ({"test": [1, 2]}, 2), ({}, 1), ({"test": {"a": 1}}, 1), (3, 1)]
)
def test_every_task_needs_an_entry(task, count):
    assert entries_needed(task) == count
