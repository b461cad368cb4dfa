"""Test some hundred broken challenge files, always the same ones, and that the tool notices faults."""

import json

import pytest

from tools.stress import fuzz_challenges
from tools.stress.fuzz_challenges import Problem, check_file, check_learning

TASK = {"train": [{"input": [[1, 2]], "output": [[2], [1]]}], "test": [{"input": [[3, 4]]}]}
ENTRY = {"attempt_1": [[1, 2]], "attempt_2": [[0]]}


def test_broken_files_are_answered_or_refused(tmp_path):
    kinds = fuzz_challenges.fuzz(200, None, learn_every=10, folder=tmp_path)
    assert kinds.total() - kinds["learned"] >= 200
    for kind in ("solved", "nothing usable", "unreadable", "learned"):
        assert kinds[kind] >= 5, kinds


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (TASK, "solved"),
        (TASK["train"], "nothing usable"),
        ({"test": [{}, {}]}, "nothing usable"),
        ({"train": 3}, "nothing usable"),
        ({"train": TASK}, "solved"),
        ({"a": TASK, "test": []}, "solved"),
        ([TASK], "unreadable"),
        ([], "unreadable"),
    ],
)
def test_the_file_of_one_task_is_answered(tmp_path, value, kind):
    assert check_file(json.dumps(value).encode(), tmp_path) == kind


def test_a_task_of_thousands_of_pairs_is_answered_and_learned(tmp_path):
    pair = {"input": [[1, 2]], "output": [[2], [1]]}
    content = json.dumps({"a": {"train": [pair] * 4000, "test": [{"input": [[3, 4]]}] * 200}}).encode()
    assert check_file(content, tmp_path) == "solved"
    assert check_learning(tmp_path / "challenges.json")


@pytest.mark.parametrize(
    "submission",
    [
        [],
        {},
        {"a": [ENTRY]},
        {"a": [ENTRY] * 2, "b": [ENTRY]},
        {"a": [ENTRY] * 3},
        {"a": [ENTRY, {}]},
        *(
            {"a": [ENTRY, ENTRY | {"attempt_2": grid}]}
            for grid in (
                [],
                [[]],
                [[1], [1, 2]],
                [[10]],
                [[-1]],
                [[True]],
                [[1.0]],
                [["1"]],
                [[0]] * 31,
                [[0] * 31],
                None,
            )
        ),
    ],
)
def test_a_submission_that_is_not_valid_is_noticed(submission):
    fuzz_challenges.check_submission({"a": [ENTRY, ENTRY]}, {"a": 2})
    with pytest.raises(Problem):
        fuzz_challenges.check_submission(submission, {"a": 2})
