"""Test that a run that was cut off goes on where it was, and only from a run of the same settings."""

import json

import faults
import pytest
from runs import CutOff, check, inline, options_of, save_random_artifact, solve_quietly

from hrm_offline.answers.submission import read_submission
from hrm_offline.common.budget import Budget
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.history import History
from hrm_offline.solve.job import solve
from hrm_offline.solve.paths import selftest_path, state_folder
from hrm_offline.solve.worker import Worker


def test_alone_a_run_that_was_cut_off_goes_on_and_no_other_mode_goes_on_from_it(challenges, tmp_path):
    solve_quietly(options_of(challenges, tmp_path, "whole", sharing="per-task"), pool=inline(faults.Engine))
    said = []
    options = options_of(challenges, tmp_path, sharing="per-task", save_every=0.0)
    for messages in (6, 12, 10**6):
        try:
            solve(options, Budget(300), said.append, pool=CutOff(Worker, messages))
        except KeyboardInterrupt:
            read_submission(options.out / "submission.json", dict.fromkeys(challenges[1], 1))
    assert check(options.out, challenges[1])[0] == check(tmp_path / "whole", challenges[1])[0]
    assert sum("going on from" in line for line in said) >= 1
    assert sum(line.startswith("adapt:") for line in said) < 3 * len(challenges[1])
    said.clear()
    solve(options_of(challenges, tmp_path, workers=0), Budget(300), said.append)
    assert any("starting anew" in line for line in said)


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_answers(challenges, reference, tmp_path):
    said = []
    options = options_of(challenges, tmp_path, save_every=0.0, visits=20)
    for messages in (1, 2, 3, 4, 6, 30):
        try:
            solve(options, Budget(300), said.append, pool=CutOff(Worker, messages))
        except KeyboardInterrupt:
            read_submission(options.out / "submission.json", dict.fromkeys(challenges[1], 1))
    assert check(options.out, challenges[1])[0] == reference
    assert sum("going on from" in line for line in said) >= 2
    assert not list((options.out / "journal").glob("*.safetensors"))  # large, and of no more use
    # A finished run has nothing left to do, and other settings begin anew.
    said.clear()
    solve(options, Budget(300), said.append, pool=inline(faults.Engine))
    assert not any(line.startswith("adapt:") for line in said)
    solve(options_of(challenges, tmp_path, seed=1, workers=0), Budget(300), said.append)
    assert any("starting anew" in line for line in said)
    assert json.loads((options.out / "report.json").read_text())["seed"] == 1


def test_a_new_run_keeps_the_self_test_of_its_first_worker(tmp_path):
    folder = tmp_path / "journal"
    folder.mkdir()
    selftest_path(folder).write_text("{}")
    (folder / "group-000.safetensors").write_bytes(b"of another run")
    history = History(folder, print, lambda: 0.0)
    history.begin({"seed": 1}, [(0,)])
    assert selftest_path(folder).exists() and not (folder / "group-000.safetensors").exists()
    history.close(keep_networks=False)
    assert not selftest_path(folder).exists()


def test_the_state_of_an_adaptation_stays_until_the_journal_has_its_end(challenges, tmp_path, monkeypatch):
    """Check that a run that is killed in between learns nothing twice."""
    there = []

    def watched(history, message):
        there.append(state_folder(history.folder, message.group).is_dir())

    monkeypatch.setattr(History, "adapted", watched)
    options = options_of(challenges, tmp_path, save_every=0.0, visits=20)
    solve_quietly(options, pool=inline(Engine))
    assert there and all(there)
    assert not state_folder(options.out / "journal", 0).exists()


def test_a_run_goes_on_with_its_artifact_wherever_that_lies_and_with_no_other(challenges, tmp_path):
    class CutOffLate(faults.Engine):
        def adapt(self, job):
            for step in super().adapt(job):
                if step == 70:
                    raise KeyboardInterrupt
                yield step

    def said_with(artifact):
        said = []
        options = options_of(challenges, tmp_path, artifact=artifact, visits=400, save_every=0.0)
        with pytest.raises(KeyboardInterrupt):
            solve(options, Budget(300), said.append, pool=inline(CutOffLate))
        return "\n".join(said)

    first = save_random_artifact(tmp_path / "first")
    assert "goes on at" not in said_with(first)
    moved = first.rename(tmp_path / "moved")
    assert "goes on at step 50" in said_with(moved)
    other = said_with(save_random_artifact(moved, seed=1))
    assert "starting anew" in other
    assert "goes on at" not in other
