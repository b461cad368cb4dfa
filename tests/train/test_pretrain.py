"""Test pretraining: its files, its settings, and that a killed run ends with the same weights."""

import dataclasses
import json
import os
import signal
import time

import pytest
import torch
from pretraining import SETTINGS, metrics, run, start
from safetensors.torch import load_file

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.config import PretrainConfig
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.model.artifact import bundled_artifact, load_artifact, save_artifact
from hrm_offline.model.network import build_network
from hrm_offline.presets import PRESETS
from hrm_offline.train import pretrain as pretrain_module


def test_writes_an_artifact_metrics_and_state(unbroken):
    artifact = load_artifact(unbroken)
    assert artifact.conditioning == "factored"
    assert len(load_file(unbroken / "puzzles.safetensors")["puzzle_emb.weights"]) == SHARED_ROWS + 16
    lines = metrics(unbroken)
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["lm_loss"] < lines[0]["lm_loss"]
    assert [p.name for p in unbroken.glob("state-*")] == ["state-00000060"]


def test_each_state_is_written_once(tmp_path, monkeypatch):
    """Step 20 is due to be saved, and is the last one. A run that has ended has nothing to save."""
    save, steps = pretrain_module.save_state, []

    def watched(out, learner, *rest):
        steps.append(learner.step)
        save(out, learner, *rest)

    monkeypatch.setattr(pretrain_module, "save_state", watched)
    for _ in range(2):
        assert main(["pretrain", "--out", str(tmp_path), *SETTINGS, "--steps", "20"]) == 0
    assert steps == [10, 20]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 1)])
def test_killed_and_resumed_ends_with_the_same_weights(unbroken, tmp_path, number, code):
    process = start(tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    assert not (tmp_path / "model.safetensors").exists()
    assert "continuing at step" in run(tmp_path)
    for file in ("model.safetensors", "puzzles.safetensors"):
        ours, expected = load_file(tmp_path / file), load_file(unbroken / file)
        assert all(torch.equal(ours[name], value) for name, value in expected.items())
    # Stopped between two lines, the first one after it averages over fewer steps.
    for ours, expected in zip(metrics(tmp_path), metrics(unbroken), strict=True):
        for key in ("step", "lm_loss") if number == signal.SIGKILL else ("step",):
            assert ours[key] == expected[key]


def test_begins_with_the_weights_of_an_artifact(unbroken, tmp_path, capsys):
    still = ("--steps", "1", "--lr", "1e-30", "--weight-decay", "0", "--log-every", "1")
    run(tmp_path / "more", *still, "--start", str(unbroken))
    before, after = (load_file(folder / "model.safetensors") for folder in (unbroken, tmp_path / "more"))
    network = [name for name in before if not name.startswith("puzzle_emb")]
    assert network and all(torch.equal(before[name], after[name]) for name in network)
    first = metrics(tmp_path / "more")[0]["lm_loss"]
    assert metrics(unbroken)[-1]["lm_loss"] < first < metrics(unbroken)[0]["lm_loss"]  # the puzzles' rows are new
    origin = json.loads((tmp_path / "more" / "config.json").read_text())["origin"]
    assert origin["start"] == json.loads((unbroken / "config.json").read_text())["origin"]
    assert "saved with start" in run(tmp_path / "more", *still, code=2)  # it is no run from random weights


def test_begins_with_the_artifact_of_the_package_where_there_is_one():
    config = PRESETS["decoder-170k"].pretrain
    begun = pretrain_module._start_of(dataclasses.replace(config, start="bundled"), PRESETS["decoder-170k"].model)
    assert begun.folder == bundled_artifact("decoder-170k")
    with pytest.raises(InputError, match="no artifact of preset hrm-13m"):
        pretrain_module._start_of(PretrainConfig(preset="hrm-13m", start="bundled"), PRESETS["hrm-13m"].model)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--preset", "decoder-170k"), "has architecture hrm, expected decoder as preset decoder-170k"),
        (("--preset", "hrm-132k", "--conditioning", "table"), "expected"),
        (("--preset", "hrm-13m"), "hidden_size 64, expected 512"),
    ],
)
def test_refuses_to_begin_with_another_network(unbroken, tmp_path, capsys, flags, words):
    command = ["pretrain", "--data", "synthetic-2", "--held-out", "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--start", str(unbroken)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_refuses_to_begin_with_a_network_of_a_later_setting(unbroken, tmp_path, capsys):
    """A setting that older runs did not have still makes another network."""
    artifact = load_artifact(unbroken)
    other = dataclasses.replace(artifact.config, pre_norm=True)
    model = build_network(other, SHARED_ROWS)
    save_artifact(tmp_path / "other", other, "factored", model.state_dict(), None, {})
    command = ["pretrain", "--preset", "hrm-132k", "--data", "synthetic-2", "--held-out", "--out", str(tmp_path / "o")]
    assert main([*command, "--start", str(tmp_path / "other")]) == 2
    assert "has pre_norm True, expected False" in capsys.readouterr().err
    assert main([*command, "--start", str(tmp_path)]) == 2
    assert "cannot be read as an artifact, it has no config.json" in capsys.readouterr().err


def test_config_file_is_overridden_by_flags_and_checked(tmp_path, capsys, write_json):
    config = write_json(
        "c.json", {"preset": "hrm-132k", "steps": 3, "held_out": [], "max_side": 3, "limit": 2, "lr": 1}
    )
    assert main(["pretrain", "--out", str(tmp_path / "o"), "--config", str(config), "--steps", "2"]) == 0
    assert json.loads((tmp_path / "o" / "config.json").read_text())["origin"]["steps"] == 2
    wrong = (({"stepz": 3}, "stepz"), ({"steps": "3"}, "steps"), ({"preset": "x"}, "hrm-132k"), ([], "object"))
    for bad, word in wrong:
        assert main(["pretrain", "--out", str(tmp_path / "p"), "--config", str(write_json("b.json", bad))]) == 2
        assert word in capsys.readouterr().err
