"""Test the projected timetable of a rehearsal."""

import dataclasses

import pytest

from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import TaskSet
from hrm_offline.presets import PRESETS
from tools.support.timetable import Shares, Work, prediction_flop, spend, timetable

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


def work(visits=100, members=1):
    """Return work whose visit takes a second, its base rounds 10 s and its extra rounds 20 s, at a rate of 1 FLOP/s."""
    recipe = dataclasses.replace(SMALL.adapt, visits=visits, members=members)
    return Work(recipe, visit=1.0, base=10.0, extra=20.0, judges=False)


def test_below_the_ceiling_nothing_is_left():
    spent = spend(work(visits=1000), 500.0, 1.0, 1.0, groups=1)
    assert (spent.visits, spent.views, spent.networks, spent.left) == (470.0, 1.0, 1.0, 0.0)
    spent = spend(work(visits=1000), 40.0, 1.0, 1.0, groups=1)  # too short for all extra rounds
    assert spent.left == 0 and spent.views < 1
    assert spent.adapt + spent.predict == pytest.approx(40.0)


def test_beyond_the_ceiling_whole_members_of_groups_follow():
    spent = spend(work(members=9), 500.0, 1.0, 1.0, groups=2)
    assert (spent.visits, spent.networks) == (100.0, 3.5)
    assert spent.adapt + spent.predict + spent.further + spent.left == pytest.approx(500.0)
    assert spent.left < 130 / 2
    assert spend(work(members=2), 500.0, 1.0, 1.0, groups=2).networks == 2.0


def projection(make_task, monkeypatch, architecture, more=None, hidden_size=64, artifact="mine"):
    """Return the timetable for a rehearsal with a network of this architecture. `more` is added to its report."""
    monkeypatch.setattr("tools.support.timetable._shares_of_peak", lambda *_: Shares(0.2, 0.2))
    monkeypatch.setattr("tools.support.timetable.load_tasks", lambda _: TaskSet("x", (make_task("a"),)))
    report = {
        "device": "cpu",
        "adapted": {"examples": 9},
        "seconds": {"adapt": 1.0, "predict": 1.0, "start": 60.0},
        "model": {"architecture": architecture, "hidden_size": hidden_size},
        "adapt": {"along_share": 0.5},
        "artifact": f"artifacts/{artifact}",
    }
    return timetable((), report | (more or {}), workers=1)


@pytest.mark.parametrize(("along", "is_told"), [({"tasks": 3}, True), ({"tasks": 0}, False), (None, False)])
def test_tasks_learned_along_take_their_share_where_there_are_some(make_task, monkeypatch, along, is_told):
    lines = projection(make_task, monkeypatch, "decoder", {"learned along": along} if along else {})
    assert ("learn other tasks along" in lines[4]) == is_told


@pytest.mark.parametrize(
    ("architecture", "hidden_size", "artifact", "projected", "pretrained"),
    [
        ("shared", 512, "mine", "trm-7m", True),
        ("shared", 64, "mine", "trm-7m", False),
        ("decoder", 64, "decoder-170k", "decoder-4m", True),
        ("decoder", 64, "mine", "decoder-75m", False),
        ("decoder", 768, "mine", "decoder-75m", True),
    ],
)
def test_what_is_projected_follows_the_rehearsed_network(
    make_task, monkeypatch, architecture, hidden_size, artifact, projected, pretrained
):
    lines = projection(make_task, monkeypatch, architecture, hidden_size=hidden_size, artifact=artifact)
    recipe = PRESETS[projected].recipe(pretrained)
    assert f"preset {projected} from {'pretrained' if pretrained else 'random'} weights" in lines[1]
    assert f"of at most {recipe.visits:,} visits" in lines[4] and f"{recipe.vote_views} views" in lines[5]


def test_a_small_decoder_reaches_little_of_a_gpus_peak(make_task, monkeypatch):
    small = projection(make_task, monkeypatch, "decoder", artifact="decoder-170k")[1]
    assert "reaches 4.0% and 0.6% of its 121 TFLOP/s, by what an H200 did with so small a network" in small
    large = projection(make_task, monkeypatch, "shared", hidden_size=512)[1]
    assert large.endswith("reaches 20.0% and 20.0% of its 121 TFLOP/s")


@pytest.mark.parametrize("more", [{"artifact": None}, {"learned along": {"tasks": 3}}])
def test_the_large_decoder_is_projected_from_random_weights_or_beside_public_tasks(make_task, monkeypatch, more):
    lines = projection(make_task, monkeypatch, "decoder", more, artifact="decoder-170k")
    assert "preset decoder-75m from random weights" in lines[1]
