"""Test which preset, recipe and artifact a run chooses."""

import dataclasses

import numpy as np
import pytest
import torch
from networks import DECODER
from runs import options_of, solve_quietly

from hrm_offline.common import machine
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.data.tasks import Pair, Task
from hrm_offline.model.artifact import bundled_artifact, load_artifact, save_artifact
from hrm_offline.model.device import Runtime
from hrm_offline.model.network import build_network
from hrm_offline.presets import PRESETS
from hrm_offline.solve.choice import choose, nearest_preset
from hrm_offline.solve.messages import Setup
from hrm_offline.solve.options import SolveOptions


@pytest.mark.parametrize(
    ("gib", "tasks", "seconds", "workers", "visits", "expected"),
    [
        (0, 400, 7200, 2, 160, "decoder-2m"),
        (0, 400, 900, 2, 160, "decoder-170k"),  # too few visits
        (0, 400, 1800, 8, 160, "decoder-2m"),
        (0, 4, 120, 1, 160, "decoder-170k"),  # too few steps
        (0, 2, 1800, 1, 160, "decoder-170k"),  # a step per visit
        (0, 40, 1800, 1, 160, "decoder-2m"),
        (0, 40, 1800, 1, 5, "decoder-170k"),
        (24, 240, 41_000, None, 160, "decoder-4m"),
        (8, 240, 4_000, None, 160, "decoder-4m"),
        (24, 400, 170, None, 160, "decoder-4m"),  # as on an H200
        (24, 240, 10, None, 160, "decoder-170k"),
    ],
)
def test_the_network_suits_the_device_and_the_time(
    tmp_path, monkeypatch, gib, tasks, seconds, workers, visits, expected
):
    monkeypatch.setattr(Runtime, "memory", gib * 2**30)
    monkeypatch.setattr(machine, "physical_cores", lambda: 8)
    options = SolveOptions(tmp_path, tmp_path, workers=workers, bundled=True, overrides={"visits": visits})
    chosen = chosen_for(options, tasks, seconds, "cuda" if gib else "cpu")
    assert nearest_preset(chosen.model) == expected
    assert (chosen.artifact and chosen.artifact.folder) == bundled_artifact(expected)
    assert chosen.warning is None


@pytest.mark.parametrize(
    ("gib", "seconds", "changes", "expected"),
    [
        (24, 41_000, {"along": ("arc1-train",)}, "decoder-75m"),
        (24, 41_000, {"bundled": False}, "decoder-75m"),
        (24, 41_000, {}, "decoder-4m"),
        (24, 4_000, {"along": ("arc1-train",)}, "decoder-4m"),
        (8, 41_000, {"along": ("arc1-train",)}, "decoder-4m"),
    ],
)
def test_a_large_network_learns_from_random_weights_with_public_tasks_alone(
    tmp_path, monkeypatch, gib, seconds, changes, expected
):
    monkeypatch.setattr(Runtime, "memory", gib * 2**30)
    options = SolveOptions(tmp_path, tmp_path, **{"bundled": True} | changes)
    chosen = chosen_for(options, 240, seconds, "cuda")
    assert nearest_preset(chosen.model) == expected
    assert bool(chosen.warning) == ("along" not in changes and expected == "decoder-75m")  # it learns next to nothing


@pytest.mark.parametrize(
    ("device", "preset", "tasks", "changes", "tokens_per_step", "predict_tokens"),
    [
        ("cuda", "decoder-2m", 400, {}, 32_000, 2**18),
        ("cuda", "decoder-2m", 40, {"overrides": {"group_tasks": 20}}, 160 * 20 * 3 * 314 // 640, 2**18),
        ("cuda", "decoder-2m", 40, {}, 160 * 40 * 3 * 314 // 640, 2**18),
        ("cuda", "decoder-2m", 40, {"groups": 4}, 160 * 40 * 3 * 314 // 640 // 4, 2**18),
        ("cuda", "decoder-2m", 40, {"overrides": {"visits": 80}}, 80 * 40 * 3 * 314 // 640, 2**18),
        ("cuda", "decoder-2m", 2, {}, 2000, 2**18),
        ("cuda", "decoder-2m", 400, {"sharing": "per-task"}, 2000, 2**18),
        ("cuda", "decoder-170k", 400, {"overrides": {"tokens_per_step": 900}}, 900, 2**18),
        ("cuda", "decoder-75m", 400, {}, 32_768, 2**17),
        ("cuda", "hrm-132k", 400, {}, 750, 4096),
        ("cpu", "decoder-2m", 400, {}, 2000, 32_768),
    ],
)
def test_a_small_network_takes_large_steps_and_batches_on_a_gpu(
    tmp_path, device, preset, tasks, changes, tokens_per_step, predict_tokens
):
    options = SolveOptions(tmp_path, tmp_path, preset=preset, **{"bundled": True} | changes)
    recipe = chosen_for(options, tasks, 3600, device).recipe
    assert recipe.tokens_per_step == pytest.approx(tokens_per_step, abs=1)
    assert recipe.predict_tokens == predict_tokens
    is_suited = device == "cuda" and preset in ("decoder-2m", "decoder-170k")
    assert recipe.members == (16 if is_suited else PRESETS[preset].recipe(pretrained=True).members)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "decoder-2m"),
        ({"workers": 64}, "decoder-2m"),
        ({"workers": 1}, "decoder-170k"),
        ({"workers": 64, "groups": 1}, "decoder-170k"),  # the groups alone count
        ({"workers": 1, "groups": 8}, "decoder-2m"),
        ({"sharing": "joint"}, "decoder-170k"),
        ({"along": ("arc1-train",), "overrides": {"along_share": 0.9}}, "decoder-170k"),
        ({"bundled": False}, "decoder-170k"),
    ],
)
def test_the_cores_that_learn_count(tmp_path, monkeypatch, changes, expected):
    monkeypatch.setattr(machine, "physical_cores", lambda: 8)
    options = SolveOptions(tmp_path, tmp_path, **{"bundled": True} | changes)
    assert nearest_preset(chosen_for(options, 400, 2000).model) == expected


@pytest.mark.parametrize(
    ("device", "name", "bundled"),
    [
        ("cpu", "decoder-2m", True),
        ("cpu", "decoder-170k", True),
        ("cuda", "decoder-75m", True),
        ("cuda", "decoder-2m", True),
        ("cuda", "decoder-170k", False),
    ],
)
def test_a_run_that_goes_on_keeps_its_network(tmp_path, monkeypatch, device, name, bundled):
    monkeypatch.setattr(Runtime, "memory", 2**40)
    for seconds in (1.0, 1e6):
        chosen = chosen_for(SolveOptions(tmp_path, tmp_path, bundled=bundled), 40, seconds, device, past=past_of(name))
        assert nearest_preset(chosen.model) == name


def past_of(name, recipe=None):
    """Return the identity of a run with a preset, as its journal has it."""
    chosen = PRESETS[name]
    return {
        "model": dataclasses.asdict(chosen.model),
        "recipe": dataclasses.asdict(recipe or chosen.recipe(pretrained=True)),
    }


def test_a_cpu_does_not_go_on_with_the_network_of_a_large_gpu(tmp_path):
    chosen = chosen_for(SolveOptions(tmp_path, tmp_path, bundled=True), 40, 1e6, past=past_of("decoder-75m"))
    assert nearest_preset(chosen.model) == "decoder-2m"


@pytest.mark.parametrize("first", ["cpu", "cuda"])
@pytest.mark.parametrize(("device", "gpus", "workers"), [("cpu", 1, None), ("cuda", 4, None), ("cuda", 1, 3)])
def test_a_run_that_goes_on_keeps_its_recipe_on_another_machine(tmp_path, monkeypatch, first, device, gpus, workers):
    """Otherwise the journal would be another run's, and all votes so far would be lost."""
    monkeypatch.setattr(Runtime, "memory", 2**35)
    options = SolveOptions(tmp_path, tmp_path, bundled=True)
    begun = chosen_for(options, 240, 1e5, first)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    options = dataclasses.replace(options, workers=workers)
    gone_on = chosen_for(options, 240, 1e5, device, past=past_of("decoder-2m", begun.recipe))
    assert gone_on.recipe == begun.recipe
    other = chosen_for(options, 240, 1e5, "cuda" if first == "cpu" else "cpu")
    assert other.recipe != begun.recipe
    asked = dataclasses.replace(options, overrides={"members": 2})
    assert chosen_for(asked, 240, 1e5, device, past=past_of("decoder-2m", begun.recipe)).recipe.members == 2


def chosen_for(options, tasks, seconds, device="cpu", **more):
    """Return the choice for so many tasks of three demonstrations of 12 x 12 cells, and a budget in seconds."""
    grid = np.zeros((12, 12), np.int8)
    pairs = (Pair(grid, grid),) * 3
    given = tuple(Task(f"task{i}", pairs, pairs[:1]) for i in range(tasks))
    runtime = Runtime(torch.device(device), torch.float32, "")
    return choose(Setup(options, options.out, seconds / tasks, **more), runtime, given)


def test_an_artifacts_recipe_is_the_nearest_presets():
    for name, chosen in PRESETS.items():
        assert nearest_preset(chosen.model) == name


def test_a_corrupt_artifact_costs_a_warning(challenges, tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "config.json").write_text("{}")
    (artifact / "model.safetensors").write_bytes(b"\x80\x04no pickle is loaded")
    report = solve_quietly(options_of(challenges, tmp_path, workers=0, artifact=artifact))
    assert "artifact cannot be used" in report["failures"][0]
    assert report["artifact"] == str(bundled_artifact("decoder-170k"))
    assert report["test inputs without a vote"] == 0


@pytest.mark.parametrize(
    ("preset", "overrides", "recoloured", "columns"),
    [
        ("decoder-170k", {}, PRESETS["decoder-170k"].recipe(pretrained=True).colour_permutations, 3),
        ("decoder-170k", {"colour_permutations": 0}, 0, 2),
        ("hrm-132k", {}, 0, 2),
    ],
)
def test_a_decoder_pretrained_in_plain_colours_adapts_to_recoloured_views(
    challenges, tmp_path, preset, overrides, recoloured, columns
):
    assert load_artifact(bundled_artifact(preset)).config.puzzle_columns == 2
    shorter = {"visits": 1, "vote_views": 1} | overrides
    report = solve_quietly(options_of(challenges, tmp_path, workers=0, preset=preset, bundled=True, overrides=shorter))
    assert report["artifact"]
    assert (report["adapt"]["colour_permutations"], report["model"]["puzzle_columns"]) == (recoloured, columns)
    assert report["test inputs without a vote"] == 0


def test_a_network_in_place_keeps_the_columns_of_its_artifact():
    recipe = dataclasses.replace(PRESETS["hrm-132k"].recipe(pretrained=True), colour_permutations=4)
    artifact = load_artifact(bundled_artifact("hrm-132k"))
    assert artifact.conditioned(recipe).config == artifact.config


def test_a_decoder_without_embeddings_learns_plain_views(challenges, tmp_path):
    model = dataclasses.replace(DECODER, puzzle_columns=0)
    save_artifact(tmp_path / "bare", model, "factored", build_network(model, SHARED_ROWS).state_dict(), None, {})
    overrides = {"visits": 1, "vote_views": 1, "search_branches": 0}
    report = solve_quietly(options_of(challenges, tmp_path, workers=0, artifact=tmp_path / "bare", overrides=overrides))
    assert report["artifact"]
    assert (report["adapt"]["colour_permutations"], report["model"]["puzzle_columns"]) == (0, 0)
    assert report["test inputs without a vote"] == 0
