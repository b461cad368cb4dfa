import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from hrm_offline.cli import main
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.model.artifact import load_artifact

# Eight real tasks, the smallest canvases, steps of a few milliseconds.
SETTINGS = [
    "--preset",
    "hrm-132k",
    "--data",
    "arc1-train",
    "--held-out",
    "--max-side",
    "5",
    "--limit",
    "8",
    "--tokens-per-step",
    "150",
    "--steps",
    "60",
    "--warmup-steps",
    "5",
    "--save-every",
    "10",
    "--log-every",
    "5",
    "--threads",
    "1",
]


def launch(out, *extra, processes=1):
    program = ["-m", "hrm_offline", "pretrain", "--out", str(out), *SETTINGS, *extra]
    if processes > 1:
        program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *program]
    return subprocess.Popen([sys.executable, *program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    finish(launch(out))
    return out


def test_writes_an_artifact_metrics_and_state(unbroken):
    artifact = load_artifact(unbroken)
    assert artifact.conditioning == "factored"
    assert len(load_file(unbroken / "puzzles.safetensors")["puzzle_emb.weights"]) == SHARED_ROWS + 8
    lines = metrics(unbroken)
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["lm_loss"] < lines[0]["lm_loss"]
    assert [p.name for p in unbroken.glob("state-*")] == ["state-00000060"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_ends_with_the_same_weights(unbroken, tmp_path, number):
    process = launch(tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 1)
    assert not (tmp_path / "model.safetensors").exists()
    assert "continuing at step" in finish(launch(tmp_path))
    for file in ("model.safetensors", "puzzles.safetensors"):
        ours, expected = load_file(tmp_path / file), load_file(unbroken / file)
        assert all(torch.equal(ours[name], value) for name, value in expected.items())
    # Stopped between two lines, the first one after it averages over fewer steps.
    for ours, expected in zip(metrics(tmp_path), metrics(unbroken), strict=True):
        for key in ("step", "lm_loss") if number == signal.SIGKILL else ("step",):
            assert ours[key] == expected[key]


def test_two_processes_equal_one_at_the_same_global_batch(unbroken, tmp_path):
    """Batches of 150 // 16 = 9 examples split unevenly, 4 and 5. The same bits as one process that
    computes the same two parts, and the same loss as one that computes the whole at once."""
    finish(launch(tmp_path / "two", processes=2))
    finish(launch(tmp_path / "parts", "--micro-batches", "2"))
    for two, one in zip(metrics(tmp_path / "two"), metrics(unbroken), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    ours, expected = (load_artifact(tmp_path / name).weights for name in ("two", "parts"))
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_a_batch_smaller_than_the_processes_is_shared_too(tmp_path):
    settings = ["--tokens-per-step", "20", "--steps", "10"]  # one example a step
    finish(launch(tmp_path / "two", *settings, processes=2))
    finish(launch(tmp_path / "one", *settings))
    for two, one in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_another_runs_state_is_refused(unbroken, capsys):
    assert main(["pretrain", "--out", str(unbroken), *SETTINGS, "--lr", "0.1"]) == 2
    assert "lr" in capsys.readouterr().err


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
