"""Test runs of `solve` that count votes from other solvers and write their own candidates."""

import json
import signal
import sys

import pytest
from runs import CutOff, check, said_until_signal

from hrm_offline.cli import main
from hrm_offline.common.budget import Budget
from hrm_offline.data.tasks import to_challenges
from hrm_offline.solve.job import SolveOptions, solve
from hrm_offline.solve.worker import Worker


@pytest.fixture
def challenges(make_task, write_json):
    value = to_challenges([make_task("a", test=[((3, 3), (3, 3))] * 2), make_task("b", seed=1)])
    value["bad"] = {"train": [{"input": [[11]], "output": [[1]]}], "test": [{"input": [[1]]}, {"input": [[2]]}]}
    return write_json("challenges.json", value), value


@pytest.fixture
def run(challenges, tmp_path):
    """Return a function that solves the challenges in few steps.

    The function returns the submission, the report and the content of `candidates.json`.
    """

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
                    "--preset",
                    "hrm-132k",
                    "--induce",
                    "off",
                    *map(str, extra),
                ]
            )
            == 0
        )
        file = out / "candidates.json"
        return *check(out, challenges[1]), json.loads(file.read_text()) if file.exists() else None

    return run


def test_a_run_writes_its_best_candidates_and_another_one_counts_them(run, challenges, write_json, capsys):
    """Start a finished run again with votes: it only counts anew."""
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


def test_votes_count_from_the_first_submission_on_and_after_a_kill(run, challenges, write_json, tmp_path, capsys):
    """Cut a run off before the network's first vote, and again later: it ends with the answers of an unbroken run."""
    votes = f"{write_json('votes.json', {'b': [[{'grid': [[7]], 'votes': 1}]]})}=2"
    whole = run("--votes", votes, "--candidates", 3, name="whole")
    options = SolveOptions(
        challenges[0],
        tmp_path / "out",
        overrides={"visits": 1},
        workers=1,
        candidates=3,
        votes=(votes,),
        induce="off",
        preset="hrm-132k",
    )
    for messages in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            solve(options, Budget(120), lambda _: None, pool=CutOff(Worker, messages))
        submission = json.loads((tmp_path / "out" / "submission.json").read_text())
        assert submission["b"][0]["attempt_1"] == [[7]]
        assert set(submission) == set(challenges[1])
    capsys.readouterr()
    again = run("--votes", votes, "--candidates", 3)
    assert "going on from" in capsys.readouterr().out
    assert (again[0], again[2]) == (whole[0], whole[2])
    assert whole[0]["b"][0]["attempt_1"] == [[7]]


def test_without_a_vote_of_the_networks_own_others_decide_and_the_fallback_fills_in(challenges, write_json, tmp_path):
    path = write_json("votes.json", {"b": [[{"grid": [[7]], "votes": 1}]]})
    options = SolveOptions(challenges[0], tmp_path / "out", workers=0, votes=(str(path),), candidates=2)
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
    assert said_until_signal(command, signal.SIGTERM, 0).endswith("light")
    submission, report = check(tmp_path / "out", challenges[1])
    assert report["ended early"] == "SIGTERM"
    assert submission["b"][0]["attempt_1"] == [[7]]
    assert set(json.loads((tmp_path / "out" / "candidates.json").read_text())) == set(challenges[1])
