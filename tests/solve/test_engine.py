"""Test that an adaptation goes on from its saved state after a worker failed, and that CUDA graphs are tried."""

import os
from pathlib import Path

import faults
import pytest
from fake_cuda import FakeCuda
from runs import check, inline, options_of, solve_quietly

from hrm_offline.common.budget import Budget
from hrm_offline.model import graphs
from hrm_offline.predict.predictor import Predictor
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.job import solve
from hrm_offline.solve.messages import Setup
from hrm_offline.train import graphs as trials
from hrm_offline.train import learner


def test_an_adaptation_goes_on_from_its_saved_state(challenges, tmp_path, monkeypatch):
    """Let a worker fail in the middle: the next one loads its state and ends with the same weights."""
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))

    class LateFault(faults.Faulty):
        def adapt(self, job):
            for step in faults.Engine.adapt(self, job):
                if step == 70 and not Path(os.environ[faults.MARK]).exists():
                    Path(os.environ[faults.MARK]).touch()
                    raise RuntimeError("late")
                yield step

    said, answers = [], []
    for name, engine in (("whole", faults.Engine), ("broken", LateFault)):
        options = options_of(challenges, tmp_path, name, visits=400, save_every=0.0)
        solve(options, Budget(300), said.append, pool=inline(engine))
        answers.append(check(options.out, challenges[1])[0])
    assert any("goes on at step 50" in line for line in said)
    assert answers[0] == answers[1]


def test_a_saved_state_goes_on_in_smaller_parts(challenges, tmp_path, monkeypatch):
    """Run out of memory: the next worker computes smaller parts than those of the saved state."""
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))

    class LateShortage(faults.Faulty):
        def adapt(self, job):
            for step in faults.Engine.adapt(self, job):
                if step == 70 and not Path(os.environ[faults.MARK]).exists():
                    Path(os.environ[faults.MARK]).touch()
                    raise faults.torch.OutOfMemoryError("late")
                yield step

    said = []
    options = options_of(challenges, tmp_path, visits=400, save_every=0.0)
    report = solve(options, Budget(300), said.append, pool=inline(LateShortage))
    assert any("goes on at step 50" in line for line in said)
    assert len(report["failures"]) == 1
    assert report["adapted"]["steps"] == report["adapted"]["planned_steps"]


@pytest.mark.usefixtures("real_probes")
def test_graphs_that_a_trial_finds_faster_are_reported_and_change_no_answer(
    challenges, reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(graphs, "open_cuda", lambda device: FakeCuda())
    monkeypatch.setattr(trials, "TRIED_STEPS", 2)
    monkeypatch.setattr(learner, "_MIN_STEPS_AHEAD", 1)
    report = solve_quietly(options_of(challenges, tmp_path, workers=0), seconds=3000)
    assert set(report["cuda graphs"]) == {"adapt", "predict"}
    for choice in report["cuda graphs"].values():
        assert choice.startswith("CUDA graphs on: same numbers, faster")
    assert check(tmp_path / "out", challenges[1])[0] == reference


@pytest.mark.usefixtures("real_probes")
def test_a_probe_that_takes_long_on_a_cpu_is_not_repeated(challenges, tmp_path, monkeypatch):
    """The clock stands still but for the probes, each of which takes a share of the budget."""
    calls, shares = [], []

    def rehearse(self, batch):
        calls.append((len(batch), shares[min(len(calls), len(shares) - 1)]))

    monkeypatch.setattr(Predictor, "rehearse", rehearse)
    options = options_of(challenges, tmp_path)

    def probe(*given):
        shares[:], calls[:] = given, []
        setup = Setup(options, tmp_path, 60.0)
        return Engine(setup, lambda: 60 * 5 * sum(share for _, share in calls), print).seconds_per_cost

    assert probe(0.03) > 0
    assert len(calls) == 1
    usual = probe(0.001)
    assert len(calls) == 1 + 3 + 5
    assert probe(0.019, 0.001) == pytest.approx(usual)  # the first call was cold
    few = [1e-5] * 4  # so short that more rows are tried
    assert probe(*few, 0.03) == pytest.approx(probe(*few, 1.0))  # a call that stalls spoils nothing
