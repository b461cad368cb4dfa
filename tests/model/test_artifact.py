"""Test that artifacts are saved and loaded, and refused where they cannot be used."""

import json
import pickle

import pytest
import torch
from networks import ARCHITECTURES
from safetensors.torch import load_file, save_file

from hrm_offline.common.errors import InputError
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import NEW_PUZZLE_ROW, SHARED_ROWS
from hrm_offline.model.artifact import load_artifact, save_artifact
from hrm_offline.model.recursive import RecursiveModel

TINY = ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=2, puzzle_emb_ndim=32, halt_max_steps=3)


@pytest.fixture
def saved(tmp_path):
    """Return an artifact folder and the model that it was saved from."""
    torch.manual_seed(0)
    model = RecursiveModel(TINY, SHARED_ROWS + 4)
    model.puzzle_emb.weights.normal_()
    folder = tmp_path / "artifact"
    save_artifact(folder, TINY, "table", model.state_dict(), ["name"] * (SHARED_ROWS + 4), {"by": "test"})
    return folder, model


def edit_config(folder, **changes):
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["model"] |= changes
    path.write_text(json.dumps(settings))


def test_round_trip_and_new_puzzles_start_from_the_mean(saved):
    folder, model = saved
    loaded = load_artifact(folder)
    assert loaded.config == TINY
    rebuilt = loaded.build(SHARED_ROWS + 7, torch.float32)
    for name, value in model.named_parameters():
        assert torch.equal(rebuilt.get_parameter(name), value)
    mean = model.puzzle_emb.weights[SHARED_ROWS:].mean(0)
    assert torch.allclose(rebuilt.puzzle_emb.weights[SHARED_ROWS:], mean.expand(7, -1))
    assert torch.equal(rebuilt.puzzle_emb.weights[:NEW_PUZZLE_ROW], model.puzzle_emb.weights[:NEW_PUZZLE_ROW])
    assert torch.equal(
        load_file(folder / "puzzles.safetensors")["puzzle_emb.weights"][SHARED_ROWS:],
        model.puzzle_emb.weights[SHARED_ROWS:],
    )


def test_matrices_may_be_kept_as_int8_with_a_scale_per_row(saved, tmp_path):
    _, model = saved
    with torch.no_grad():
        model.puzzle_emb.weights[0] = 0.0
    weights = model.state_dict()
    save_artifact(tmp_path / "small", TINY, "table", weights, ["name"] * (SHARED_ROWS + 4), {}, store="int8")
    stored = load_file(tmp_path / "small" / "model.safetensors")
    assert {stored[name].dtype for name, value in weights.items() if value.ndim == 2} == {torch.int8}
    loaded = load_artifact(tmp_path / "small").weights
    assert loaded.keys() == weights.keys() and {value.dtype for value in loaded.values()} == {torch.float32}
    for name, value in weights.items():
        value = value[: len(loaded[name])]
        row = value.abs().amax(1, keepdim=True) if value.ndim == 2 else 0.0
        kept = slice(None) if name != "puzzle_emb.weights" else torch.arange(len(loaded[name])) != NEW_PUZZLE_ROW
        assert bool(((loaded[name] - value).abs() <= row / 254 * 1.001)[kept].all())
    assert not loaded["puzzle_emb.weights"][0].any()


def test_an_artifact_from_before_puzzle_tokens_could_be_set_loads_with_those_it_was_learned_with(tmp_path):
    config = ARCHITECTURES["shared"]
    model = RecursiveModel(config, SHARED_ROWS + 1)
    save_artifact(tmp_path, config, "table", model.state_dict(), ["name"] * (SHARED_ROWS + 1), {})
    settings = json.loads((tmp_path / "config.json").read_text())
    for name in ("puzzle_tokens", "mlp_convolution", "pre_norm", "puzzle_place"):
        del settings["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load_artifact(tmp_path).config == config
    assert config.prefix_tokens == 1


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


def damage(folder, how):
    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "huge header":
        weights.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    elif how == "pickle":
        weights.write_bytes(pickle.dumps({"a": Payload()}))
    elif how == "no weights":
        weights.unlink()
    elif how == "other sizes":
        edit_config(folder, hidden_size=64)
    elif how == "more layers":
        edit_config(folder, H_layers=2)
    elif how == "fewer layers":
        edit_config(folder, L_layers=1)
    elif how == "unknown setting":
        edit_config(folder, hiden_size=32)
    elif how == "wrong type":
        edit_config(folder, hidden_size="32")
    elif how == "config of nothing":
        (folder / "config.json").write_text("{}")
    elif how == "extra tensor":
        save_file(load_file(weights) | {"../x": torch.zeros(1)}, weights)


@pytest.mark.parametrize(
    ("how", "file"),
    [
        ("truncated", "model.safetensors"),
        ("huge header", "model.safetensors"),
        ("pickle", "model.safetensors"),
        ("no weights", "model.safetensors"),
        ("other sizes", "model.safetensors"),
        ("more layers", "model.safetensors"),
        ("fewer layers", "model.safetensors"),
        ("extra tensor", "model.safetensors"),
        ("unknown setting", "config.json"),
        ("wrong type", "config.json"),
        ("config of nothing", "config.json"),
    ],
)
def test_artifacts_that_cannot_be_used_are_refused_by_file(saved, how, file):
    damage(saved[0], how)
    with pytest.raises(InputError, match=file) as error:
        load_artifact(saved[0])
    assert "\n" not in str(error.value)


def test_weights_serve_on_every_canvas(saved):
    """Predict on a tight canvas and on the full one with the same artifact."""
    model = load_artifact(saved[0]).build(SHARED_ROWS + 1, torch.float32)
    for canvas in ((3, 3), (30, 30), (2, 7)):
        cells = canvas[0] * canvas[1]
        states = model.initial_states(1, canvas)
        vectors = model.puzzle_vectors(torch.tensor([[SHARED_ROWS]]))
        output = model(*states, torch.zeros(1, cells, dtype=torch.int32), vectors, canvas)[2]
        assert output.logits.shape == (1, cells, 12)
