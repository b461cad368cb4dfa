"""What may be pretrained on: leaks found by content, made-up tasks, selections."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.config import PretrainConfig
from hrm_offline.data.augment import View
from hrm_offline.data.leaks import content_of, find_leaks, without_repeats
from hrm_offline.data.sets import load_set, rehearsal_tasks, select_tasks, size_of, smallest
from hrm_offline.data.synthetic import FAMILIES, synthetic_tasks
from hrm_offline.data.tasks import Pair, Task, digest_of, load_tasks, to_challenges


def viewed(task: Task, view: View, name: str) -> Task:
    """The task in disguise: another name, every grid in a view, demonstrations and tests swapped and re-ordered."""
    pairs = [
        Pair(view.apply(p.input), None if p.output is None else view.apply(p.output))
        for p in (*task.test, *reversed(task.train))
    ]
    return Task(name, tuple(pairs[1:]), tuple(pairs[:1]))


@pytest.mark.parametrize("element", range(8))
def test_every_view_of_a_pair_has_the_same_content(make_task, element):
    pair = make_task("a", train=[((3, 4), (2, 5))], seed=1).train[0]
    view = View(element, tuple(np.random.default_rng(element).permutation(10).tolist()))
    assert content_of(Pair(view.apply(pair.input), view.apply(pair.output))) == content_of(pair)


def test_pairs_that_differ_have_different_content():
    grid = np.array([[1, 2, 3], [3, 1, 1]], dtype=np.uint8)
    other = grid.copy()
    other[0, 0] = 2
    content = content_of(Pair(grid, grid))
    assert content_of(Pair(grid, other)) != content  # one cell
    assert content_of(Pair(grid, grid[::-1])) != content  # turned apart
    assert content_of(Pair(grid, View(0, (1, 0, 3, 2, 4, 5, 6, 7, 8, 9)).apply(grid))) != content  # recoloured apart
    assert content_of(Pair(grid, None)) != content


def test_a_planted_copy_is_found_whatever_was_done_to_it():
    tasks = load_tasks("arc1-eval").tasks[:40]
    victim = tasks[17]
    planted = viewed(victim, View(6, (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)), "planted")
    others = load_tasks("arc1-train").tasks[:20]
    leaks = find_leaks([*others, planted], tasks)
    assert [(leak.id, leak.others, leak.pairs) for leak in leaks] == [
        ("planted", (victim.id,), len(victim.train) + len(victim.test))
    ]


def test_a_held_out_test_input_is_found_without_its_output(make_task):
    hidden = make_task("hidden", test=[((4, 5), (3, 3))], seed=3)
    thief = Task("thief", (hidden.test[0], *make_task("x", seed=9).train), make_task("y", seed=8).test)
    assert [leak.pairs for leak in find_leaks([thief], [hidden.without_labels()])] == [1]
    assert not find_leaks([make_task("z", seed=4)], [hidden.without_labels()])


def test_the_known_overlap_of_the_public_sets(capsys):
    """376 of ARC-AGI-1's evaluation tasks are in ARC-AGI-2's training set; one of them twice."""
    assert main(["leaks", "arc1-eval", "arc2-train"]) == 1
    assert (
        "376 of the 400 tasks of arc1-eval share a pair, in any view, with 377 of the 1000 of arc2-train"
        in capsys.readouterr().out
    )
    assert main(["leaks", "arc2-train", "arc2-eval"]) == 0


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


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_makes_valid_tasks_that_say_something(name):
    number = list(FAMILIES).index(name)
    for task in synthetic_tasks(2 * len(FAMILIES), max_side=10)[number :: len(FAMILIES)]:
        pairs = (*task.train, *task.test)
        assert task.id.startswith(f"synthetic-{name}-")
        assert len(task.train) >= 3
        assert all(
            grid.dtype == np.uint8 and grid.max() < 10 and min(grid.shape) >= 1 and max(grid.shape) <= 10
            for pair in pairs
            for grid in (pair.input, pair.output)
        )
        assert any(not np.array_equal(pair.input, pair.output) for pair in pairs)
        assert len({content_of(Pair(pair.input, None)) for pair in pairs}) > 1


def test_made_up_tasks_depend_on_their_number_alone():
    few, many = synthetic_tasks(5, 12), synthetic_tasks(30, 12)
    for ours, theirs in zip(few, many):
        assert ours.id == theirs.id
        for a, b in zip((*ours.train, *ours.test), (*theirs.train, *theirs.test), strict=True):
            assert np.array_equal(a.input, b.input)
            assert np.array_equal(a.output, b.output)


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
