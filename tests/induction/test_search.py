"""Induction: what the search finds, what it never does, and its command."""

from dataclasses import replace

import numpy as np
import pytest
from test_solve import check

from hrm_offline.answers.candidates import read_candidates
from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.data.grids import dihedral
from hrm_offline.data.sets import load_set
from hrm_offline.data.shapes import bounding_box, components
from hrm_offline.data.tasks import Pair, Task, load_tasks, to_challenges
from hrm_offline.induction.operations import FEATURES, Repertoire
from hrm_offline.induction.search import EFFORT, Search, induce


def grids(count, seed=0, side=7, colours=4):
    """Grids of several shapes, half of their cells black, none of them empty."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(1, colours, rng.integers(4, side, 2)) for _ in range(count)]
    return [(g * (rng.random(g.shape) < 0.5)).astype(np.uint8) for g in drawn]


def planted(program, inputs, name="t"):
    """A task that is solved by a program; the last two grids are its test inputs."""
    pairs = tuple(Pair(g, np.ascontiguousarray(program(g), dtype=np.uint8)) for g in inputs)
    return Task(name, pairs[:-2], pairs[-2:])


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
    """Shapes of one colour take another by their size; a size that was not demonstrated has no answer."""

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
    for effort in (1, 500, 2001):
        search = Search(task, effort)
        assert list(search.solutions()) == []
        assert search.left == 0
    with pytest.raises(InputError):
        induce(task, effort=0)


SHAPES = [(1, 1), (1, 1), (1, 1), (1, 7), (7, 1), (2, 2), (3, 4), (5, 5), (8, 8), (30, 30), (30, 1), (29, 30)]
RANDOM = [
    np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8) * (seed % 3 != 2)
    for seed, shape in enumerate(SHAPES)
]


@pytest.mark.parametrize("grid", RANDOM)
def test_operations_take_any_grid_and_leave_it_as_it_was(grid):
    before, repertoire = grid.copy(), Repertoire.of_colours(range(1, 4), range(1, 4))
    for name, operation in (repertoire.keeping | repertoire.changing).items():
        result = operation(grid)
        assert result is None or (result.ndim == 2 and result.max(initial=0) <= 9), name
        if name in repertoire.keeping.keys() - repertoire.changing.keys():
            assert result is None or result.shape == grid.shape, name
    for name, feature in FEATURES.items():
        found = feature(grid)
        assert found.shape == grid.shape, name
        assert found.min() >= 0, name
    assert np.array_equal(grid, before)


def test_shapes_are_connected_along_sides_or_across_corners():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    assert components(mask).tolist() == [[1, 0, 2], [0, 2, 2], [0, 0, 0], [3, 0, 0]]
    assert components(mask, diagonal=True).tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0], [2, 0, 0]]
    assert bounding_box(mask[2:]) == (slice(1, 2), slice(0, 1))


def test_real_tasks_are_solved():
    tasks = {task.id: task for task in load_tasks("arc1-train").tasks}
    for task_id in ("007bbfb7", "a416b8f3", "f25ffba3", "28bf18c6", "9565186b", "29ec7d0e"):
        task = tasks[task_id]
        assert [entry[0] for entry in answers(task.without_labels(), effort=4000)] == [
            pair.output.tolist() for pair in task.test
        ]


def test_the_command_writes_votes_that_solve_counts(write_json, tmp_path, capsys):
    """One task has a program, one has none, one is broken."""
    task = planted(lambda g: dihedral(g, 6), grids(6), "turned")
    none = Task("none", (Pair(task.train[0].input, task.train[1].output), *task.train[1:]), task.test)
    good = to_challenges([task, none])
    challenges = good | {"bad\n": {"train": [], "test": [{"input": [[1]]}]}}
    path, votes = write_json("challenges.json", challenges), tmp_path / "new" / "votes.json"
    assert main(["induce", "--challenges", str(path), "--out", str(votes), "--effort", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "left out: task 'bad\\n'" in printed
    assert "1 of 2 tasks have a candidate" in printed
    candidates = read_candidates(votes, load_tasks(path))
    assert list(candidates) == ["turned", "none"]
    assert [[len(entry) > 0 for entry in entries] for entries in candidates.values()] == [[True] * 2, [False] * 2]

    assert (
        main(
            [
                "solve",
                "--challenges",
                str(path),
                "--out",
                str(tmp_path / "out"),
                "--budget",
                "2m",
                "--visits",
                "1",
                "--workers",
                "0",
                "--votes",
                f"{votes}=2",
            ]
        )
        == 0
    )
    submission, report = check(tmp_path / "out", challenges)
    assert [entry["attempt_1"] for entry in submission["turned"]] == [pair.output.tolist() for pair in task.test]
    assert report["votes from elsewhere"][0]["test inputs"] == 2


def test_what_the_command_cannot_do_is_one_line(write_json, tmp_path, capsys, make_task):
    path = str(write_json("challenges.json", to_challenges([make_task()])))
    for extra, word in (
        (["--out", str(tmp_path)], str(tmp_path)),
        (["--out", str(tmp_path / "o"), "--effort", "0"], "effort is 0, expected 1 or more"),
    ):
        assert main(["induce", "--challenges", path, *extra]) == 2
        line = capsys.readouterr().err
        assert word in line
        assert len(line.splitlines()) == 1
    assert not list(tmp_path.glob(".*.tmp"))
