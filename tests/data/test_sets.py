"""Test sets of tasks by name, and what may be pretrained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.config import PretrainConfig
from hrm_offline.data.leaks import find_leaks, without_repeats
from hrm_offline.data.sets import load_set, rehearsal_tasks, scorable_tasks, select_tasks, size_of, smallest
from hrm_offline.data.synthetic import FIRST_GENERATION
from hrm_offline.data.tasks import Pair, Task, digest_of, load_tasks, to_challenges


def test_what_is_pretrained_holds_nothing_that_is_held_out():
    config = PretrainConfig(data=("arc1-train", "arc2-train", "synthetic-48"), max_side=12)
    selection = select_tasks(config)
    assert set(config.held_out) == {"arc1-eval", "arc2-eval", "rehearsal"}
    for name in config.held_out:
        assert not find_leaks(selection.tasks, load_set(name).tasks)
    assert len(without_repeats(selection.tasks)) == len(selection.tasks)
    assert min(selection.held_out, selection.repeated, selection.too_large) > 100
    assert any(task.id.startswith("synthetic-") for task in selection.tasks)


def test_a_generated_task_loses_its_large_pairs_alone(make_task, tmp_path):
    def of_sides(name: str, width: int, *sides: int) -> Task:
        return Task(
            name, tuple(Pair(np.zeros((side, width), np.uint8), np.ones((2, 2), np.uint8)) for side in sides), ()
        )

    tasks = [
        of_sides("generated", 2, *range(1, 31)),
        of_sides("few", 3, *range(1, 20)),
        of_sides("large", 4, *range(9, 31)),
    ]
    (tmp_path / "set.json").write_text(json.dumps(to_challenges(tasks)))
    selection = select_tasks(PretrainConfig(data=(str(tmp_path / "set.json"),), held_out=(), max_side=8))
    assert [(task.id, [pair.input.shape[0] for pair in task.train]) for task in selection.tasks] == [
        ("generated", [*range(1, 9)])
    ]
    assert (selection.too_large, selection.large_pairs) == (2, 44)


def test_a_generated_tasks_large_pairs_tell_that_it_is_held_out(tmp_path):
    """It shares a third of its pairs with a held-out task, and all of these are too large."""
    pairs = [
        Pair(np.full((side, 1 + i), 3, np.uint8), np.ones((2, 2), np.uint8)) for side in (20, 5) for i in range(15)
    ]
    sets = {"mine": [Task("generated", tuple(pairs), ())], "theirs": [Task("other", tuple(pairs[:10]), (pairs[10],))]}
    for name, tasks in sets.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(to_challenges(tasks)))
    with pytest.raises(InputError, match="not held out"):
        select_tasks(
            PretrainConfig(data=(str(tmp_path / "mine.json"),), held_out=(str(tmp_path / "theirs.json"),), max_side=8)
        )


def test_a_selection_of_nothing_is_refused():
    with pytest.raises(InputError, match="rehearsal: no task"):
        select_tasks(PretrainConfig(data=("rehearsal",)))


def test_two_tasks_of_one_name_are_refused(make_task, tmp_path):
    files = tuple(str(tmp_path / f"{i}.json") for i in range(2))
    for i, file in enumerate(files):
        Path(file).write_text(json.dumps(to_challenges([make_task("same", seed=i)])))
    with pytest.raises(InputError, match="same"):
        select_tasks(PretrainConfig(data=files))


def test_recoloured_copies_are_tasks_of_their_own_with_the_same_content():
    plain = select_tasks(PretrainConfig(data=("arc1-train",), limit=3)).tasks
    tasks = select_tasks(PretrainConfig(data=("arc1-train",), limit=3, recoloured=2)).tasks
    assert [task.id for task in tasks[:3]] == [task.id for task in plain]
    assert len({task.id for task in tasks}) == 9
    leaks = find_leaks(tasks[3:], plain)
    assert [leak.others for leak in leaks] == [(plain[i // 2].id,) for i in range(6)]
    assert len({digest_of([replace(task, id="")]) for task in tasks}) == 9


def test_the_rehearsals_set_is_a_set_by_name():
    assert [task.id for task in load_set("rehearsal").tasks] == [task.id for task in rehearsal_tasks()]
    assert len(rehearsal_tasks(9)) == 9


def test_the_smallest_are_ordered_by_size_and_have_three_demonstrations():
    tasks = smallest(load_tasks("arc1-eval").tasks, 30)
    assert all(len(task.train) >= 3 for task in tasks)
    assert [size_of(task) for task in tasks] == sorted(size_of(task) for task in tasks)


@pytest.mark.parametrize("name", ["synthetic-0", "synthetic-x", "synthetic-", "rehearsals"])
def test_a_set_that_does_not_exist_is_refused(name):
    with pytest.raises(InputError, match=name):
        load_set(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ARC1", "arc1"),
        ("arc1-evaluation", "arc1-eval"),
        ("arc1_training", "arc1-train"),
        ("ARC-AGI-2", "arc2"),
        ("arc_agi_1_eval", "arc1-eval"),
        ("Rehearsal", "rehearsal"),
    ],
)
def test_a_name_spelled_differently_is_answered_with_the_names_there_are(name, meant):
    with pytest.raises(InputError) as error:
        load_set(name)
    assert f"{name}: no such file, folder or set (did you mean {meant}?); sets are arc1-train, " in str(error.value)
    assert "rehearsal, synthetic-N" in str(error.value)


def test_a_missing_file_is_not_taken_for_a_name(tmp_path):
    for path in ("tasks.json", tmp_path / "arc1-evaluation"):
        with pytest.raises(InputError, match="cannot be read"):
            load_set(path)


def write_tasks(path, tasks) -> str:
    path.write_text(json.dumps(tasks))
    return str(path)


def test_tasks_that_cannot_be_used_are_left_out_and_counted(make_task, tmp_path):
    tasks = to_challenges(
        [make_task("a"), make_task("wide", seed=1), make_task("ragged", seed=2), make_task("b", seed=3)]
    )
    tasks["wide"]["train"][0]["output"] = [[1] * 31]
    tasks["ragged"]["train"][1]["input"] = [[1], [1, 2]]
    path = write_tasks(tmp_path / "c.json", tasks)
    selection = select_tasks(PretrainConfig(data=(path,), held_out=()))
    assert [task.id for task in selection.tasks] == ["a", "b"]
    assert selection.unusable == (
        f"{path}: left out 2 of 4 tasks, which cannot be used; the first is wide: train[0] output: row 0 has 31 "
        "cells, expected at most 30",
    )
    only_bad = write_tasks(tmp_path / "bad.json", {"wide": tasks["wide"]})
    with pytest.raises(InputError, match=r"task wide: train\[0\] output: row 0 has 31 cells"):
        select_tasks(PretrainConfig(data=(only_bad,), held_out=()))


def test_a_held_out_task_that_cannot_be_used_still_holds_its_pairs_out(make_task, tmp_path):
    tasks = to_challenges([make_task("a"), make_task("b", seed=1)])
    data = write_tasks(tmp_path / "data.json", tasks)
    tasks["a"]["train"][0]["output"] = [[1] * 31]
    held_out = write_tasks(tmp_path / "held_out.json", {"a": tasks["a"]})
    selection = select_tasks(PretrainConfig(data=(data,), held_out=(held_out,)))
    assert [task.id for task in selection.tasks] == ["b"]
    assert len(selection.unusable) == 1


def test_tasks_to_be_scored_have_all_their_outputs(make_task, tmp_path):
    tasks = to_challenges([make_task(name, seed=i) for i, name in enumerate("abc")])
    tasks["a"]["test"][0]["output"] = [[1]]
    tasks["b"]["test"][0]["output"] = [[-1]]
    tasks["c"]["train"] = []
    path, said = write_tasks(tmp_path / "c.json", tasks), []
    assert [task.id for task in scorable_tasks(path, said.append)] == ["a"]
    assert ["left out 1 of 3 tasks" in said[0], "left out 1 tasks with a test output" in said[1]] == [True, True]
    with pytest.raises(InputError, match=r"b\.json: task b: test\[0\] output: cell \(0, 0\) is -1"):
        scorable_tasks(write_tasks(tmp_path / "b.json", tasks["b"]), said.append)


def test_made_up_families_can_be_chosen_or_left_out():
    def families(name: str) -> set[str]:
        return {task.id.split("-")[1] for task in load_set(name, max_side=6).tasks}

    assert families("synthetic-6-only-tile,shift") == {"tile", "shift"}
    assert families("synthetic-48-without-tile,shift") == families("synthetic-48") - {"tile", "shift"}
    small = load_set("synthetic-6-sides-5-only-tile").tasks
    assert {task.id.split("-")[1] for task in small} == {"tile"}
    assert max(size_of(task)[0] for task in small) <= 5
    assert [size_of(task) for task in load_set("synthetic-6-sides-9-only-tile", max_side=5).tasks] == [
        size_of(task) for task in small
    ]
    with pytest.raises(InputError, match="sides of at most 4, expected 5 or more"):
        load_set("synthetic-6-sides-4")
    with pytest.raises(InputError, match="tiles"):
        load_set("synthetic-6-only-tiles")
    with pytest.raises(InputError):
        load_set("synthetic-6-tile")
    with pytest.raises(InputError, match="leaves out every family"):
        load_set(f"synthetic-6-without-{','.join(FIRST_GENERATION)}")
