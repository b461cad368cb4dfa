"""Test that artifacts are saved, loaded and imported, and refused where they cannot be used."""

import dataclasses
import json
import pickle

import pytest
import torch
from networks import ARCHITECTURES
from safetensors.torch import load_file, save_file

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import NEW_PUZZLE_ROW, SHARED_ROWS
from hrm_offline.model.artifact import import_checkpoint, load_artifact, save_artifact
from hrm_offline.model.recursive import RecursiveModel

TINY = ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=2, puzzle_emb_ndim=32, halt_max_steps=3)
SIZES = {"num_heads": 2, "H_cycles": 2, "L_cycles": 2, "halt_max_steps": 3}


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


def test_an_artifact_from_before_puzzle_tokens_could_be_set_loads_with_those_it_was_learned_with(tmp_path):
    config = ARCHITECTURES["shared"]
    model = RecursiveModel(config, SHARED_ROWS + 1)
    save_artifact(tmp_path, config, "table", model.state_dict(), ["name"] * (SHARED_ROWS + 1), {})
    settings = json.loads((tmp_path / "config.json").read_text())
    for name in ("puzzle_tokens", "mlp_convolution"):
        del settings["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load_artifact(tmp_path).config == config
    assert config.prefix_tokens == 1


@pytest.mark.parametrize("prefix", ["_orig_mod.model.inner.", "model.inner.", "inner.", "", "module._orig_mod.inner."])
def test_import_of_a_published_checkpoint(tmp_path, prefix):
    torch.manual_seed(1)
    model = RecursiveModel(TINY, 6)
    model.puzzle_emb.weights.normal_()
    torch.save({prefix + name: value for name, value in model.state_dict().items()}, tmp_path / "step_1")
    names = tmp_path / "identifiers.json"
    names.write_text(json.dumps(["<blank>", *"abcde"]))
    assert import_checkpoint(tmp_path / "step_1", tmp_path / "out", identifiers=names, **SIZES) == dataclasses.replace(
        TINY, expansion=TINY.intermediate_size * 1.5 / 32, halt_exploration_prob=0.1
    )
    rebuilt = load_artifact(tmp_path / "out").build(SHARED_ROWS, torch.float32)
    for name, value in model.named_parameters():
        assert torch.equal(rebuilt.get_parameter(name), value)
    assert torch.equal(rebuilt.H_init, model.H_init)
    table = load_file(tmp_path / "out" / "puzzles.safetensors")["puzzle_emb.weights"]
    kept = json.loads((tmp_path / "out" / "puzzles.json").read_text())
    assert torch.equal(table[kept.index("c")], model.puzzle_emb.weights[3])


def test_identifiers_of_another_checkpoint_are_refused_with_both_lengths(tmp_path):
    torch.save(RecursiveModel(TINY, 6).state_dict(), tmp_path / "step_1")
    names = tmp_path / "identifiers.json"
    for content, found in ((["<blank>", "a"], "a list of 2 items"), ({}, "{}"), ([], "[]")):
        names.write_text(json.dumps(content))
        with pytest.raises(InputError) as error:
            import_checkpoint(tmp_path / "step_1", tmp_path / "out", identifiers=names, **SIZES)
        assert f"identifiers.json: is {found}, expected a list of 6 identifiers" in str(error.value)


def test_import_without_puzzle_embeddings_and_with_learned_positions(tmp_path):
    config = dataclasses.replace(
        TINY, puzzle_columns=0, puzzle_emb_ndim=0, positions="learned", canvas_rows=5, canvas_cols=5
    )
    torch.save(RecursiveModel(config, 1).state_dict(), tmp_path / "c")
    assert import_checkpoint(tmp_path / "c", tmp_path / "out", **SIZES).positions == "learned"
    rebuilt = load_artifact(tmp_path / "out").build(SHARED_ROWS, torch.float32)
    assert rebuilt.embed_pos.embedding_weight.shape == (25, 32)


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("content", ["truncated", "not weights", "a pickle", "missing"])
def test_checkpoints_that_cannot_be_used_are_refused(tmp_path, content, capsys):
    path = tmp_path / "step_1"
    if content == "truncated":
        torch.save(RecursiveModel(TINY, 2).state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "not weights":
        torch.save({"lm_head.weight": torch.zeros(12, 32)}, path)
    elif content == "a pickle":
        path.write_bytes(pickle.dumps({"a": Payload()}))
    assert main(["import-checkpoint", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "step_1" in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "never run" not in printed.out


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
