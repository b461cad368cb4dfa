"""Test whole runs of `solve` with a decoder: judged candidates, votes from elsewhere, and runs that were cut off."""

import json

import numpy as np
import pytest
from runs import CutOff, check, options_of, solve_quietly

from hrm_offline.answers.candidates import write_candidates
from hrm_offline.answers.vote import Candidate
from hrm_offline.common.budget import Budget
from hrm_offline.solve import choice, engine
from hrm_offline.solve.history import History
from hrm_offline.solve.job import solve
from hrm_offline.solve.worker import Worker

OPTIONS = {"preset": "decoder-170k", "overrides": {"visits": 8, "tokens_per_step": 300}, "workers": 0}


def scores_of(out):
    """Return the scores in a run's journal: how many for each test input of the group."""
    history = History(out / "journal", say=lambda _: None, clock=lambda: 0.0)
    return {(group, test) for group, votes in history.scores() for test in votes.tests.tolist()}


@pytest.fixture
def unbroken(challenges, tmp_path):
    """Return the folder of a run that nothing disturbed."""
    solve_quietly(options_of(challenges, tmp_path, "unbroken", **OPTIONS))
    return tmp_path / "unbroken"


def test_a_run_that_was_cut_off_anywhere_answers_as_an_unbroken_one(challenges, tmp_path, unbroken):
    expected = json.loads((unbroken / "submission.json").read_text())
    for messages in (2, 4):
        name = f"cut-{messages}"
        pool = CutOff(lambda receive, send: Worker(receive, send, engine.Engine), messages)
        with pytest.raises(KeyboardInterrupt):
            solve_quietly(options_of(challenges, tmp_path, name, **OPTIONS), pool=pool)
        solve_quietly(options_of(challenges, tmp_path, name, **OPTIONS))
        assert check(tmp_path / name, challenges[1])[0] == expected
        assert scores_of(tmp_path / name) == scores_of(unbroken)


def test_a_run_that_goes_on_keeps_its_network(challenges, tmp_path, monkeypatch):
    """With another budget `solve` would choose another one, and lose the journal."""
    began = OPTIONS | {"bundled": True}
    solve_quietly(options_of(challenges, tmp_path, **began))
    monkeypatch.setattr(choice, "_pick_preset", lambda *_: ("hrm-132k", "for the test"))
    said = []
    solve(options_of(challenges, tmp_path, **began | {"preset": None}), Budget(300), say=said.append)
    assert any("going on from" in line for line in said)


def test_a_candidate_from_elsewhere_is_judged_too(challenges, tmp_path):
    """A grid of one colour, with as many votes as all others, gets a score beside its first attempt."""
    votes = tmp_path / "votes.json"
    odd = np.full((3, 3), 7, dtype=np.uint8)
    write_candidates(votes, {task_id: [[Candidate(odd, 100, 0.5)]] for task_id in challenges[1]})
    options = options_of(challenges, tmp_path, votes=(f"{votes}=100",), **OPTIONS)
    report = solve_quietly(options)
    assert not report["failures"]
    history = History(tmp_path / "out" / "journal", say=lambda _: None, clock=lambda: 0.0)
    judged = [votes.grid(i).tolist() for _, votes in history.scores() for i in range(len(votes))]
    assert judged.count(odd.tolist()) == len(challenges[1])


def test_judging_that_fails_costs_no_answer(challenges, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("judging fails")

    monkeypatch.setattr(engine.Engine, "judge", fail)
    report = solve_quietly(options_of(challenges, tmp_path, **OPTIONS))
    assert report["test inputs without a vote"] == 0
    assert any("judging candidates" in failure for failure in report["failures"])


def test_a_worker_that_is_lost_while_judging_changes_no_answer(challenges, tmp_path, monkeypatch):
    whole = solve_quietly(options_of(challenges, tmp_path, "whole", **OPTIONS))
    judge, asked = engine.Engine.judge, []

    def fail_once(self, job):
        asked.append(len(job.tests))
        for number, found in enumerate(judge(self, job)):
            if len(asked) == 1 and number == 1:
                raise RuntimeError("lost")
            yield found

    monkeypatch.setattr(engine.Engine, "judge", fail_once)
    monkeypatch.setattr(engine, "_JUDGED_BATCHES", 1e-3)  # so that a few candidates are handed over before
    report = solve_quietly(options_of(challenges, tmp_path, "lost", **OPTIONS))
    assert not whole["failures"] and len(report["failures"]) == 1
    assert 0 < asked[1] < asked[0]
    expected, found = (check(tmp_path / name, challenges[1])[0] for name in ("whole", "lost"))
    assert found == expected


def test_further_members_vote_too_and_a_run_that_was_cut_off_goes_on_with_them(challenges, tmp_path):
    options = OPTIONS | {"overrides": OPTIONS["overrides"] | {"members": 2}}
    report = solve_quietly(options_of(challenges, tmp_path, "whole", **options), seconds=10**6)
    expected, report = check(tmp_path / "whole", challenges[1])
    assert [group["member"] for group in report["adapted"]["groups"]] == [0, 1]
    assert report["votes per test input"]["least"] >= 16
    assert report["ended because"].endswith("by all 2 members")
    assert report["adapted"]["groups"][1]["seconds"] > 0
    for messages in (7, 9):
        pool = CutOff(lambda receive, send: Worker(receive, send, engine.Engine), messages)
        with pytest.raises(KeyboardInterrupt):
            solve_quietly(options_of(challenges, tmp_path, f"cut-{messages}", **options), seconds=10**6, pool=pool)
        solve_quietly(options_of(challenges, tmp_path, f"cut-{messages}", **options), seconds=10**6)
        assert check(tmp_path / f"cut-{messages}", challenges[1])[0] == expected
