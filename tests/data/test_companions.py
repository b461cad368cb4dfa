"""Test which tasks are learned along: all that are not among the tasks to answer, in whatever form."""

from dataclasses import replace

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.data.augment import View
from hrm_offline.data.companions import choose_companions, load_companions
from hrm_offline.data.tasks import Pair, Task, to_challenges

TURNED = View(5, (3, 1, 4, 0, 5, 9, 2, 6, 8, 7))


def turned(pair: Pair) -> Pair:
    return Pair(TURNED.apply(pair.input), TURNED.apply(pair.output))


@pytest.fixture
def hidden(make_task):
    return make_task("hidden", seed=1)


def test_what_is_among_the_tasks_to_answer_is_left_out_and_named(make_task, hidden):
    demonstration, test = turned(hidden.train[0]), turned(hidden.test[0])
    public = [
        make_task("new", seed=2),
        make_task("rearc-hidden", seed=3),
        replace(make_task("demonstration", seed=4), test=(demonstration,)),
        replace(make_task("input", seed=5), train=(test, *make_task(seed=6).train)),
    ]
    generated = make_task("generated", [((4, 4), (3, 3))] * 30, seed=7)
    public.append(replace(generated, train=(demonstration, *generated.train)))
    found = choose_companions(public, [hidden.without_labels()])
    assert [(task.id, len(task.train), len(task.test)) for task in found.tasks] == [("new", 4, 0), ("generated", 31, 0)]
    assert set(found.left_out) == {"rearc-hidden", "demonstration", "input"}
    assert str(found).startswith(
        "2 tasks with 35 pairs; left out: demonstration, input, rearc-hidden (demonstration is "
    )


def test_each_task_is_learned_once_and_only_by_known_pairs(make_task):
    first = make_task("first", seed=2)
    half = replace(make_task("half", seed=3).without_labels(), id="half")
    found = choose_companions([first, half, replace(first, id="second")], [])
    assert [(task.id, len(task.train)) for task in found.tasks] == [("first", 4), ("half", 3)]
    assert found.repeated == 1 and not found.left_out
    with pytest.raises(InputError, match="task first: two different tasks have this id"):
        choose_companions([first, make_task("first", seed=4)], [])


def test_a_task_that_does_not_fit_the_canvas_is_left_out(make_task):
    found = choose_companions([make_task("small", seed=2), make_task("large", [((12, 2), (3, 3))], seed=3)], [])
    fitting = found.fitting(11)
    assert [task.id for task in fitting.tasks] == ["small"]
    assert fitting.left_out == {"large": "has a grid side of more than 11 cells"}
    assert found.fitting(12) == found


def test_a_set_that_cannot_be_used_is_named(write_json, make_task, hidden):
    path = write_json("public.json", '{"a": ')
    with pytest.raises(InputError, match=r"public\.json"):
        load_companions([str(path)], [hidden])
    content = to_challenges([make_task("good", seed=2), make_task("bad", seed=3)])
    content["bad"]["train"][0]["input"] = [[10]]
    found = load_companions([str(write_json("public.json", content))], [hidden])
    assert [task.id for task in found.tasks] == ["good"]
    assert "left out 1 of 2 tasks" in found.unusable[0] and "public.json" in found.unusable[0]
    one, other = (write_json(name, to_challenges([make_task("a", seed=seed)])) for name, seed in (("1", 2), ("2", 3)))
    with pytest.raises(InputError, match=f"^{one}, {other}: task a: two different tasks have this id"):
        load_companions([str(one), str(other)], [hidden])


def test_lists_of_pairs_are_read_too(write_json, make_task):
    pairs = to_challenges([make_task("pairs", seed=2)])["pairs"]["train"]
    assert [len(task.train) for task in load_companions([str(write_json("pairs.json", pairs))], []).tasks] == [3]


def test_tasks_without_test_inputs_are_written_and_read_again(write_json, make_task):
    tasks = choose_companions([make_task("a", seed=2), make_task("b", seed=3)], []).tasks
    again = load_companions([str(write_json("tasks.json", to_challenges(tasks)))], []).tasks
    assert to_challenges(again) == to_challenges(tasks)
    assert isinstance(again[0], Task)
