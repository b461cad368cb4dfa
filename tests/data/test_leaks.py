"""Test that tasks with the same content are found, in whatever view and under whatever name."""

import numpy as np
import pytest

from hrm_offline.cli import main
from hrm_offline.data.augment import View
from hrm_offline.data.leaks import content_of, find_leaks, without_held_out, without_repeats
from hrm_offline.data.tasks import Pair, Task, load_tasks, to_challenges


def viewed(task: Task, view: View, name: str) -> Task:
    """Disguise a task: another name, every grid in a view, demonstrations and tests swapped and re-ordered."""
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


def test_unusable_tasks_are_left_out_and_counted_and_still_found(make_task, write_json, capsys):
    tasks = to_challenges([make_task("a"), make_task("b", seed=1)])
    tasks["b"]["train"][0]["output"] = [[1] * 31]
    pairs = write_json("pairs.json", tasks["b"]["train"][1:])
    path = write_json("tasks.json", tasks)
    assert main(["leaks", str(pairs), str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{path}: left out 1 of 2 tasks, which cannot be used; the first is b: train[0] output: ")
    assert said[1:] == [
        "pairs: 2 pairs are in b",
        f"1 of the 1 tasks of {pairs} share a pair, in any view, with 1 of the 2 of {path}",
    ]
    only_bad = write_json("bad.json", {"x": {"train": [], "test": []}})
    assert main(["leaks", str(only_bad), str(path)]) == 2
    assert "bad.json: task x: 'train' is [], expected a non-empty list of pairs" in capsys.readouterr().err


def test_the_known_overlap_of_the_public_sets(capsys):
    """Find the 376 evaluation tasks of ARC-AGI-1 that are in ARC-AGI-2's training set, one of them twice."""
    assert main(["leaks", "arc1-eval", "arc2-train"]) == 1
    assert (
        "376 of the 400 tasks of arc1-eval share a pair, in any view, with 377 of the 1000 of arc2-train"
        in capsys.readouterr().out
    )
    assert main(["leaks", "arc2-train", "arc2-eval"]) == 0


def test_a_held_out_task_is_left_out_by_its_name_too(make_task):
    tasks = [make_task(name, seed=i) for i, name in enumerate(("a1", "rearc-a1", "my_a1", "a12", "b-a1-2"))]
    held_out = [make_task("a1", seed=99)]
    assert [task.id for task in without_held_out(tasks, held_out)] == ["a12", "b-a1-2"]


def test_a_generated_task_loses_the_pairs_that_it_shares_by_chance(make_task):
    many = make_task("many", [((4, 4), (3, 3))] * 30, seed=1)
    few = make_task("few", [((4, 4), (3, 3))] * 3, seed=2)
    turned = viewed(many, View(3, (0, 2, 1, 3, 4, 5, 6, 7, 8, 9)), "turned")
    one = [Task("other", few.train, turned.train[5:6])]
    kept = without_held_out([many, few], one)
    assert [(task.id, len(task.train)) for task in kept] == [("many", 29)]  # `few` shares all it has
    assert find_leaks(kept, one) == []
    half = [Task("half", turned.train[:15], turned.test)]
    assert without_held_out([many], half) == ()


def test_a_generated_task_loses_the_pairs_that_an_earlier_one_has(make_task):
    first, second = (make_task(name, [((4, 4), (3, 3))] * 30, seed=i) for i, name in enumerate("ab"))
    second = Task("b", (*second.train, first.train[3]), second.test)
    assert [len(task.train) for task in without_repeats([first, second])] == [30, 30]
