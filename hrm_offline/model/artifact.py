"""Save, load and check a pretrained network on disk.

An artifact is a folder with two files. `model.safetensors` is the network, under the key names of the published
checkpoints, with the first `SHARED_ROWS` puzzle embeddings. Its matrices may be kept as int8 numbers, with a float32
scale per row beside them. `config.json` holds the model's settings, the conditioning
and the origin of the weights. Two more files may lie beside them: `puzzles.safetensors` is the whole embedding table,
and `puzzles.json` says what its rows stand for. Adaptation does not need them, but tasks that are learned along start
from their rows there.

An artifact may come from anybody. Its config and the header of its weights are checked against limits and against each
other before anything is built. Weights are loaded as tensors, never as a pickle.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import (
    TensorInfo,
    digest_of_files,
    make_folder,
    parse_tensor_header,
    read_json,
    read_tensor_header,
    write_json,
)
from hrm_offline.common.settings import from_dict
from hrm_offline.common.tokens import VOCABULARY
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.puzzles import NEW_PUZZLE_ROW, SHARED_ROWS
from hrm_offline.model.network import Network, build_network

FORMAT = "hrm_offline artifact 2"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PUZZLES_FILE, PUZZLE_NAMES_FILE = "puzzles.safetensors", "puzzles.json"
TABLE_KEY = "puzzle_emb.weights"
_MAX_CONFIG_BYTES = 2**20
_KEYS = ("format", "model", "conditioning", "origin")
# The numbers of puzzle embeddings (`ModelConfig.puzzle_columns`) that each conditioning can fill.
_COLUMNS = {"table": (0, 1), "factored": (0, 2, 3), "few-shot": (0,)}
_FLOATS = ("F64", "F32", "F16", "BF16")
_SCALE = ".scale"  # after the name of an int8 matrix: the name of its scales, float32 [rows, 1]
_INT8_MOST = 127


@dataclass(frozen=True)
class Artifact:
    """A pretrained network that was read from `folder`."""

    folder: Path
    config: ModelConfig
    conditioning: str  # as in `Recipe`
    weights: dict[str, torch.Tensor]  # float32
    digest: str  # SHA-256 of its two files

    def conditioned(self, recipe: Recipe) -> Artifact:
        """Return the artifact as a network for the recipe's embeddings, where the network can be changed so.

        A decoder sums its embeddings. So it can take the third, which names the colours' mapping, or go without it:
        the weights stay the same. The rows of an embedding that was not pretrained are small.
        """
        is_summed = self.config.is_decoder and self.config.puzzle_columns > 0
        if is_summed and self.conditioning == recipe.conditioning == "factored":
            return dataclasses.replace(self, config=self.config.conditioned(recipe))
        return self

    def build(self, num_rows: int, dtype: torch.dtype) -> Network:
        """Return the network with an embedding table of `num_rows`, whose new puzzles start from the row for them.

        `dtype` is that of activations and states.
        """
        model = build_network(self.config, num_rows, dtype)
        weights = dict(self.weights)
        if TABLE_KEY in weights:
            weights[TABLE_KEY] = table_of_new(weights[TABLE_KEY], num_rows)
        model.load_state_dict(weights)
        return model


class KeptRows:
    """The pretrained puzzles' rows of an embedding table, by name, that lie beside an artifact.

    `places` says where the row of a name lies. Without the two files there are none. Raises `InputError` where the
    files cannot be read, or fit neither each other nor the network.
    """

    def __init__(self, artifact: Artifact):
        self.path, names = artifact.folder / PUZZLES_FILE, artifact.folder / PUZZLE_NAMES_FILE
        self.places: dict[str, int] = {}
        if not (self.path.is_file() and names.is_file() and artifact.config.puzzle_columns):
            return
        found, info = read_json(names), read_tensor_header(self.path).get(TABLE_KEY)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise InputError(f"{names}: expected a list of names")
        expected = (len(found), artifact.config.puzzle_emb_ndim)
        if info is None or info.shape != expected:
            raise InputError(
                f"{self.path}: expected a tensor '{TABLE_KEY}' {list(expected)}, a row for each name in {names.name}"
            )
        self.places = {name: place for place, name in enumerate(found) if place >= SHARED_ROWS}

    @torch.no_grad()
    def fill(self, table: torch.Tensor, names: list[str], first: int) -> None:
        """Put the rows with these names into a table [rows, ndim], from row `first` on.

        A row stays as it is where its name is not kept, or where the kept row holds a number that is not finite.
        Raises `InputError` where the file cannot be read.
        """
        known = [(row, self.places[name]) for row, name in enumerate(names, first) if name in self.places]
        if not known:
            return
        try:
            with safe_open(self.path, "pt") as file:  # row by row: the file may have gigabytes
                kept = file.get_slice(TABLE_KEY)
                rows = torch.cat([kept[place : place + 1] for _, place in known]).float()
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.path}: cannot be read as safetensors ({error})") from None
        is_finite = rows.isfinite().all(1)
        places = torch.tensor([row for row, _ in known])[is_finite]
        table[places.to(table.device)] = rows[is_finite].to(table)


def bundled_artifact(preset: str) -> Path | None:
    """Return the folder of the artifact that comes with the package for a preset, None if there is none."""
    folder = Path(__file__).parent.parent / "artifacts" / preset
    return folder if (folder / WEIGHTS_FILE).is_file() else None


def save_artifact(
    folder: str | Path,
    config: ModelConfig,
    conditioning: str,
    weights: dict[str, torch.Tensor],
    row_names: list[str] | None,
    origin: dict,
    store: str = "float32",
) -> None:
    """Write an artifact.

    weights: the model's state dict with the whole embedding table. row_names: what each of the table's rows stands for,
    or None for a table that has the shared rows alone, ready to be saved. origin: how the weights came about, as plain
    JSON. The row for new puzzles is set to the mean of all puzzles' rows. store: "int8" keeps matrices as int8 numbers.
    """
    folder = make_folder(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if TABLE_KEY in weights and row_names is not None:
        table = weights[TABLE_KEY].clone()
        table[:SHARED_ROWS] = shared_rows(table)
        save_file({TABLE_KEY: table}, folder / PUZZLES_FILE)
        write_json(folder / PUZZLE_NAMES_FILE, row_names)
        weights[TABLE_KEY] = table[:SHARED_ROWS].clone()
    if store == "int8":
        weights = _to_int8(weights)
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


def _to_int8(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights whose matrices are int8, with their scales: the largest number of a row becomes 127 or -127."""
    stored = {}
    for name, value in weights.items():
        if value.ndim == 2:
            scale = value.float().abs().amax(1, keepdim=True) / _INT8_MOST  # [rows, 1]
            stored[name + _SCALE] = scale
            # A row of zeros has scale 0, and stays zero.
            value = (value / scale.where(scale > 0, 1.0)).round().to(torch.int8)
        stored[name] = value
    return stored


def _to_floats(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights as float32; an int8 matrix is multiplied by its scales."""
    weights = {}
    for name, value in stored.items():
        if value.dtype is torch.int8:
            value = value * stored[name + _SCALE].float()
        if not _is_scale(name, stored):
            weights[name] = value.float()
    return weights


def _is_scale(name: str, names: Container[str]) -> bool:
    """Return whether a tensor is the scales of another of these tensors."""
    return name.endswith(_SCALE) and name.removesuffix(_SCALE) in names


def _require_numbers(header: dict[str, TensorInfo], path: Path) -> None:
    """Raise `InputError` unless all tensors are of floats, or of int8 with scales that fit."""
    for name, info in header.items():
        scales = header.get(name + _SCALE)
        is_scaled = info.dtype == "I8" and scales is not None and len(info.shape) == 2 and not _is_scale(name, header)
        if is_scaled and scales.shape != (info.shape[0], 1):
            raise InputError(f"{path}: the scales of '{name}' are {list(scales.shape)}, expected {[info.shape[0], 1]}")
        if not is_scaled and info.dtype not in _FLOATS:
            expected = f"{', '.join(_FLOATS)}, or I8 with the scales '{name}{_SCALE}'"
            raise InputError(f"{path}: tensor '{name}' has dtype {info.dtype}, expected one of {expected}")
        if scales is not None and not is_scaled:
            raise InputError(f"{path}: tensor '{name}{_SCALE}' has no place, since '{name}' is not int8")


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
    if not os.path.lexists(folder / CONFIG_FILE):
        raise InputError(f"{folder}: cannot be read as an artifact, it has no {CONFIG_FILE}")
    config, conditioning = _read_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    header = read_tensor_header(path)
    shapes = {name: info.shape for name, info in header.items() if not _is_scale(name, header)}
    require_fit(shapes, config, SHARED_ROWS, path)
    _require_numbers(header, path)
    weights = _to_floats(read_safetensors(path))
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


def require_fit(shapes: dict[str, tuple[int, ...]], config: ModelConfig, rows: int, where: str | Path) -> None:
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
