"""Test the projected timetable of a rehearsal."""

import dataclasses

import pytest

from hrm_offline.config import PRESETS
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import TaskSet
from tools.support.timetable import Shares, prediction_flop, timetable

SMALL = PRESETS["hrm-132k"]


def test_prediction_costs_by_outer_step_and_view(make_task):
    def cost(**changes):
        recipe = dataclasses.replace(SMALL.adapt, **{"vote_views": 4, "outer_steps": 4, **changes})
        return prediction_flop(SMALL.model, PuzzleSet((make_task("a"), make_task("b", seed=1)), recipe, SMALL.model, 0))

    assert cost(outer_steps=8) == pytest.approx(2 * cost())
    assert cost(vote_views=1) == pytest.approx(cost() / 4)


def test_there_is_no_timetable_without_a_measurement_that_can_be_compared():
    report = {"device": "cuda in bfloat16", "adapted": {"examples": 9}, "seconds": {"predict": 1.0}}
    [line] = timetable((), report, workers=1)
    assert "No projection" in line
    assert "cuda" in line
    [line] = timetable((), report | {"device": "cpu", "adapted": {"examples": 0}}, workers=1)
    assert "nothing was adapted" in line


@pytest.mark.parametrize(("architecture", "projected"), [("shared", "trm-7m"), ("decoder", "decoder-75m")])
def test_what_is_projected_follows_the_rehearsed_network(make_task, monkeypatch, architecture, projected):
    monkeypatch.setattr("tools.support.timetable._shares_of_peak", lambda *_: Shares(0.2, 0.2))
    monkeypatch.setattr("tools.support.timetable.load_tasks", lambda _: TaskSet("x", (make_task("a"),)))
    report = {
        "device": "cpu",
        "adapted": {"examples": 9},
        "seconds": {"adapt": 1.0, "predict": 1.0, "start": 60.0},
        "model": {"architecture": architecture},
        "artifact": "an artifact",
    }
    lines = timetable((), report, workers=1)
    recipe = PRESETS[projected].recipe(pretrained=True)
    assert f"preset {projected}" in lines[1]
    assert f"{recipe.visits:,} visits" in lines[4] and f"{recipe.vote_views} views" in lines[5]
