"""Test the import of published checkpoints: what is recognised, where settings come from, and what is refused."""

import json
import pickle
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from places import GOLDEN
from safetensors.torch import load_file

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import BLANK_ROW, NEW_PUZZLE_ROW, SHARED_ROWS
from hrm_offline.model.artifact import load_artifact
from hrm_offline.model.published import import_checkpoint
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import PRESETS

HRM = ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=2, puzzle_emb_ndim=32, halt_max_steps=3)
TRM = replace(PRESETS["trm-7m"].model, hidden_size=32, num_heads=2, L_layers=1, puzzle_emb_ndim=32, puzzle_tokens=5)
URM = replace(PRESETS["urm-14m"].model, hidden_size=32, num_heads=2, H_layers=2, puzzle_emb_ndim=32)
NETWORKS = {"HRM": HRM, "TRM": TRM, "URM": URM}
ROWS = 6
PREFIX = "_orig_mod.model.inner."


def sizes(config):
    return {name: getattr(config, name) for name in ("num_heads", "H_cycles", "L_cycles", "halt_max_steps")} | {
        "puzzle_tokens": config.puzzle_tokens
    }


def state_of(config, prefix=PREFIX, rows=ROWS):
    """Return a checkpoint's weights as the published scripts save them: some of them in bfloat16."""
    torch.manual_seed(1)
    model = RecursiveModel(config, rows)
    if config.puzzle_columns:
        model.puzzle_emb.weights.normal_()
    state = model.state_dict()
    state |= {name: value.bfloat16() for name, value in state.items() if "init" in name or "dwconv" in name}
    return {prefix + name: value for name, value in state.items()}


def run_file(tmp_path, config, file="all_config.yaml", **changes):
    """Write a run's settings as the published scripts do."""
    arch = {
        "H_cycles": config.H_cycles,
        "L_cycles": config.L_cycles,
        "L_layers": config.L_layers,
        "expansion": 4,
        "halt_max_steps": config.halt_max_steps,
        "hidden_size": config.hidden_size,
        "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
        "no_ACT_continue": "true",
        "num_heads": config.num_heads,
        "pos_encodings": "rope",
        "puzzle_emb_len": config.puzzle_tokens,
        "puzzle_emb_ndim": config.puzzle_emb_ndim,
    } | changes
    path = tmp_path / file
    path.write_text("arch:\n" + "".join(f"  {key}: {value}\n" for key, value in arch.items()) + "lr: 0.0001\n")
    return path


def refused(checkpoint, out, **arguments):
    """Import, and return the one line that refuses it."""
    with pytest.raises(InputError) as error:
        import_checkpoint(checkpoint, out, say=lambda line: None, **arguments)
    message = str(error.value)
    assert "\n" not in message and "\x1b" not in message and len(message) < 500
    assert not out.exists()
    return message


@pytest.mark.parametrize("prefix", [PREFIX, "model.inner.", "inner.", "", "module._orig_mod.inner."])
@pytest.mark.parametrize("network", NETWORKS)
def test_weights_are_read_number_for_number_under_any_prefix(tmp_path, network, prefix):
    config = NETWORKS[network]
    state = state_of(config, prefix)
    torch.save(state, tmp_path / "step_1")
    said = []
    found = import_checkpoint(tmp_path / "step_1", tmp_path / "out", say=said.append, **sizes(config))
    assert replace(found, expansion=4.0) == config
    assert found.intermediate_size == config.intermediate_size
    artifact = load_artifact(tmp_path / "out")
    for name, value in artifact.weights.items():
        if name != "puzzle_emb.weights":
            assert torch.equal(value, state[prefix + name].float()), name
    table = state[prefix + "puzzle_emb.weights"]
    mean = artifact.build(SHARED_ROWS + 2, torch.float32).puzzle_emb.weights[SHARED_ROWS:]
    assert torch.allclose(mean, table[1:].mean(0).expand(2, -1), atol=1e-6)
    assert torch.equal(artifact.weights["puzzle_emb.weights"][BLANK_ROW], table[0])
    assert not (tmp_path / "out" / "puzzles.safetensors").exists()
    assert said[0].startswith(f"{network}: hidden_size 32") and f"rows 1 to {ROWS - 1}" in said[-1]


@pytest.mark.parametrize("name", ["hrm_base", "trm_deep", "urm_published_loops"])
def test_an_imported_checkpoint_computes_the_published_numbers(tmp_path, name):
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    weights = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    torch.save({"model": {"_orig_mod." + key: value for key, value in weights.items()}}, tmp_path / "step_1")
    (tmp_path / "run.json").write_text(json.dumps({"arch": case["config"]}))
    arguments = dict(settings_file=tmp_path / "run.json", keep_puzzles=True, say=lambda line: None)
    import_checkpoint(tmp_path / "step_1", tmp_path / "out", **arguments)

    table = load_file(tmp_path / "out" / "puzzles.safetensors")["puzzle_emb.weights"]
    model = load_artifact(tmp_path / "out").build(len(table), torch.float32)
    model.puzzle_emb.weights.copy_(table)
    published = tensors["batch/puzzle_identifiers"].long()
    rows = torch.where(published > 0, published + SHARED_ROWS - 1, BLANK_ROW)
    inputs = tensors["batch/inputs"].int()
    canvas = (1, inputs.shape[1])
    states, vectors = model.initial_states(len(inputs), canvas), model.puzzle_vectors(rows[:, None])
    with torch.no_grad():
        for step in range(1, case["outer_steps"] + 1):
            *states, output = model(*states, inputs, vectors, canvas)
            expected = tensors[f"eval/step{step}/logits"]
            assert (output.logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_mean_of_a_table_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("hrm_offline.model.published._ROWS_AT_ONCE", 2)
    state = state_of(TRM)
    torch.save(state, tmp_path / "step_1")
    arguments = dict(say=lambda line: None, keep_puzzles=True, **sizes(TRM))
    import_checkpoint(tmp_path / "step_1", tmp_path / "out", **arguments)
    table = state[PREFIX + "puzzle_emb.weights"]
    kept = load_file(tmp_path / "out" / "puzzles.safetensors")["puzzle_emb.weights"]
    assert torch.equal(kept[SHARED_ROWS:], table[1:])
    assert torch.allclose(kept[NEW_PUZZLE_ROW], table[1:].mean(0), atol=1e-6)
    names = json.loads((tmp_path / "out" / "puzzles.json").read_text())
    assert len(names) == len(kept) and names[SHARED_ROWS] == "<row 1>"


def test_settings_from_the_file_of_the_run(tmp_path):
    torch.save(state_of(TRM), tmp_path / "step_1")
    config = replace(TRM, H_cycles=2, L_cycles=3, halt_max_steps=7, puzzle_tokens=2)
    run_file(tmp_path, config)  # beside the checkpoint, so it is found
    said = []
    arguments = dict(say=said.append)
    assert import_checkpoint(tmp_path / "step_1", tmp_path / "out", **arguments) == config
    assert any("H_cycles 2" in line and "all_config.yaml" in line for line in said)
    found = import_checkpoint(tmp_path / "step_1", tmp_path / "out", L_cycles=6, **arguments)
    assert found.L_cycles == 6 and any("L_cycles is 6 as the flag says" in line for line in said)

    given = run_file(tmp_path, replace(config, H_cycles=4), "other.yaml", no_ACT_continue="false")
    found = import_checkpoint(tmp_path / "step_1", tmp_path / "out", settings_file=given, **arguments)
    assert (found.H_cycles, found.halting) == (4, "q-learning")
    as_json = tmp_path / "config.json"
    as_json.write_text(json.dumps({"arch": {"num_heads": 4, "H_cycles": 1, "L_cycles": 1, "halt_max_steps": 2}}))
    arguments["puzzle_tokens"] = 1
    assert import_checkpoint(tmp_path / "step_1", tmp_path / "out", settings_file=as_json, **arguments).num_heads == 4


def test_settings_of_urm_are_read_by_its_own_names(tmp_path):
    content = {"step": 9, "model_state_dict": state_of(URM)}
    torch.save(content, tmp_path / "step_9.pt", _use_new_zipfile_serialization=False)  # which cannot be mapped
    arch = {"name": "urm.urm@URM", "num_layers": 2, "num_heads": 2, "H_cycles": 3, "L_cycles": 5, "loops": 7}
    path = tmp_path / "config.yaml"  # as its script names the file
    path.write_text("arch:\n" + "".join(f"  {name}: {value}\n" for name, value in arch.items()))
    found = import_checkpoint(tmp_path / "step_9.pt", tmp_path / "out", say=lambda line: None)
    assert (found.H_cycles, found.L_cycles, found.halt_max_steps, found.mlp_convolution) == (3, 5, 7, True)
    path.write_text(path.read_text().replace("num_layers: 2", "num_layers: 4"))
    assert "num_layers is 4, the weights have 2" in refused(tmp_path / "step_9.pt", tmp_path / "other")
    path.write_text("name: another program's\n")
    assert "cannot be guessed" in refused(tmp_path / "step_9.pt", tmp_path / "other")
    message = refused(tmp_path / "step_9.pt", tmp_path / "other", settings_file=path)
    assert "config.yaml: has no section 'arch'" in message


def test_published_settings_are_taken_for_published_sizes_alone(tmp_path, monkeypatch):
    torch.save(state_of(TRM), tmp_path / "step_1")
    message = refused(tmp_path / "step_1", tmp_path / "out", num_heads=2)
    assert "hidden_size is 32, the published TRM's 512" in message
    assert "--H-cycles, --L-cycles, --halt-max-steps, --puzzle-tokens cannot be guessed" in message

    published = replace(TRM, H_cycles=5, L_cycles=1, expansion=12.0)
    monkeypatch.setitem(PRESETS, "trm-7m", replace(PRESETS["trm-7m"], model=published))
    said = []
    assert import_checkpoint(tmp_path / "step_1", tmp_path / "out", say=said.append, num_heads=4) == replace(
        published, num_heads=4
    )
    assert any("H_cycles 5, L_cycles 1" in line and "NOT TOLD" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 64}, "hidden_size is 64, the weights have 32"),
        ({"L_layers": 2}, "L_layers is 2, the weights have 1"),
        ({"expansion": 100}, "expansion is 100"),
        ({"name": "hrm@HierarchicalReasoningModel_ACTV1"}, "which is HRM, but the weights are those of TRM"),
        ({"pos_encodings": "learned"}, "pos_encodings is 'learned', the weights have rope"),
        ({"num_heads": "eight"}, "'num_heads' is 'eight'"),
        ({"puzzle_emb_ndim": 16}, "puzzle_emb_ndim is 16"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(tmp_path, changes, said):
    torch.save(state_of(TRM), tmp_path / "step_1")
    run_file(tmp_path, TRM, **changes)
    assert said in refused(tmp_path / "step_1", tmp_path / "out")


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "ema", "model_state_dict"])
def test_wrapped_weights_are_unwrapped(tmp_path, wrapper):
    content = {"step": 3, wrapper: state_of(TRM), "optimizers": [{"lr": 1.0}], "rng_state": torch.get_rng_state()}
    torch.save(content, tmp_path / "step_1")
    import_checkpoint(tmp_path / "step_1", tmp_path / "out", say=lambda line: None, **sizes(TRM))


def test_averaged_weights_are_taken_where_both_are_there(tmp_path):
    state = state_of(TRM)
    averages = {name: value + 1 for name, value in state.items() if "init" not in name and "puzzle" not in name}
    torch.save({"model": state, "ema": averages}, tmp_path / "step_1")
    said = []
    import_checkpoint(tmp_path / "step_1", tmp_path / "out", say=said.append, **sizes(TRM))
    weights = load_artifact(tmp_path / "out").weights
    assert torch.equal(weights["lm_head.weight"], state[PREFIX + "lm_head.weight"] + 1)
    assert torch.equal(weights["H_init"], state[PREFIX + "H_init"].float())
    assert "averaged weights under 'ema' are taken" in said[0]


def test_identifiers_name_the_rows_that_are_kept(tmp_path):
    torch.save(state_of(HRM), tmp_path / "step_1")
    names = tmp_path / "identifiers.json"
    for content, found in ((["<blank>", "a"], "a list of 2 items"), ({}, "{}"), ([], "[]"), (["x"] * 7, "a list of 7")):
        names.write_text(json.dumps(content))
        message = refused(tmp_path / "step_1", tmp_path / "out", identifiers=names, **sizes(HRM))
        assert f"identifiers.json: is {found}" in message and "expected a list of 6 identifiers" in message
    names.write_text(json.dumps(["<blank>", "a", "b"]))
    said = []
    arguments = dict(identifiers=names, keep_puzzles=True, say=said.append, **sizes(HRM))
    import_checkpoint(tmp_path / "step_1", tmp_path / "out", **arguments)
    kept = json.loads((tmp_path / "out" / "puzzles.json").read_text())
    assert kept[SHARED_ROWS:] == ["a", "b", "<row 3>", "<row 4>", "<row 5>"]
    assert any("names 3 of the table's 6 rows" in line for line in said)


def test_without_puzzle_embeddings_and_with_learned_positions(tmp_path):
    small = dict(puzzle_columns=0, puzzle_emb_ndim=0, positions="learned", canvas_rows=5, canvas_cols=5)
    torch.save(state_of(replace(HRM, **small)), tmp_path / "c")
    arguments = dict(say=lambda line: None, **sizes(HRM))
    assert import_checkpoint(tmp_path / "c", tmp_path / "out", **arguments).positions == "learned"
    assert load_artifact(tmp_path / "out").config.canvas_rows == 5
    learned = replace(TRM, positions="learned", canvas_rows=5, canvas_cols=5)
    torch.save(state_of(learned), tmp_path / "c")
    found = import_checkpoint(tmp_path / "c", tmp_path / "out2", **arguments | sizes(TRM))
    assert replace(found, expansion=4.0) == learned
    message = refused(tmp_path / "c", tmp_path / "out3", **sizes(TRM) | {"puzzle_tokens": 1})
    assert "30 learned positions, which leaves 29 cells with puzzle_tokens 1" in message


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("truncated", "cannot be read"),
        ("a pickle", "it names 'print', expected tensors"),
        ("old format", "it names 'print', expected tensors"),
        ("a namespace", "it names 'argparse.Namespace', expected tensors"),
        ("plain pickle", "cannot be read"),
        ("missing", "no such checkpoint file"),
        ("text", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(tmp_path, content, said, capsys):
    path = tmp_path / "step_1"
    if content == "truncated":
        torch.save(state_of(HRM), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "a pickle":
        torch.save({"a": Payload()}, path)
    elif content == "old format":
        torch.save({"a": Payload()}, path, _use_new_zipfile_serialization=False)
    elif content == "a namespace":
        torch.save({"model": state_of(HRM), "config": Namespace(lr=1)}, path)
    elif content == "plain pickle":
        path.write_bytes(pickle.dumps({"a": Payload()}))
    elif content == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert main(["import-checkpoint", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "step_1" in printed.err
    assert len(printed.err.splitlines()) == 1 and "\x1b" not in printed.err
    assert "never run" not in printed.out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"puzzle_emb.weights": torch.zeros(1).expand(10**12).view(10**6, 10**6)}, "more numbers than the file"),
        ({"puzzle_emb.weights": torch.zeros(4)}, "no weights of HRM"),
        ({"puzzle_emb.weights": torch.zeros(4, 32, dtype=torch.int8)}, "no dense tensor"),
        ({"puzzle_emb.weights": torch.full((4, 32), torch.nan)}, "'puzzle_emb.weights' holds numbers that are not"),
        ({"lm_head.weight": torch.zeros(12, 0)}, "is empty"),
        ({"lm_head.weight": torch.zeros(11, 32)}, "vocabulary has 11 tokens, Sudoku's, expected ARC's 12"),
        ({"lm_head.weight": torch.zeros(6, 32)}, "vocabulary has 6 tokens, Maze's, expected ARC's 12"),
        ({"lm_head.weight": torch.zeros(13, 32)}, "vocabulary has 13 tokens, expected ARC's 12"),
        ({"H_level.layers.x.mlp": torch.zeros(1)}, "no weights of HRM"),
        ({"H_level.layers.999999999.mlp": torch.zeros(1)}, "H_layers"),
        ({"H_level.layers.1.mlp": torch.zeros(1)}, "has no place"),
        ({"other.weight": torch.zeros(1)}, "tensor 'other.weight' has no place"),
        ({"model.q_head.bias": torch.zeros(2)}, "'q_head.bias' comes twice"),
        ({"q_head.bias": torch.full((2,), float("nan"))}, "'q_head.bias' holds numbers that are not finite"),
        ({1: torch.zeros(1)}, "expected a state dict"),
        ({"embed_pos.embedding_weight": torch.zeros(())}, "no table of positions"),
        ({"q_head.weight": 3}, "'q_head.weight' is no dense tensor"),
        ({"H_init": torch.zeros(1, dtype=torch.int32)}, "'H_init' is no dense tensor"),
    ],
)
def test_weights_that_cannot_be_are_refused(tmp_path, change, reason):
    torch.save(state_of(HRM, "") | change, tmp_path / "step_1")
    message = refused(tmp_path / "step_1", tmp_path / "out", **sizes(HRM))
    assert reason in message and "step_1" in message


INSIDE_ITSELF = {}
INSIDE_ITSELF["model"] = INSIDE_ITSELF


@pytest.mark.parametrize(
    "content", [{"a.weight": torch.zeros(2)}, {}, {"ema": {}}, [1], {"model": {"step": 1}}, INSIDE_ITSELF]
)
def test_weights_of_no_known_network_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "step_1")
    assert "step_1: " in refused(tmp_path / "step_1", tmp_path / "out")
