"""Test how task files are read, and which are refused, in one line each."""

import json
import os

import numpy as np
import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import load_tasks, read_solutions, to_challenges, to_solutions

GOOD = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}


def with_cell(value):
    return {"train": [{"input": [[value]], "output": [[2]]}], "test": [{"input": [[3]]}]}


def test_hidden_tasks_have_no_labels_and_solutions_supply_them(write_json):
    challenges = write_json("c.json", {"a": GOOD})
    assert load_tasks(challenges).tasks[0].test[0].output is None
    labelled = load_tasks(challenges, write_json("s.json", {"a": [[[4]]]})).tasks[0]
    assert labelled.test[0].output.tolist() == [[4]]


def test_folder_of_one_task_files(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(GOOD))
    assert [task.id for task in load_tasks(tmp_path).tasks] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("arc1-train", 400), ("arc1-eval", 400), ("arc2-train", 1000), ("arc2-eval", 120), ("arc1", 800)],
)
def test_bundled_sets(name, count):
    tasks = load_tasks(name).require_good()
    assert len(tasks) == count
    assert all(pair.output is not None for task in tasks for pair in task.test)


def test_challenges_and_solutions_round_trip(write_json):
    tasks = load_tasks("arc1-eval").tasks[:20]
    back = load_tasks(write_json("c.json", to_challenges(tasks)), write_json("s.json", to_solutions(tasks))).tasks
    for ours, theirs in zip(tasks, back):
        assert ours.id == theirs.id
        for a, b in zip((*ours.train, *ours.test), (*theirs.train, *theirs.test)):
            assert np.array_equal(a.input, b.input)
            assert np.array_equal(a.output, b.output)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"test": [{"input": [[3]]}]}, "no 'train'"),
        ({"train": [], "test": [{"input": [[3]]}]}, "'train' is []"),
        ({"train": GOOD["train"]}, "no 'test'"),
        ([], "expected an object"),
        (with_cell(11), "cell (0, 0) is 11"),
        (with_cell(-1), "cell (0, 0) is -1"),
        (with_cell("3"), "cell (0, 0) is '3'"),
        (with_cell(2.5), "cell (0, 0) is 2.5"),
        (with_cell(True), "cell (0, 0) is True"),
        ({"train": [{"input": [[1, 2], [3]], "output": [[2]]}], "test": [{"input": [[3]]}]}, "ragged rows: row 1"),
        ({"train": [{"input": [[1] * 31], "output": [[2]]}], "test": [{"input": [[3]]}]}, "31 cells"),
        ({"train": [{"input": [[1]] * 31, "output": [[2]]}], "test": [{"input": [[3]]}]}, "31 rows"),
        ({"train": [{"input": [[1]]}], "test": [{"input": [[3]]}]}, "train[0] has no 'output'"),
        ({"train": GOOD["train"], "test": [{"input": []}]}, "test[0] input"),
    ],
)
def test_a_bad_task_is_named_and_the_others_load(write_json, task, reason):
    path = write_json("c.json", {"bad1": task, "good": GOOD})
    loaded = load_tasks(path)
    assert [t.id for t in loaded.tasks] == ["good"]
    with pytest.raises(InputError) as error:
        loaded.require_good()
    assert str(path) in str(error.value)
    assert "task bad1" in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize("text", ["", "  ", "{", "[]", "{}", "null", "[" * 100_000])
def test_a_file_that_is_no_task_set_is_refused(write_json, text):
    path = write_json("c.json", text)
    with pytest.raises(InputError, match=r"c\.json"):
        load_tasks(path)


@pytest.mark.parametrize(
    "label", [[], [[]], [[], []], 0, "?", [[-1]], [[1] * 31], None, [[[1]]], [[1], [1, 2]], [[1.0]], {}, True, "null"]
)
def test_a_bad_label_is_no_label_unless_labels_are_asked_for(write_json, label):
    tasks = {"a": GOOD, "b": {"train": GOOD["train"], "test": [{"input": [[3]], "output": label}]}}
    loaded = load_tasks(write_json("c.json", tasks))
    assert loaded.bad == ()
    assert loaded.require_good()[1].test[0].output is None
    assert set(loaded.bad_labels) == (set() if label is None else {"b"})
    labelled = load_tasks(write_json("b.json", tasks["b"]))
    with pytest.raises(InputError, match=r"b\.json: task b: (test\[0\] output: |has a test input without output)"):
        labelled.require_labelled()


def test_labels_that_are_asked_for_are_given(write_json):
    task = {"train": GOOD["train"], "test": [{"input": [[3]], "output": [[4]]}]}
    assert load_tasks(write_json("a.json", task)).require_labelled()[0].test[0].output.tolist() == [[4]]
    assert load_tasks(write_json("c.json", {"a": GOOD}), write_json("s.json", {"a": [[[4]]]})).require_labelled()


def test_a_folder_keeps_its_good_tasks(tmp_path, write_json):
    write_json("a.json", GOOD)
    write_json("b.json", "{")
    write_json("c.json", "3")
    write_json("d.json", {"x": GOOD, "y": GOOD})
    loaded = load_tasks(tmp_path)
    assert [task.id for task in loaded.require_some()] == ["a"]
    assert {bad.id: bad.reason.partition(" (")[0] for bad in loaded.bad} == {
        "b": "not JSON",
        "c": "expected an object with 'train' and 'test', found 3",
        "d": "is a file of 2 tasks, expected one task; give this file by its own name",
    }
    assert loaded.left_out() == f"{tmp_path}: left out 3 of 4 tasks, which cannot be used; the first is b: " + (
        loaded.bad[0].reason
    )
    assert loaded.test_counts() == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_a_list_of_pairs_can_be_learned_but_not_answered(write_json):
    path = write_json("00d62c1b.json", GOOD["train"] * 3)
    (task,) = load_tasks(path, needs_tests=False).require_good()
    assert (task.id, len(task.train), task.test) == ("00d62c1b", 3, ())
    with pytest.raises(InputError, match=r"00d62c1b\.json: task 00d62c1b: is a list of 3 pairs"):
        load_tasks(path).require_some()


@pytest.mark.parametrize("task", [{"train": GOOD["train"]}, {"train": GOOD["train"], "test": []}])
def test_a_task_without_tests_can_be_learned_only(write_json, task):
    path = write_json("c.json", {"a": task})
    assert load_tasks(path, needs_tests=False).require_good()[0].test == ()
    assert load_tasks(path).test_counts() == {"a": 1}
    assert len(load_tasks(path).bad) == 1


def test_of_a_bad_task_the_pairs_that_can_be_read_are_kept(write_json):
    wide = {"input": [[1] * 31], "output": [[1]]}
    tasks = {
        "wide": {"train": [wide, *GOOD["train"]], "test": [{"input": [[3]], "output": 0}]},
        "ragged": {"train": [{"input": [[5]], "output": [[1], [1, 2]]}], "test": {}},
        "none": {"train": [3, {}], "test": None},
    }
    loaded = load_tasks(write_json("c.json", tasks))
    assert [len(bad.pairs) for bad in loaded.bad] == [2, 1, 0]
    assert [(task.id, task.train[0].input.tolist()) for task in loaded.readable()] == [
        ("wide", [[1]]),
        ("ragged", [[5]]),
    ]


def test_missing_file_and_folder_without_tasks(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        load_tasks(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no \.json files"):
        load_tasks(tmp_path)


def test_broken_task_keeps_its_number_of_test_inputs(write_json):
    task = {"train": [], "test": [{"input": [[1]]}, {"input": [[2]]}]}
    assert load_tasks(write_json("c.json", {"a": task, "b": 3})).test_counts() == {"a": 2, "b": 1}


def test_solutions_must_match(write_json):
    challenges = write_json("c.json", {"a": GOOD})
    assert "2 solutions" in load_tasks(challenges, write_json("s.json", {"a": [[[1]], [[2]]]})).bad[0].reason
    with pytest.raises(InputError, match="task a"):
        read_solutions(write_json("s2.json", {"a": [[[1, "x"]]]}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_of_json_is_read(tmp_path, encoding):
    (tmp_path / "c.json").write_text(json.dumps({"ü🧩": GOOD}, ensure_ascii=False), encoding=encoding)
    assert [task.id for task in load_tasks(tmp_path / "c.json").tasks] == ["ü🧩"]


def test_of_equal_keys_the_last_counts(write_json):
    text = f'{{"a": 3, "a": {json.dumps(GOOD)}, "b": {json.dumps(GOOD)}, "b": 3}}'
    loaded = load_tasks(write_json("c.json", text))
    assert [task.id for task in loaded.tasks] == ["a"]
    assert [bad.id for bad in loaded.bad] == ["b"]


def test_at_no_depth_a_task_breaks_more_than_its_file(write_json):
    """Nest lists just less deep than the parser refuses: other code that walks through the value could fail there."""
    refused = []
    for depth in (10, 500, *range(700, 1000, 3), 100_000):
        text = json.dumps({"good": GOOD, "deep": with_cell(0)}).replace("[0]", "[" * depth + "]" * depth)
        try:
            assert [bad.id for bad in load_tasks(write_json("c.json", text)).bad] == ["deep"]
        except InputError as error:
            refused.append(depth)
            assert "recursion" in str(error)
    assert 10 not in refused
    assert 100_000 in refused


def test_a_refusal_is_one_short_line_whatever_the_task_is_called(write_json):
    for task_id in ("a\nb", "\u2028", "\ud800", "", "x" * 10**6):
        loaded = load_tasks(write_json("c.json", {task_id: {}}))
        with pytest.raises(InputError) as error:
            loaded.require_good()
        assert len(str(error.value).splitlines()) == 1
        assert len(str(error.value)) < 200 + len(loaded.source)


@pytest.mark.parametrize(
    "kind", ["pipe", "device", "loop", "too large", "zero character", "long name", "file in a file"]
)
def test_what_is_no_file_to_be_read_is_refused(tmp_path, write_json, kind):
    path = tmp_path / "c.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "too large":
        path.touch()
        os.truncate(path, 2**28 + 1)
    else:
        path = {
            "zero character": tmp_path / "c\0",
            "long name": tmp_path / ("c" * 5000),
            "file in a file": write_json("file", "{}") / "c.json",
        }[kind]
    with pytest.raises(InputError, match="at most" if kind == "too large" else "cannot be read"):
        load_tasks(path)
