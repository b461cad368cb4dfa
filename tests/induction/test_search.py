"""Test which programs the search finds, and that it never looks at a test output."""

from dataclasses import replace

import numpy as np
import pytest
from planted import grids, planted

from hrm_offline.common.errors import InputError
from hrm_offline.data.grids import dihedral
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import Pair, Task, load_tasks
from hrm_offline.induction.search import EFFORT, Search, induce


def answers(task, **more):
    return [[c.grid.tolist() for c in entry] for entry in induce(task, **more)]


def fall(g):
    return np.array([sorted(column, key=bool) for column in g.T.tolist()]).T


ORDER = np.array([0, 4, 1, 7, 3, 5, 6, 2, 8, 9])

EFFORTS = {1: 500, 2: 10_000, 3: EFFORT}
PLANTED = [
    (1, lambda g: g[::-1]),
    (1, fall),
    (1, lambda g: ORDER[g]),
    (1, lambda g: np.kron(g, np.ones((3, 3), dtype=int))),
    (1, lambda g: np.hstack([g, g[:, ::-1]])),
    (2, lambda g: ORDER[fall(g)]),
    (2, lambda g: fall(g).T),
    (2, lambda g: np.kron(g[:, ::-1], np.ones((2, 2), dtype=int))),
    (2, lambda g: np.hstack([g, fall(g), np.zeros_like(g)])),
    (2, lambda g: np.where(fall(g), fall(g), fall(g.T).T)),
    (3, lambda g: ORDER[np.kron(fall(g), np.ones((2, 2), dtype=int))]),
    (3, lambda g: ORDER[fall(g).T]),
]


@pytest.mark.parametrize(("length", "program"), PLANTED)
def test_planted_compositions_are_found_and_shorter_ones_weigh_more(length, program):
    task = planted(program, grids(6))
    found = induce(task.without_labels(), EFFORTS[length])
    for entry, pair in zip(found, task.test):
        assert entry[0].grid.tolist() == pair.output.tolist()
        assert entry[0].grid.dtype == np.uint8
        assert entry[0].confidence == 1
        assert 8.0 ** (1 - length) <= entry[0].count < 8.0 ** (2 - length)
        assert [c.count for c in entry] == sorted((c.count for c in entry), reverse=True)


def test_what_a_cell_is_in_may_decide_its_colour():
    """Recolour shapes by their size. A size that was not demonstrated has no answer."""

    def shapes(*lengths):
        g = np.zeros((2 * len(lengths), 6), dtype=np.uint8)
        for row, length in enumerate(lengths):
            g[2 * row, :length] = 5
        return g

    def by_size(g):
        return np.array([0, 1, 2, 3, 4, 6, 7])[np.count_nonzero(g, axis=1)][:, None] * (g > 0)

    task = planted(by_size, [shapes(1, 3, 2), shapes(2, 2, 1, 3), shapes(3, 1), shapes(1, 2, 3, 3), shapes(1, 5)])
    first, second = answers(task)
    assert first[0] == task.test[0].output.tolist()
    assert task.test[1].output.tolist() not in second


def test_contradictory_demonstrations_have_no_program(make_task):
    pair, other = make_task("a", [((3, 3), (3, 3))] * 2).train
    turned = [Pair(pair.input, dihedral(pair.input, element)) for element in (4, 5)]
    for train in (turned, turned[::-1]):
        assert answers(Task("t", tuple(train), (other,))) == [[]]
    assert all(answers(Task("t", (one, one), (other,)))[0] for one in turned)


def test_a_test_input_on_which_a_program_fails_costs_the_other_nothing():
    task = planted(lambda g: g[: len(g) // 2], [np.tile(g, (2, 1)) for g in grids(6, side=6)])
    odd = Pair(np.tile(np.uint8([[1, 2], [2, 1]]), (15, 10))[:1], None)  # one row has no upper half
    found = answers(replace(task, test=(odd, task.test[0])))
    assert task.test[0].output.tolist() in found[1]
    assert found[0] == []


def test_the_search_never_looks_at_a_test_output_and_repeats_its_answer():
    tasks = load_set("rehearsal").tasks
    for task in tasks[::6]:
        labelled = answers(task, effort=2500)
        wrong = replace(task, test=tuple(Pair(pair.input, pair.input[:1]) for pair in task.test))
        assert answers(task.without_labels(), effort=2500) == answers(wrong, effort=2500) == labelled


def test_effort_bounds_the_search():
    task = planted(PLANTED[-1][1], grids(6))
    assert answers(task, effort=1) == answers(task, effort=500) == [[], []]
    for effort in (1, 250, 500):
        search = Search(task, effort)
        assert list(search.solutions()) == []
        assert search.left == 0
    with pytest.raises(InputError):
        induce(task, effort=0)


def test_real_tasks_are_solved():
    tasks = {task.id: task for task in load_tasks("arc1-train").tasks}
    for task_id in ("007bbfb7", "a416b8f3", "f25ffba3", "28bf18c6", "9565186b", "29ec7d0e"):
        task = tasks[task_id]
        assert [entry[0] for entry in answers(task.without_labels(), effort=4000)] == [
            pair.output.tolist() for pair in task.test
        ]


def test_results_are_put_together_where_the_effort_ends_among_first_operations():
    """Upside down beside itself: both results are there long before every first operation has been applied."""
    task = planted(lambda g: np.hstack([g[::-1], fall(g)]), grids(6))
    found = answers(task, effort=500)
    assert [entry[0] for entry in found] == [pair.output.tolist() for pair in task.test]
