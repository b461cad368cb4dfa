"""Test which preset, recipe and artifact a run chooses."""

import torch
from runs import options_of, solve_quietly

from hrm_offline.config import PRESETS
from hrm_offline.model.device import Runtime
from hrm_offline.solve.choice import nearest_preset, pick_preset


def test_preset_suits_device_and_task_count(monkeypatch):
    cpu = Runtime(torch.device("cpu"), torch.float32, "")
    assert pick_preset(cpu, 41_000 / 240)[0] == "decoder-170k"
    gpu = Runtime(torch.device("cuda"), torch.bfloat16, "")
    for gib, seconds, expected in (
        (24, 41_000, "decoder-75m"),
        (24, 4_000, "decoder-170k"),
        (8, 41_000, "decoder-170k"),
    ):
        monkeypatch.setattr(Runtime, "memory", gib * 2**30)
        assert pick_preset(gpu, seconds / 240)[0] == expected


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
    assert report["artifact"] is None
    assert report["test inputs without a vote"] == 0
