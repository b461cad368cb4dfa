"""A pretrained network on disk, and the import of published checkpoints.

An artifact is a folder: `model.safetensors` (the network under the published checkpoint's key
names, with the first `SHARED_ROWS` puzzle embedding rows) and `config.json` (model, conditioning,
where it came from). `puzzles.safetensors` and `puzzles.json`, where present, hold the whole
embedding table and what its rows stand for; adaptation needs neither.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hrm_offline.config import ModelConfig, from_dict
from hrm_offline.data.puzzles import NEW_PUZZLE_ROW, SHARED_ROWS, shared_row_names
from hrm_offline.errors import InputError
from hrm_offline.files import make_folder, read_json, write_json
from hrm_offline.model.hrm import HRM

FORMAT = "hrm_offline artifact 2"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PUZZLES_FILE, PUZZLE_NAMES_FILE = "puzzles.safetensors", "puzzles.json"
_TABLE = "puzzle_emb.weights"
_PREFIXES = ("_orig_mod.", "module.", "model.", "inner.")


@dataclass(frozen=True)
class Artifact:
    """A network's configuration, its conditioning ("table" or "factored") and its weights."""

    config: ModelConfig
    conditioning: str
    weights: dict[str, torch.Tensor]

    def build(self, num_rows: int, dtype: torch.dtype) -> HRM:
        """The network with an embedding table of `num_rows`; new puzzles start from the row kept
        for them."""
        model = HRM(self.config, num_rows, dtype)
        weights = dict(self.weights)
        if _TABLE in weights:
            shared = weights[_TABLE]
            fresh = shared[NEW_PUZZLE_ROW].expand(num_rows - SHARED_ROWS, -1)
            weights[_TABLE] = torch.cat([shared, fresh])
        model.load_state_dict(weights)
        return model


def save_artifact(folder: str | Path, config: ModelConfig, conditioning: str, weights: dict[str, torch.Tensor],
                  row_names: list[str], origin: dict) -> None:
    """Write an artifact. `weights` is the model's state dict with the whole embedding table, whose
    rows `row_names` names; `origin` says in plain JSON how the weights came about. The row for new
    puzzles is set to the mean of all puzzles' rows."""
    folder = make_folder(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if _TABLE in weights:
        table = weights[_TABLE].clone()
        if len(table) > SHARED_ROWS:
            table[NEW_PUZZLE_ROW] = table[SHARED_ROWS:].mean(0)
        save_file({_TABLE: table}, folder / PUZZLES_FILE)
        write_json(folder / PUZZLE_NAMES_FILE, row_names)
        weights[_TABLE] = table[:SHARED_ROWS].clone()
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": FORMAT})
    write_json(folder / CONFIG_FILE, {
        "format": FORMAT, "model": dataclasses.asdict(config), "conditioning": conditioning, "origin": origin,
    }, indent=2)


def load_artifact(folder: str | Path) -> Artifact:
    """Read an artifact. Raises `InputError` naming the file and what is wrong with it: unreadable
    or truncated weights, unknown settings, weights that do not fit the configuration."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such artifact folder")
    settings_path = folder / CONFIG_FILE
    settings = read_json(settings_path)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise InputError(f"{settings_path}: expected a config of '{FORMAT}'")
    config = from_dict(ModelConfig, settings.get("model"), f"{settings_path}: model")
    conditioning = settings.get("conditioning")
    if conditioning not in ("table", "factored"):
        raise InputError(f"{settings_path}: conditioning is {conditioning!r}, expected table or factored")
    weights = read_safetensors(folder / WEIGHTS_FILE)
    _require_fit(weights, config, folder / WEIGHTS_FILE)
    return Artifact(config, conditioning, weights)


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file on the CPU. Raises `InputError` if it cannot be read."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises several kinds, none of them public
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None


def import_checkpoint(checkpoint: str | Path, out: str | Path, *, num_heads: int, H_cycles: int, L_cycles: int,
                      halt_max_steps: int, identifiers: str | Path | None = None) -> ModelConfig:
    """Turn a checkpoint with the published key names into an artifact; returns its configuration.

    Sizes are read from the weights. What weights do not tell (heads, cycles, outer steps) is
    given. `identifiers` is the reference's identifiers.json. Raises `InputError`.
    """
    state = _checkpoint_state(checkpoint)
    config = _config_of(state, checkpoint, num_heads=num_heads, H_cycles=H_cycles, L_cycles=L_cycles,
                        halt_max_steps=halt_max_steps)
    names = []
    if _TABLE in state:
        table = state[_TABLE]
        given = read_json(identifiers) if identifiers is not None else [f"<row {i}>" for i in range(len(table))]
        if not isinstance(given, list) or len(given) != len(table):
            raise InputError(f"{identifiers}: expected a list of {len(table)} identifiers, one a row of the embeddings")
        # The published table is row 0 blank, then the puzzles: ours has shared rows in between.
        blank, puzzles = table[:1], table[1:]
        state[_TABLE] = torch.cat([blank, table.new_zeros(SHARED_ROWS - 1, table.shape[1]), puzzles])
        names = [*shared_row_names(), *given[1:]]
    _require_fit(state, config, checkpoint)
    save_artifact(out, config, "table", state, names, {"imported from": Path(checkpoint).name})
    return config


def _checkpoint_state(path: str | Path) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of odd pickles before it refuses them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler and zip reader raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: cannot be read as a torch checkpoint of plain weights ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a state dict, names to tensors")
    return {_strip_prefixes(name): value.float() if value.is_floating_point() else value
            for name, value in state.items()}


def _strip_prefixes(name: str) -> str:
    """torch.compile, data parallelism and the reference's wrappers each put a name in front."""
    while True:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)


def _config_of(state: dict[str, torch.Tensor], path: str | Path, **given: int) -> ModelConfig:
    try:
        vocabulary, hidden = state["lm_head.weight"].shape
        width = state["H_level.layers.0.mlp.down_proj.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no weights of a Hierarchical Reasoning Model ({error} is missing)") from None
    ndim = state[_TABLE].shape[1] if _TABLE in state else 0
    positions = {}
    if "embed_pos.embedding_weight" in state:
        cells = len(state["embed_pos.embedding_weight"]) - -(-ndim // hidden)
        side = round(cells**0.5)
        rows, cols = (side, side) if side * side == cells else (1, cells)
        positions = {"positions": "learned", "canvas_rows": rows, "canvas_cols": cols}
    return ModelConfig(
        hidden_size=hidden, vocab_size=vocabulary, expansion=width * 3 / (2 * hidden),
        H_layers=_count_layers(state, "H_level"), L_layers=_count_layers(state, "L_level"),
        puzzle_columns=1 if ndim else 0, puzzle_emb_ndim=ndim, **positions, **given,
    )


def _count_layers(state: dict[str, torch.Tensor], module: str) -> int:
    prefix = f"{module}.layers."
    return 1 + max((int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix)), default=-1)


def _require_fit(weights: dict[str, torch.Tensor], config: ModelConfig, where: str | Path) -> None:
    """Raise `InputError` unless `weights` are exactly the tensors the configuration asks for."""
    rows = len(weights[_TABLE]) if _TABLE in weights and weights[_TABLE].ndim == 2 else SHARED_ROWS
    with torch.device("meta"):
        expected = HRM(config, rows).state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise InputError(f"{where}: tensor '{name}' is missing, which the config asks for")
        if name not in expected:
            raise InputError(f"{where}: tensor '{name}' has no place in the configured model")
        if weights[name].shape != expected[name].shape:
            raise InputError(f"{where}: tensor '{name}' is {list(weights[name].shape)}, "
                             f"the config asks for {list(expected[name].shape)}")
