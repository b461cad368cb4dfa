"""Votes from elsewhere: the file, what it weighs, and runs that read and write it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_run import CutOff, said_until_sigterm
from test_solve import check

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
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import BadTask, TaskSet, to_challenges
from hrm_offline.solve.job import SolveOptions, solve
from hrm_offline.solve.supervisor import Crew
from hrm_offline.solve.worker import Worker


def grid(*rows):
    return np.array(rows, dtype=np.uint8)


A, B, C, D = grid([1]), grid([2, 2]), grid([3], [3]), grid([4])


def pool(*counts):
    """A pool of (grid, count) with confidence 0.5."""
    filled = Pool()
    for g, count in counts:
        filled.add(g, count, count / 2)
    return filled


def voted(*votes):
    return [Candidate(g, count, 0.5) for g, count in votes]


def counts_of(pool):
    return [(c.grid.tolist(), pytest.approx(c.count)) for c in pool.ranking()]


# ----- the file


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


# ----- what votes weigh


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


# ----- runs


@pytest.fixture
def challenges(make_task, write_json):
    value = to_challenges([make_task("a", test=[((3, 3), (3, 3))] * 2), make_task("b", seed=1)])
    value["bad"] = {"train": [{"input": [[11]], "output": [[1]]}], "test": [{"input": [[1]]}, {"input": [[2]]}]}
    return write_json("challenges.json", value), value


@pytest.fixture
def run(challenges, tmp_path):
    """Solve the challenges in few steps; returns the submission, the report and what is in `candidates.json`."""

    def run(*extra, name="out"):
        out = tmp_path / name
        assert (
            main(
                [
                    "solve",
                    "--challenges",
                    str(challenges[0]),
                    "--out",
                    str(out),
                    "--budget",
                    "2m",
                    "--visits",
                    "1",
                    "--workers",
                    "0",
                    "--artifact",
                    "none",
                    *map(str, extra),
                ]
            )
            == 0
        )
        file = out / "candidates.json"
        return *check(out, challenges[1]), json.loads(file.read_text()) if file.exists() else None

    return run


def test_a_run_writes_its_best_candidates_and_another_one_counts_them(run, challenges, write_json, capsys):
    """The run is finished after the first command: the others only count again."""
    submission, report, candidates = run("--candidates", 1000)
    assert report["votes from elsewhere"] == []
    assert {task_id: len(entries) for task_id, entries in candidates.items()} == {"a": 2, "b": 1, "bad": 2}
    assert candidates["bad"] == [[], []]
    for task_id, i in (("a", 0), ("a", 1), ("b", 0)):
        ranking = candidates[task_id][i]
        assert sum(c["votes"] for c in ranking) == report["votes per test input"]["mean"]
        assert ranking == sorted(ranking, key=lambda c: (c["votes"], c["confidence"]), reverse=True)
        assert [c["grid"] for c in ranking[:2]] == list(submission[task_id][i].values())[: len(ranking)]
    assert run()[0] == submission  # nothing is left of other votes

    outside = {"b": [[{"grid": [[7]], "votes": 1e-9}]], "bad": [[{"grid": [[8]], "votes": 1}], []]}
    path = write_json("votes.json", outside)
    first, total = candidates["b"][0][0]["votes"], report["votes per test input"]["mean"]
    for votes, wins in ((first + 0.5, True), (first - 0.5, False)):
        other, report, own = run("--candidates", 1000, "--votes", f"{path}={votes / total}", "--votes", path.parent)
        assert other["b"][0]["attempt_1"] == ([[7]] if wins else candidates["b"][0][0]["grid"])
        assert other["bad"][0]["attempt_1"] == [[8]]
        assert (other["a"], other["bad"][1], own) == (submission["a"], submission["bad"][1], candidates)
        assert report["votes from elsewhere"] == [{"file": str(path), "weight": votes / total, "test inputs": 2}]
        assert ["its votes are left out" in failure for failure in report["failures"]] == [True]
    assert "WARNING: its votes are left out" in capsys.readouterr().out
    assert len(run("--candidates", 1)[2]["b"][0]) == 1


def test_the_number_of_candidates_is_checked(challenges, tmp_path, capsys):
    assert main(["solve", "--challenges", str(challenges[0]), "--out", str(tmp_path / "o"), "--candidates", "0"]) == 2
    assert "candidates is 0, expected 1 or more" in capsys.readouterr().err


def test_votes_count_from_the_first_submission_on_and_after_a_kill(run, challenges, write_json, tmp_path):
    """Cut off before any vote of the network's own, and again later: the answer is that of the unbroken run."""
    path = write_json("votes.json", {"b": [[{"grid": [[7]], "votes": 1}]]})
    whole = run("--votes", path, "--candidates", 3, name="whole")
    options = SolveOptions(
        challenges[0], tmp_path / "out", visits=1, crew=Crew(1), candidates=3, votes=(VotesFile(path),)
    )
    for messages in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            solve(options, Budget(120), lambda _: None, pool=CutOff(Worker, messages))
        submission = json.loads((tmp_path / "out" / "submission.json").read_text())
        assert submission["b"][0]["attempt_1"] == [[7]]
        assert set(submission) == set(challenges[1])
    again = run("--votes", path, "--candidates", 3)
    assert (again[0], again[2]) == (whole[0], whole[2])
    assert whole[0]["b"][0]["attempt_1"] == [[7]]


def test_without_a_vote_of_the_networks_own_others_decide_and_the_fallback_fills_in(challenges, write_json, tmp_path):
    path = write_json("votes.json", {"b": [[{"grid": [[7]], "votes": 1}]]})
    options = SolveOptions(challenges[0], tmp_path / "out", crew=Crew(0), votes=(VotesFile(path),), candidates=2)
    report = solve(options, Budget(0.0), lambda _: None)  # no time for any worker
    submission, _ = check(tmp_path / "out", challenges[1])
    assert submission["b"][0]["attempt_1"] == [[7]]
    assert submission["b"][0]["attempt_2"] == challenges[1]["b"]["train"][0]["output"]
    assert report["test inputs without a vote"] == 2
    assert list(report["tasks on their fallback"]) == ["a"]
    candidates = json.loads((tmp_path / "out" / "candidates.json").read_text())
    assert candidates == {"a": [[], []], "b": [[]], "bad": [[], []]}


def test_a_run_that_is_ended_early_has_candidates_and_loaded_no_torch_above(challenges, write_json, tmp_path):
    path = write_json("votes.json", {"b": [[{"grid": [[7]], "votes": 1}]]})
    code = (
        "import os, sys, time; from hrm_offline.cli import main\n"
        "def leave(code): os.write(1, b'torch' if 'torch' in sys.modules else b'light'); end(code)\n"
        "end, os._exit = os._exit, leave; main(sys.argv[1:], time.monotonic())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "solve",
        "--challenges",
        str(challenges[0]),
        "--out",
        str(tmp_path / "out"),
        "--visits",
        "100000",
        "--budget",
        "10m",
        "--votes",
        str(path),
        "--candidates",
        "2",
    ]
    assert said_until_sigterm(command).endswith("light")
    submission, report = check(tmp_path / "out", challenges[1])
    assert report["ended early"] == "SIGTERM"
    assert submission["b"][0]["attempt_1"] == [[7]]
    assert set(json.loads((tmp_path / "out" / "candidates.json").read_text())) == set(challenges[1])
