"""Test sets of tasks by name, and what may be pretrained on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.config import PretrainConfig
from hrm_offline.data.leaks import find_leaks, without_repeats
from hrm_offline.data.sets import load_set, rehearsal_tasks, select_tasks, size_of, smallest
from hrm_offline.data.tasks import digest_of, load_tasks, to_challenges


def test_what_is_pretrained_holds_nothing_that_is_held_out():
    config = PretrainConfig(data=("arc1-train", "arc2-train", "synthetic-48"), max_side=12)
    selection = select_tasks(config)
    assert set(config.held_out) == {"arc1-eval", "arc2-eval", "rehearsal"}
    for name in config.held_out:
        assert not find_leaks(selection.tasks, load_set(name).tasks)
    assert len(without_repeats(selection.tasks)) == len(selection.tasks)
    assert min(selection.held_out, selection.repeated, selection.too_large) > 100
    assert any(task.id.startswith("synthetic-") for task in selection.tasks)


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
