"""Save, load and check a pretrained network on disk, and import published checkpoints.

An artifact is a folder with two files. `model.safetensors` is the network, under the key names of the published
checkpoints, with the first `SHARED_ROWS` puzzle embeddings. `config.json` holds the model's settings, the conditioning
and the origin of the weights. Two more files may lie beside them, which adaptation does not need:
`puzzles.safetensors` is the whole embedding table, and `puzzles.json` says what its rows stand for.

An artifact may come from anybody. Its config and the header of its weights are checked against limits and against each
other before anything is built. Weights are loaded as tensors, never as a pickle.
"""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save_file

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import (
    digest_of_files,
    make_folder,
    parse_tensor_header,
    read_json,
    read_tensor_header,
    write_json,
)
from hrm_offline.common.settings import from_dict
from hrm_offline.common.tokens import VOCABULARY
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import NEW_PUZZLE_ROW, SHARED_ROWS, shared_row_names
from hrm_offline.model.network import Network, build_network

FORMAT = "hrm_offline artifact 2"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PUZZLES_FILE, PUZZLE_NAMES_FILE = "puzzles.safetensors", "puzzles.json"
_TABLE_KEY = "puzzle_emb.weights"
_MAX_CONFIG_BYTES = 2**20
_KEYS = ("format", "model", "conditioning", "origin")
# The numbers of puzzle embeddings (`ModelConfig.puzzle_columns`) that each conditioning can fill.
_COLUMNS = {"table": (0, 1), "factored": (0, 2, 3), "few-shot": (0,)}
_FLOATS = ("F64", "F32", "F16", "BF16")
# That torch.compile, data parallelism and the published code's wrappers put in front of a tensor's name.
_PREFIXES = ("_orig_mod.", "module.", "model.", "inner.")


@dataclass(frozen=True)
class Artifact:
    """A pretrained network that was read from `folder`."""

    folder: Path
    config: ModelConfig
    conditioning: str  # as in `Recipe`
    weights: dict[str, torch.Tensor]  # float32
    digest: str  # SHA-256 of its two files

    def build(self, num_rows: int, dtype: torch.dtype) -> Network:
        """Return the network with an embedding table of `num_rows`, whose new puzzles start from the row for them.

        `dtype` is that of activations and states.
        """
        model = build_network(self.config, num_rows, dtype)
        weights = dict(self.weights)
        if _TABLE_KEY in weights:
            weights[_TABLE_KEY] = table_of_new(weights[_TABLE_KEY], num_rows)
        model.load_state_dict(weights)
        return model


def bundled_artifact(preset: str) -> Path | None:
    """Return the folder of the artifact that comes with the package for a preset, None if there is none."""
    folder = Path(__file__).parent.parent / "artifacts" / preset
    return folder if (folder / WEIGHTS_FILE).is_file() else None


def save_artifact(
    folder: str | Path,
    config: ModelConfig,
    conditioning: str,
    weights: dict[str, torch.Tensor],
    row_names: list[str],
    origin: dict,
) -> None:
    """Write an artifact.

    weights: the model's state dict with the whole embedding table. row_names: what each of the table's rows stands for.
    origin: how the weights came about, as plain JSON. The row for new puzzles is set to the mean of all puzzles' rows.
    """
    folder = make_folder(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if _TABLE_KEY in weights:
        table = weights[_TABLE_KEY].clone()
        table[:SHARED_ROWS] = shared_rows(table)
        save_file({_TABLE_KEY: table}, folder / PUZZLES_FILE)
        write_json(folder / PUZZLE_NAMES_FILE, row_names)
        weights[_TABLE_KEY] = table[:SHARED_ROWS].clone()
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": FORMAT})
    write_json(
        folder / CONFIG_FILE,
        {
            "format": FORMAT,
            "model": dataclasses.asdict(config),
            "conditioning": conditioning,
            "origin": origin,
        },
        indent=2,
    )


def shared_rows(table: torch.Tensor) -> torch.Tensor:
    """Return the first `SHARED_ROWS` rows of an embedding table [rows, ndim].

    The row for new puzzles is set to the mean of all puzzles' rows, where there are any.
    """
    shared = table[:SHARED_ROWS].clone()
    if len(table) > SHARED_ROWS:
        shared[NEW_PUZZLE_ROW] = table[SHARED_ROWS:].mean(0)
    return shared


def table_of_new(shared: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return an embedding table [num_rows, ndim] with these shared rows and the row for new puzzles in all others."""
    puzzles = shared[NEW_PUZZLE_ROW].expand(num_rows - SHARED_ROWS, -1)
    return torch.cat([shared, puzzles])


def load_artifact(folder: str | Path) -> Artifact:
    """Read an artifact, its weights as float32.

    Raises `InputError` naming the file and the fault: weights that cannot be read or are cut off, settings that are
    unknown or beyond the limits of `ModelConfig`, weights that do not fit the settings or are not finite.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):  # unlike Path.is_dir, it raises nothing
        raise InputError(f"{folder}: no such artifact folder")
    config, conditioning = _read_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    header = read_tensor_header(path)
    _require_fit({name: info.shape for name, info in header.items()}, config, SHARED_ROWS, path)
    for name, info in header.items():
        if info.dtype not in _FLOATS:
            raise InputError(f"{path}: tensor '{name}' has dtype {info.dtype}, expected one of {', '.join(_FLOATS)}")
    weights = {name: value.float() for name, value in read_safetensors(path).items()}
    require_finite(weights, path)
    return Artifact(folder, config, conditioning, weights, digest_of_files(folder / CONFIG_FILE, path))


def _read_config(path: Path) -> tuple[ModelConfig, str]:
    """Read `config.json`: the model's settings and the conditioning. Raises `InputError`."""
    settings = read_json(path, _MAX_CONFIG_BYTES)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise InputError(f"{path}: expected a config of '{FORMAT}'")
    unknown = sorted(settings.keys() - set(_KEYS))
    if unknown:
        raise InputError(f"{path}: unknown key '{shown_name(unknown[0])}', expected {', '.join(_KEYS)}")
    config = from_dict(ModelConfig, settings.get("model"), f"{path}: model")
    conditioning = settings.get("conditioning")
    if not isinstance(conditioning, str) or conditioning not in _COLUMNS:
        raise InputError(f"{path}: conditioning is {shown(conditioning)}, expected {' or '.join(_COLUMNS)}")
    if config.puzzle_columns not in _COLUMNS[conditioning]:
        raise InputError(f"{path}: conditioning '{conditioning}' does not fill puzzle_columns {config.puzzle_columns}")
    if (conditioning == "few-shot") != bool(config.context_pairs):
        raise InputError(f"{path}: conditioning '{conditioning}' does not go with context_pairs {config.context_pairs}")
    if config.vocab_size < VOCABULARY:
        raise InputError(f"{path}: vocab_size is {config.vocab_size}, expected {VOCABULARY} or more")
    return config, conditioning


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, on the CPU. Raises `InputError` if it cannot be read."""
    read_tensor_header(path)  # checked before the library allocates what the file claims to hold
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises several kinds, none of them public
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None


def parse_safetensors(content: bytes, where: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors in the bytes of a safetensors file. Raises `InputError`, naming `where` as their source."""
    try:
        parse_tensor_header(io.BytesIO(content), len(content))
        return load(content)
    except Exception as error:
        raise InputError(f"{where}: cannot be read as safetensors ({error})") from None


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    num_heads: int,
    H_cycles: int,
    L_cycles: int,
    halt_max_steps: int,
    identifiers: str | Path | None = None,
) -> ModelConfig:
    """Turn a checkpoint with the published key names into an artifact in `out`. Return the network's settings.

    Sizes are read from the weights. The number of heads, of cycles and of outer steps cannot be read there and are
    given. `identifiers` is the published data set's `identifiers.json`, which names the rows of the embedding table.
    Raises `InputError`.
    """
    state = _checkpoint_state(checkpoint)
    config = _config_of(
        state, checkpoint, num_heads=num_heads, H_cycles=H_cycles, L_cycles=L_cycles, halt_max_steps=halt_max_steps
    )
    names = []
    if _TABLE_KEY in state:
        table = state[_TABLE_KEY]
        given = read_json(identifiers) if identifiers is not None else [f"<row {i}>" for i in range(len(table))]
        if not isinstance(given, list) or len(given) != len(table):
            raise InputError(
                f"{identifiers}: is {shown(given)}, expected a list of {len(table)} identifiers, one per row of the "
                "checkpoint's embedding table"
            )
        # The published table is a blank row and then the puzzles. Ours has other shared rows in between.
        blank, puzzles = table[:1], table[1:]
        state[_TABLE_KEY] = torch.cat([blank, table.new_zeros(SHARED_ROWS - 1, table.shape[1]), puzzles])
        names = [*shared_row_names(), *given[1:]]
    rows = len(state[_TABLE_KEY]) if _TABLE_KEY in state else 0
    _require_fit({name: tuple(value.shape) for name, value in state.items()}, config, rows, checkpoint)
    require_finite(state, checkpoint)
    save_artifact(out, config, "table", state, names, {"imported from": Path(checkpoint).name})
    return config


def _checkpoint_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a torch checkpoint of plain weights, as float32 and without prefixes. Raises `InputError`."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns of odd pickles before it refuses them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load passes on every error of its unpickler and its zip reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: cannot be read as a torch checkpoint of plain weights ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{path}: expected a state dict, names to tensors")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise InputError(f"{path}: '{shown_name(name)}' is no dense tensor of floating-point numbers")
        if not value.numel():
            raise InputError(f"{path}: tensor '{shown_name(name)}' is empty")
    # A view can repeat a few stored numbers without end, and a copy of it would take memory for all of them.
    if sum(value.nbytes for value in state.values()) > os.path.getsize(path):
        raise InputError(f"{path}: its tensors have more numbers than the file")
    return {_strip_prefixes(name): value.float() for name, value in state.items()}


def _strip_prefixes(name: str) -> str:
    """Return a tensor's name without prefixes; several may stand one before the other."""
    while True:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)


def _config_of(state: dict[str, torch.Tensor], path: str | Path, **given: int) -> ModelConfig:
    """Return the settings that the shapes of a checkpoint's tensors tell, with those `given`. Raises `InputError`."""
    try:
        vocabulary, hidden = state["lm_head.weight"].shape
        _, inner = state["H_level.layers.0.mlp.down_proj.weight"].shape
        _, ndim = state[_TABLE_KEY].shape if _TABLE_KEY in state else (0, 0)
        layers = {f"{module}_layers": _count_layers(state, f"{module}_level.layers.") for module in "HL"}
        puzzle_tokens = -(-ndim // hidden)  # rounded up
        positions = _learned_canvas(state, puzzle_tokens)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no weights of a Hierarchical Reasoning Model ({error})") from None
    try:
        return ModelConfig(
            hidden_size=hidden,
            vocab_size=vocabulary,
            expansion=inner * 3 / (2 * hidden),  # the inverse of `ModelConfig.intermediate_size`
            puzzle_columns=1 if ndim else 0,
            puzzle_emb_ndim=ndim,
            **layers,
            **positions,
            **given,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _learned_canvas(state: dict[str, torch.Tensor], puzzle_tokens: int) -> dict:
    """Return the settings of learned positions, {} where there are none.

    The canvas is square where the number of position embeddings allows it, else a single row.
    """
    if "embed_pos.embedding_weight" not in state:
        return {}
    longest, _ = state["embed_pos.embedding_weight"].shape
    cells = max(0, longest - puzzle_tokens)
    side = round(cells**0.5)
    rows, cols = (side, side) if side * side == cells else (1, cells)
    return {"positions": "learned", "canvas_rows": rows, "canvas_cols": cols}


def _count_layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    """Return the number of layers whose tensors are named `prefix` and a number. Raises `ValueError` for others."""
    numbers = [int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def _require_fit(shapes: dict[str, tuple[int, ...]], config: ModelConfig, rows: int, where: str | Path) -> None:
    """Raise `InputError` unless these are exactly the tensors of a model with these settings and `rows` embeddings."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build_network(config, rows).state_dict().items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if name not in shapes:
            raise InputError(f"{where}: tensor '{name}' is missing, which the config asks for")
        if name not in expected:
            raise InputError(f"{where}: tensor '{shown_name(name)}' has no place in the configured model")
        if shapes[name] != expected[name]:
            raise InputError(
                f"{where}: tensor '{name}' is {list(shapes[name])}, the config asks for {list(expected[name])}"
            )


def require_finite(weights: dict[str, torch.Tensor], where: str | Path) -> None:
    """Raise `InputError` naming the first tensor that holds NaN or an infinity."""
    for name, value in weights.items():
        # The extremes of a tensor with a NaN are NaN. Unlike isfinite of the tensor, they take no memory of its size.
        if value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise InputError(f"{where}: tensor '{name}' holds numbers that are not finite")
