"""Test artifacts made to break or exhaust whoever loads them: each is refused in one line that names the file."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensor_files import entry, write_tensors

from hrm_offline.common.errors import InputError, shown
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.model.artifact import load_artifact, save_artifact
from hrm_offline.model.recursive import RecursiveModel

MATRIX = "H_level.layers.0.mlp.down_proj.weight"
TINY = ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=1, puzzle_emb_ndim=32)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Save a valid artifact, which tests must not change."""
    folder = tmp_path_factory.mktemp("good") / "artifact"
    weights = RecursiveModel(TINY, SHARED_ROWS).state_dict()
    save_artifact(folder, TINY, "table", weights, ["name"] * SHARED_ROWS, {"by": "test"})
    return folder


@pytest.fixture
def artifact(good, tmp_path):
    """Copy the valid artifact, for a test to damage."""
    return shutil.copytree(good, tmp_path / "artifact")


def refusal(folder) -> str:
    with pytest.raises(InputError) as error:
        load_artifact(folder)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(folder))
    return message


class Payload:
    def __reduce__(self):
        return (open, (os.environ["PAYLOAD_MARK"], "w"))


def test_a_pickle_under_the_name_of_weights_is_not_run(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("PAYLOAD_MARK", str(tmp_path / "was run"))
    weights = artifact / "model.safetensors"
    torch.save({"q_head.bias": Payload()}, tmp_path / "checkpoint")
    for content in (pickle.dumps(Payload()), pickle.dumps(Payload(), 0), (tmp_path / "checkpoint").read_bytes()):
        weights.write_bytes(content)
        assert "model.safetensors: not a safetensors file" in refusal(artifact)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_every_truncation_is_refused(artifact, file):
    content = (artifact / file).read_bytes()
    for length in (0, 1, 8, 100, len(content) // 2, len(content) - 1):
        (artifact / file).write_bytes(content[:length])
        assert file in refusal(artifact)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("../../outside", torch.zeros(1), "'../../outside' has no place"),
        ("/outside", torch.zeros(1), "'/outside' has no place"),
        ("H_level.layers.999999999.mlp.down_proj.weight", torch.zeros(1), "has no place"),
        ("a\nb", torch.zeros(1), r"'a\nb'"),
        ("q_head.bias", torch.zeros(2, dtype=torch.int32), "'q_head.bias' has dtype I32"),
        ("q_head.bias", torch.zeros(2, dtype=torch.bool), "'q_head.bias' has dtype BOOL"),
        ("q_head.bias", torch.tensor([0.0, float("nan")]), "'q_head.bias' holds numbers that are not finite"),
        ("q_head.bias", torch.tensor([float("inf"), 0.0]), "'q_head.bias' holds numbers that are not finite"),
        (
            "q_head.bias",
            torch.tensor([0.0, -float("inf")]).bfloat16(),
            "'q_head.bias' holds numbers that are not finite",
        ),
        (
            "q_head.bias",
            torch.tensor([1e300, 0.0], dtype=torch.float64),
            "'q_head.bias' holds numbers that are not finite",
        ),
        ("q_head.bias", torch.zeros(3), "'q_head.bias' is [3], the config asks for [2]"),
        ("q_head.bias", torch.zeros(2, 1), "'q_head.bias' is [2, 1]"),
        ("puzzle_emb.weights", torch.zeros(5, 32), "'puzzle_emb.weights' is [5, 32]"),
        ("puzzle_emb.weights", torch.zeros(10_000, 32), "'puzzle_emb.weights' is [10000, 32]"),
    ],
)
def test_weights_that_cannot_serve_are_named(artifact, name, value, reason):
    weights = artifact / "model.safetensors"
    save_file(load_file(weights) | {name: value}, weights)
    message = refusal(artifact)
    assert reason in message
    assert "model.safetensors" in message


def test_weights_of_fewer_bits_serve_as_float32(artifact):
    weights = artifact / "model.safetensors"
    halved = {name: value.bfloat16() for name, value in load_file(weights).items()}
    save_file(halved, weights)
    loaded = load_artifact(artifact).build(SHARED_ROWS + 1, torch.float32)
    for name, value in loaded.named_parameters():
        assert value.dtype is torch.float32
        assert torch.equal(value, halved[name].float())


def write_config(folder: Path, change) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(
            (name, size)
            for name in (
                "hidden_size",
                "num_heads",
                "H_layers",
                "L_layers",
                "H_cycles",
                "L_cycles",
                "vocab_size",
                "canvas_rows",
                "canvas_cols",
                "puzzle_emb_ndim",
                "puzzle_columns",
                "halt_max_steps",
            )
            for size in (10**9, 10**400, -1, 1.0, "1", True, None, [1], float("nan"))
        ),
        *(
            (name, value)
            for name in ("expansion", "rms_norm_eps", "rope_theta", "halt_exploration_prob")
            for value in (float("nan"), float("inf"), -float("inf"), 10**400, -1.0, 1e300, "1", True, None)
        ),
        ("rms_norm_eps", 0.0),
        ("expansion", 1e-300),
        ("rope_theta", 0),
        ("vocab_size", 4),
        ("puzzle_columns", 2),
        ("puzzle_emb_ndim", 0),
        ("positions", "x" * 10**5),
        ("positions", ["rope-1d"]),
        ("halting", {}),
        ("no\nsuch setting", 1),
        ("__class__", "x"),
    ],
    ids=shown,
)
def test_settings_that_cannot_be_are_refused(artifact, setting, value):
    write_config(artifact, lambda settings: settings["model"].update({setting: value}))
    message = refusal(artifact)
    assert "config.json" in message
    assert setting.splitlines()[0] in message


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.update(extra="__import__('os')"),
        lambda settings: settings.pop("format"),
        lambda settings: settings.update(format=["hrm_offline artifact 2"]),
        lambda settings: settings.update(model=[]),
        lambda settings: settings.pop("model"),
        lambda settings: settings.update(conditioning=["table"]),
        lambda settings: settings.update(conditioning="factored"),
    ],
)
def test_configs_of_another_form_are_refused(artifact, change):
    write_config(artifact, change)
    assert "config.json" in refusal(artifact)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"model":' * 100_000,
        '{"format": ' + "9" * 5000 + "}",
        "\ud800",
        "nan",
        '{"format": "hrm_offline artifact 2"} x',
    ],
    ids=shown,
)
def test_a_config_that_is_no_json_is_refused(artifact, text):
    (artifact / "config.json").write_text(text, errors="surrogatepass")
    assert "config.json" in refusal(artifact)


def test_folders_that_are_none_are_refused(good, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for folder in (tmp_path / "file", tmp_path / "loop", tmp_path / "none", tmp_path / ("x" * 5000), "zero\0"):
        assert "no such artifact folder" in refusal(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("kind", ["missing", "loop", "folder", "pipe", "device", "unreadable"])
def test_files_that_cannot_be_read_are_refused(artifact, file, kind):
    path = artifact / file
    if kind == "unreadable":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    else:
        path.unlink()
        makers = {
            "missing": lambda: None,
            "loop": lambda: path.symlink_to(path),
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
            "device": lambda: path.symlink_to("/dev/zero"),
        }
        makers[kind]()
    message = refusal(artifact)
    assert file in message
    assert "cannot be read" in message


def tensors(header, data_bytes):
    return lambda folder: write_tensors(folder / "model.safetensors", header, data_bytes)


def model_settings(**settings):
    return lambda folder: write_config(folder, lambda config: config["model"].update(settings))


BOMBS = {
    "largest model": model_settings(hidden_size=2**14, num_heads=128, H_layers=256, L_layers=256, expansion=64.0),
    "more layers": model_settings(H_layers=10**6),
    "more cells": model_settings(positions="learned", canvas_rows=10**6),
    "large config": lambda folder: os.truncate(folder / "config.json", 2**30),
    "nested config": lambda folder: (folder / "config.json").write_text("[" * 2**20),
    "large header": lambda folder: write_tensors(folder / "model.safetensors", b"", 2**31, length=2**31),
    "more than a header holds": tensors({str(i): entry(0, 0, (0,)) for i in range(200_000)}, 0),
    "as many as a header holds": tensors({str(i): entry(0, 0, (0,)) for i in range(25_000)}, 0),
    "larger than the file": tensors({"puzzle_emb.weights": entry(0, 2**50, (2**43, 32))}, 2**20),
    "as large as the file": tensors({"puzzle_emb.weights": entry(0, 2**33, (2**26, 32))}, 2**33),
}

MEASURE = """
import json, re, sys
from hrm_offline.model.artifact import load_artifact
from hrm_offline.common.errors import InputError, shown

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

load_artifact(sys.argv[1])  # what any artifact costs comes first
for folder in sys.argv[2:]:
    before = peak()
    try:
        load_artifact(folder)
        print("accepted", folder)
    except InputError:
        print(peak() - before)
before = peak()
filler = b"x" * 2**27
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux tells it")
def test_refusing_takes_little_memory(good, tmp_path):
    folders = []
    for name, damage in BOMBS.items():
        folders.append(str(shutil.copytree(good, tmp_path / name)))
        damage(Path(folders[-1]))
    result = subprocess.run([sys.executable, "-c", MEASURE, str(good), *folders], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *grown, control = map(int, result.stdout.split())
    assert dict(zip(BOMBS, grown)) == {name: pytest.approx(0, abs=32) for name in BOMBS}
    assert control > 100  # MiB of a string of 128: the measure sees what is there


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({MATRIX: torch.int8}, "has dtype I8"),
        ({MATRIX + ".scale": torch.ones(32, 1)}, "has no place, since"),
        ({MATRIX: torch.int8, ".scale": torch.ones(31, 1)}, "are [31, 1], expected"),
        ({MATRIX: torch.int8, ".scale": torch.ones(32, 1).int()}, "has dtype I32"),
        (
            {MATRIX: torch.int8, ".scale": torch.full((32, 1), float("inf"))},
            "not finite",
        ),
        ({"q_head.bias": torch.int8, ".scale": torch.ones(2, 1)}, "has dtype I8"),
    ],
)
def test_scales_that_do_not_fit_are_refused(artifact, changes, reason):
    path = artifact / "model.safetensors"
    weights, name = load_file(path), next(iter(changes))
    for key, value in changes.items():
        key = name + key if key.startswith(".") else key
        weights[key] = weights[key].to(value) if isinstance(value, torch.dtype) else value
    save_file(weights, path)
    assert reason in refusal(artifact)
