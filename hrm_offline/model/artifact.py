"""A pretrained network on disk, and the import of published checkpoints.

An artifact is a folder: `model.safetensors` (the network under the published checkpoint's key
names, with the first `SHARED_ROWS` puzzle embedding rows) and `config.json` (model, conditioning,
where it came from). `puzzles.safetensors` and `puzzles.json`, where present, hold the whole
embedding table and what its rows stand for; adaptation needs neither.

An artifact is anybody's file. What its config and its weights' header claim is checked against limits
and against each other before anything is built, and weights are loaded as tensors, never as a pickle.
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
from hrm_offline.model.recursive import RecursiveModel

FORMAT = "hrm_offline artifact 2"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PUZZLES_FILE, PUZZLE_NAMES_FILE = "puzzles.safetensors", "puzzles.json"
_TABLE = "puzzle_emb.weights"
_MAX_CONFIG_BYTES = 2**20
_KEYS = ("format", "model", "conditioning", "origin")
# Columns of puzzle embeddings that each conditioning can fill.
_COLUMNS = {"table": (0, 1), "factored": (0, 2, 3), "few-shot": (0,)}
_FLOATS = ("F64", "F32", "F16", "BF16")
_PREFIXES = ("_orig_mod.", "module.", "model.", "inner.")


@dataclass(frozen=True)
class Artifact:
    """A network's configuration, its conditioning (as in `Recipe`) and its weights; the folder that they are
    from, and the SHA-256 digest of its files."""

    folder: Path
    config: ModelConfig
    conditioning: str
    weights: dict[str, torch.Tensor]
    digest: str

    def build(self, num_rows: int, dtype: torch.dtype) -> RecursiveModel:
        """The network with an embedding table of `num_rows`; new puzzles start from the row kept
        for them."""
        model = RecursiveModel(self.config, num_rows, dtype)
        weights = dict(self.weights)
        if _TABLE in weights:
            weights[_TABLE] = table_of_new(weights[_TABLE], num_rows)
        model.load_state_dict(weights)
        return model


def bundled_artifact(preset: str) -> Path | None:
    """The folder of the artifact that comes with the package for a preset, None if there is none."""
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
    """Write an artifact. `weights` is the model's state dict with the whole embedding table, whose
    rows `row_names` names; `origin` says in plain JSON how the weights came about. The row for new
    puzzles is set to the mean of all puzzles' rows."""
    folder = make_folder(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if _TABLE in weights:
        table = weights[_TABLE].clone()
        table[:SHARED_ROWS] = shared_rows(table)
        save_file({_TABLE: table}, folder / PUZZLES_FILE)
        write_json(folder / PUZZLE_NAMES_FILE, row_names)
        weights[_TABLE] = table[:SHARED_ROWS].clone()
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
    """The first `SHARED_ROWS` rows of an embedding table, the row for new puzzles set to the mean of all puzzles'."""
    shared = table[:SHARED_ROWS].clone()
    if len(table) > SHARED_ROWS:
        shared[NEW_PUZZLE_ROW] = table[SHARED_ROWS:].mean(0)
    return shared


def table_of_new(shared: torch.Tensor, num_rows: int) -> torch.Tensor:
    """An embedding table of `num_rows` from its shared rows: every puzzle starts from the row for new ones."""
    return torch.cat([shared, shared[NEW_PUZZLE_ROW].expand(num_rows - SHARED_ROWS, -1)])


def load_artifact(folder: str | Path) -> Artifact:
    """Read an artifact, its weights as float32. Raises `InputError` naming the file and what is wrong with
    it: unreadable or truncated weights, unknown settings or ones beyond the limits of `ModelConfig`,
    weights that do not fit the configuration or are not finite."""
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
    """The model's configuration and the conditioning. Raises `InputError`."""
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
    """Tensors of a safetensors file on the CPU. Raises `InputError` if it cannot be read."""
    read_tensor_header(path)  # before the library trusts the file's own word on its size
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises several kinds, none of them public
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None


def parse_safetensors(content: bytes, where: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file's bytes, which an error says came from `where`. Raises `InputError`."""
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
    """Turn a checkpoint with the published key names into an artifact; returns its configuration.

    Sizes are read from the weights. What weights do not tell (heads, cycles, outer steps) is
    given. `identifiers` is the reference's identifiers.json. Raises `InputError`.
    """
    state = _checkpoint_state(checkpoint)
    config = _config_of(
        state, checkpoint, num_heads=num_heads, H_cycles=H_cycles, L_cycles=L_cycles, halt_max_steps=halt_max_steps
    )
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
    rows = len(state[_TABLE]) if _TABLE in state else 0
    _require_fit({name: tuple(value.shape) for name, value in state.items()}, config, rows, checkpoint)
    require_finite(state, checkpoint)
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
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{path}: expected a state dict, names to tensors")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise InputError(f"{path}: '{shown_name(name)}' is no dense tensor of floating-point numbers")
        if not value.numel():
            raise InputError(f"{path}: tensor '{shown_name(name)}' is empty")
    # A view repeats stored numbers without end, and a copy of it would take room for all of them.
    if sum(value.nbytes for value in state.values()) > os.path.getsize(path):
        raise InputError(f"{path}: its tensors have more numbers than the file")
    return {_strip_prefixes(name): value.float() for name, value in state.items()}


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
        _, width = state["H_level.layers.0.mlp.down_proj.weight"].shape
        _, ndim = state[_TABLE].shape if _TABLE in state else (0, 0)
        layers = {f"{module}_layers": _count_layers(state, f"{module}_level.layers.") for module in "HL"}
        positions = _learned_canvas(state, -(-ndim // hidden))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no weights of a Hierarchical Reasoning Model ({error})") from None
    try:
        return ModelConfig(
            hidden_size=hidden,
            vocab_size=vocabulary,
            expansion=width * 3 / (2 * hidden),
            puzzle_columns=1 if ndim else 0,
            puzzle_emb_ndim=ndim,
            **layers,
            **positions,
            **given,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _learned_canvas(state: dict[str, torch.Tensor], puzzle_tokens: int) -> dict:
    """Settings of learned positions, where there are any: as square a canvas as the table's rows allow."""
    if "embed_pos.embedding_weight" not in state:
        return {}
    longest, _ = state["embed_pos.embedding_weight"].shape
    cells = max(0, longest - puzzle_tokens)
    side = round(cells**0.5)
    rows, cols = (side, side) if side * side == cells else (1, cells)
    return {"positions": "learned", "canvas_rows": rows, "canvas_cols": cols}


def _count_layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    """Raises `ValueError` where a layer has no number."""
    return 1 + max(
        (int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)), default=-1
    )


def _require_fit(shapes: dict[str, tuple[int, ...]], config: ModelConfig, rows: int, where: str | Path) -> None:
    """Raise `InputError` unless these are exactly the tensors that a model of that configuration and
    `rows` puzzle embeddings has."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in RecursiveModel(config, rows).state_dict().items()}
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
        # The extremes of a tensor with a NaN are NaN; nothing of the tensor's size is allocated.
        if value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise InputError(f"{where}: tensor '{name}' holds numbers that are not finite")
