"""Test the submission of blank answers, which needs no package."""

from __future__ import annotations

import json

import pytest

from hrm_offline.common.blank import write_blank
from hrm_offline.common.errors import InputError

BLANK = {"attempt_1": [[0]], "attempt_2": [[0]]}
TASK = {"train": [], "test": [{"input": [[1]]}, {"input": [[2]]}]}


def test_every_test_input_has_an_entry(write_json, tmp_path):
    challenges = write_json("challenges.json", {"a": TASK, "b": {"test": []}, "c": 3})
    assert write_blank(challenges, tmp_path / "out" / "submission.json")
    assert json.loads((tmp_path / "out" / "submission.json").read_text()) == {
        "a": [BLANK, BLANK],
        "b": [BLANK],
        "c": [BLANK],
    }


def test_the_file_of_one_task(write_json, tmp_path):
    write_blank(write_json("a.json", TASK), tmp_path / "submission.json")
    assert json.loads((tmp_path / "submission.json").read_text()) == {"a": [BLANK, BLANK]}


def test_tasks_from_a_folder(write_json, tmp_path):
    (tmp_path / "tasks").mkdir()
    write_json("tasks/a.json", TASK)
    write_json("tasks/._a.json", "x")
    write_json("tasks/report.json", {"device": "cpu"})
    write_blank(tmp_path / "tasks", tmp_path / "submission.json")
    assert json.loads((tmp_path / "submission.json").read_text()) == {"a": [BLANK, BLANK]}


@pytest.mark.parametrize(
    ("there", "is_kept"),
    [
        ({"a": [{"attempt_1": [[5]], "attempt_2": [[6]]}, BLANK]}, True),
        ({"a": [BLANK]}, False),  # an entry is missing
        ({"a": [BLANK, {"attempt_1": [[5]]}]}, False),
        ({"a": [BLANK, {"attempt_1": [[5]], "attempt_2": []}]}, False),
        ({"a": [BLANK, None]}, False),
        ({"a": {}}, False),
        ({"b": [BLANK, BLANK]}, False),  # another run's tasks
        ("{", False),
        ([], False),
    ],
)
def test_answers_of_an_earlier_run_are_kept(write_json, tmp_path, there, is_kept):
    path = write_json("submission.json", there)
    before = path.read_text()
    assert write_blank(write_json("challenges.json", {"a": TASK}), path) is not is_kept
    assert (path.read_text() == before) is is_kept


@pytest.mark.parametrize("content", ["", "{", [], {}])
def test_what_holds_no_tasks_is_refused(write_json, tmp_path, content):
    with pytest.raises(InputError, match=r"challenges\.json"):
        write_blank(write_json("challenges.json", content), tmp_path / "submission.json")
