"""Test files of candidates: how they are read, checked and weighed against the network's own votes."""

from pathlib import Path

import numpy as np
import pytest
from ballots import A, B, C, D

from hrm_offline.answers.candidates import (
    VotesFile,
    merged,
    read_candidates,
    read_outside,
    top_candidates,
    write_candidates,
)
from hrm_offline.answers.submission import build_submission, fallback_submission
from hrm_offline.answers.vote import Candidate, Pool
from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import BadTask, TaskSet


def pool(*counts):
    """Return a pool of (grid, count) votes, each with confidence 0.5."""
    filled = Pool()
    for g, count in counts:
        filled.add(g, count, count / 2)
    return filled


def voted(*votes):
    return [Candidate(g, count, 0.5) for g, count in votes]


def counts_of(pool):
    return [(c.grid.tolist(), pytest.approx(c.count)) for c in pool.ranking()]


@pytest.fixture
def tasks(make_task):
    good = (make_task("a", test=[((3, 3), (3, 3))] * 2), make_task("b"))
    return TaskSet("tasks.json", good, (BadTask("bad", "", 2),))


def test_candidates_round_trip(tasks, tmp_path):
    given = {"b": [voted((A, 2), (B, 0.5))], "a": [[], [Candidate(C, 1, 0.0)]], "bad": [voted((A, 1)), []]}
    write_candidates(tmp_path / "c.json", given)
    back = read_candidates(tmp_path / "c.json", tasks)
    assert list(back) == ["b", "a", "bad"]
    for task_id, entries in given.items():
        assert [[(c.grid.tolist(), c.count, c.confidence) for c in entry] for entry in back[task_id]] == [
            [(c.grid.tolist(), c.count, c.confidence) for c in entry] for entry in entries
        ]
        assert all(c.grid.dtype == np.uint8 for entry in back[task_id] for c in entry)


def test_a_confidence_may_be_left_out(tasks, write_json):
    path = write_json("c.json", {"b": [[{"grid": [[1]], "votes": 3}]]})
    assert read_candidates(path, tasks)["b"][0][0].confidence == 0


def candidate(**changes):
    return {"b": [[{"grid": [[1]], "votes": 1, "confidence": 0.5}, {"grid": [[1]], "votes": 1} | changes]]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty"]),
        ("{", ["not JSON"]),
        ([], ["expected an object of tasks", "[]"]),
        ({"z": [[]]}, ["task z", "is not a task of tasks.json"]),
        ({"b": {}}, ["task b", "expected a list of 1 entries", "{}"]),
        ({"b": [[], []]}, ["task b", "expected a list of 1 entries", "a list of 2 items"]),
        ({"a": [[]]}, ["task a", "expected a list of 2 entries", "a list of 1 item"]),
        ({"a": [[], None]}, ["task a: entry 1", "expected a list of candidates", "None"]),
        ({"a": [[[[1]]], []]}, ["task a: entry 0: candidate 0", "expected an object with grid and votes"]),
        ({"b": [[{"votes": 1}]]}, ["candidate 0", "has no grid"]),
        ({"b": [[{"grid": [[1]]}]]}, ["candidate 0", "has no votes"]),
        *(
            (candidate(grid=value), ["task b: entry 0: candidate 1: grid", word])
            for value, word in (
                ([], "non-empty"),
                ([[10]], "10"),
                ([[1, 2], [3]], "ragged"),
                ([[1] * 31], "31"),
                ("1", "'1'"),
            )
        ),
        *(
            (candidate(votes=value), ["task b: entry 0: candidate 1: votes", "above 0"])
            for value in (0, -1, float("nan"), float("inf"), 10**400, "1", True, None)
        ),
        *(
            (candidate(confidence=value), ["task b: entry 0: candidate 1: confidence", "from 0 to 1"])
            for value in (-0.1, 1.1, float("nan"), float("inf"), "1", True, None)
        ),
    ],
)
def test_an_invalid_file_is_refused_by_task_entry_and_reason(content, words, tasks, write_json):
    path = write_json("c.json", content)
    with pytest.raises(InputError) as error:
        read_candidates(path, tasks)
    assert all(word in str(error.value) for word in [str(path), *words])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("weight", "attempts"), [(2, [D, A]), (0.5, [A, D])])
def test_a_right_candidate_from_elsewhere_wins_where_it_weighs_more(weight, attempts, make_task):
    own = pool((A, 7), (B, 3))
    fallback = fallback_submission(TaskSet("x", (make_task("t"),)))
    [entry] = build_submission(fallback, {("t", 0): merged(own, [(voted((D, 0.1)), weight)])})["t"]
    assert list(entry.values()) == [g.tolist() for g in attempts]


def test_votes_are_shared_in_proportion_and_confidence_is_their_mean():
    own = pool((A, 6), (B, 2))
    [first, second, third] = merged(own, [([Candidate(B, 30, 1.0), Candidate(C, 10, 0.0)], 1.0)]).ranking()
    assert [first.grid.tolist(), first.count, first.confidence] == [B.tolist(), 8, pytest.approx((2 * 0.5 + 6) / 8)]
    assert [second.grid.tolist(), second.count, second.confidence] == [A.tolist(), 6, 0.5]
    assert [third.grid.tolist(), third.count, third.confidence] == [C.tolist(), 2, 0.0]
    assert counts_of(own) == [(A.tolist(), 6), (B.tolist(), 2)]  # as it was


def test_every_source_is_weighed_against_the_networks_own_votes():
    own, one, other = pool((A, 4)), (voted((B, 1)), 2.0), (voted((C, 100), (B, 100)), 1.0)
    expected = [(B.tolist(), 8 + 2), (A.tolist(), 4), (C.tolist(), 2)]
    assert counts_of(merged(own, [one, other])) == counts_of(merged(own, [other, one])) == expected


def test_without_own_votes_the_sources_decide():
    assert counts_of(merged(Pool(), [(voted((A, 3), (B, 0.5)), 0.01)])) == [(A.tolist(), 3), (B.tolist(), 0.5)]
    assert counts_of(merged(Pool(), [(voted((A, 11)), 1), (voted((B, 1)), 3)])) == [(B.tolist(), 9), (A.tolist(), 3)]


@pytest.mark.parametrize("sources", ([], [([], 5.0)]))
def test_without_votes_from_elsewhere_the_own_ranking_is_unchanged(sources):
    own = pool((B, 1), (A, 3), (C, 1))
    assert counts_of(merged(own, sources)) == counts_of(own)
    assert merged(own, sources).count == 5


def test_votes_of_any_size_leave_numbers():
    tiny, huge = 5e-324, 1e100
    for own in (Pool(), pool((A, 3))):
        ranking = merged(own, [(voted((B, huge), (C, tiny)), huge), (voted((D, tiny)), tiny)]).ranking()
        assert ranking[0].grid is B
        assert all(np.isfinite([c.count, c.confidence]).all() and c.count > 0 for c in ranking)


def test_the_best_candidates_leave_out_an_empty_grid_and_tasks_without_votes():
    votes = {("t", 1): pool((A, 1), (np.zeros((0, 0), np.uint8), 9), (B, 3), (C, 2))}
    top = top_candidates(votes, {"t": 2, "bad": 1}, 2)
    assert [[c.grid.tolist() for c in entry] for entry in top["t"]] == [[], [B.tolist(), C.tolist()]]
    assert top["bad"] == [[]]


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("votes.json", "votes.json", 1.0),
        ("votes.json=0.5", "votes.json", 0.5),
        ("a=1/b.json=2e3", "a=1/b.json", 2000.0),
    ],
)
def test_a_weight_follows_the_last_equals_sign(text, path, weight):
    assert VotesFile.parse(text) == VotesFile(Path(path), weight)


def test_a_files_own_name_may_have_an_equals_sign(tmp_path):
    (tmp_path / "run=1").mkdir()
    for name in ("votes=2", "votes=2.json", "run=1/votes.json", "a=b", "c", "c=2"):
        (tmp_path / name).write_text("{}")

    def parsed(text):
        file = VotesFile.parse(f"{tmp_path}/{text}")
        return str(file.path.relative_to(tmp_path)), file.weight

    assert parsed("votes=2") == ("votes=2", 1.0)
    assert parsed("votes=2=3") == ("votes=2", 3.0)
    assert parsed("votes=2.json") == ("votes=2.json", 1.0)
    assert parsed("votes=2.json=0.5") == ("votes=2.json", 0.5)
    assert parsed("run=1/votes.json") == ("run=1/votes.json", 1.0)
    assert parsed("a=b") == ("a=b", 1.0)
    assert parsed("c=2") == ("c", 2.0)  # both are there: FILE=WEIGHT


@pytest.mark.parametrize("weight", ["", "0", "-1", "nan", "inf", "two", "1/2"])
def test_a_malformed_weight_is_refused(weight, tmp_path, capsys):
    command = ["solve", "--challenges", "rehearsal", "--out", str(tmp_path / "out"), "--votes", f"votes.json={weight}"]
    assert main(command) == 2
    line = capsys.readouterr().err
    assert "votes.json" in line
    assert "above 0" in line
    assert len(line.splitlines()) == 1


def test_what_cannot_be_used_of_a_file_costs_no_more_than_itself_and_a_warning(tasks, write_json, tmp_path):
    good = write_json("good.json", {"b": [[{"grid": [[1]], "votes": 1}]], "a": [[], []]})
    bad = write_json("bad.json", {"z": [], "b": [[{"grid": [[2]], "votes": 1}]], "a": [[], [{"grid": [[11]]}]]})
    outside = read_outside(
        [VotesFile(bad), VotesFile(good, 2.0), VotesFile(tmp_path / "none"), VotesFile(tmp_path)], tasks
    )
    assert outside.counted == [
        {"file": str(bad), "weight": 1.0, "test inputs": 1},
        {"file": str(good), "weight": 2.0, "test inputs": 1},
    ]
    assert list(outside.sources) == [("b", 0)]
    assert [(entry[0].grid.tolist(), weight) for entry, weight in outside.sources["b", 0]] == [([[2]], 1), ([[1]], 2)]
    assert [
        name in warning
        for name, warning in zip(
            ("2 tasks are left out, the first of them: " + str(bad), "none", "regular"), outside.warnings, strict=True
        )
    ] == [True] * 3
