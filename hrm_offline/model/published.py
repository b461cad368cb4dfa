"""Import a published checkpoint: recognise its network, find the settings, and write an artifact.

The published files have 1.8 to 2.5 GB. Nearly all of that is a table of puzzle embeddings, one row for each view of
each task that was trained. The file is mapped into memory and read once, row block by row block, so that the import
takes some hundred megabytes. New tasks need the table's mean row only.

Three networks are recognised by the names of their tensors: the Hierarchical Reasoning Model (HRM), the Tiny Recursive
Model (TRM) and the Universal Reasoning Model (URM). Weights do not tell the number of heads, cycles, puzzle tokens and
outer steps. These come from flags, from the run's file of settings, or are the published network's. The last is done
only for weights of the published sizes, and it is said.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import read_json, write_json
from hrm_offline.common.settings import from_dict
from hrm_offline.common.tokens import VOCABULARY
from hrm_offline.common.yaml_section import read_section
from hrm_offline.config import NOT_IN_WEIGHTS, ModelConfig
from hrm_offline.data.puzzles import BLANK_ROW, NEW_PUZZLE_ROW, SHARED_ROWS, shared_row_names
from hrm_offline.model.artifact import (
    PUZZLE_NAMES_FILE,
    PUZZLES_FILE,
    TABLE_KEY,
    require_finite,
    require_fit,
    save_artifact,
)
from hrm_offline.presets import PUBLISHED, preset

# That torch.compile, data parallelism and the published code's wrappers put in front of a tensor's name.
_PREFIXES = ("_orig_mod.", "module.", "model.", "inner.")
# The keys under which a training script may put the weights beside other things. Averaged weights come last.
_WRAPPERS, _AVERAGES = ("model_state_dict", "state_dict", "model"), "ema"
_DEEPEST = 4  # dictionaries inside each other; a hostile file may have one inside itself
_SETTINGS_FILES = ("all_config.yaml", "config.yaml")  # as HRM and TRM, and URM, name the settings beside a checkpoint
_SETTINGS_SECTION = "arch"
_ROWS_AT_ONCE = 2**14  # 64 MB of float64 rows of 512 numbers
_ZIP_MAGIC = b"PK\x03\x04"
_OTHER_PUZZLES = {11: "Sudoku", 6: "Maze"}  # whose published data sets have so many tokens

Say = Callable[[str], None]


@dataclass(frozen=True)
class Family:
    """A published network.

    class_name: what the published code calls it, in its settings' `name`.
    stacks: the setting that counts the layers of each stack, and the beginning of these layers' tensor names.
    marks: tensors that this network has and the others lack.
    """

    name: str
    class_name: str
    stacks: dict[str, str]
    marks: tuple[str, ...]

    @property
    def published(self) -> ModelConfig:
        """Return the settings of the published network."""
        return preset(PUBLISHED[self.name]).model


_L_STACK = {"L_layers": "L_level.layers."}
# In this order: an HRM has a TRM's tensors too.
FAMILIES = (
    Family(
        "HRM",
        "HierarchicalReasoningModel",
        {"H_layers": "H_level.layers.", **_L_STACK},
        ("H_level.layers.0.mlp.down_proj.weight", "H_init", "L_init"),
    ),
    Family(
        "TRM",
        "TinyRecursiveReasoningModel",
        _L_STACK,
        ("L_level.layers.0.mlp.down_proj.weight", "H_init", "L_init"),
    ),
    Family(
        "URM",
        "URM",
        {"H_layers": "layers."},
        ("layers.0.mlp.down_proj.weight", "layers.0.mlp.dwconv.weight", "init_hidden"),
    ),
)


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    settings_file: str | Path | None = None,
    identifiers: str | Path | None = None,
    keep_puzzles: bool = False,
    say: Say = print,
    **flags: int,
) -> ModelConfig:
    """Turn a published checkpoint into an artifact in `out`. Return the network's settings.

    settings_file: the `all_config.yaml` of the run that made the checkpoint, or the same as JSON. By default one that
    lies beside the checkpoint is taken.
    identifiers: the published data set's `identifiers.json`, which names the rows of the embedding table.
    keep_puzzles: also write the whole table. Without it only the mean of all puzzles' rows is kept.
    flags: settings of `ModelConfig` named in `NOT_IN_WEIGHTS`. They count before the file of settings.
    `say` gets a line for each thing that was found or chosen.

    Raises `InputError` with one line: a file that cannot be read or holds more than tensors and plain containers,
    weights of another network or another vocabulary, settings that contradict the weights, and settings that neither
    the weights nor a file nor a flag tells while the sizes are not the published ones.
    """
    state = _read_state(Path(checkpoint), say)
    family = _recognise(state, checkpoint)
    config = _settings_of(family, state, Path(checkpoint), settings_file, flags, say)
    table = state.pop(TABLE_KEY, None)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    rows = 0 if table is None else len(table)
    if table is not None:
        shapes[TABLE_KEY] = tuple(table.shape)
    require_fit(shapes, config, rows, checkpoint)
    names = _row_names(identifiers, rows, keep_puzzles, say)
    weights = {name: value.float() for name, value in state.items()}
    require_finite(weights, checkpoint)
    if table is not None:
        weights[TABLE_KEY] = _shared_rows(table, checkpoint)
        say(
            f"puzzle embeddings: a new puzzle starts from the mean of the rows 1 to {rows - 1:,} (row 0 stands for no "
            f"puzzle); {'all rows are kept' if keep_puzzles else 'the rows themselves are left out'}"
        )
    origin = {"imported from": Path(checkpoint).name, "network": family.name}
    save_artifact(out, config, "table", weights, None, origin)
    if table is not None and keep_puzzles:
        _save_puzzles(Path(out), weights[TABLE_KEY], table, names)
    return config


def _read_state(path: Path, say: Say) -> dict[str, torch.Tensor]:
    """Return the weights in a torch checkpoint by name, without prefixes, in the file's dtypes. Raises `InputError`."""
    content = _load(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: expected a state dict, names to tensors")
    state = _named_tensors(_unwrapped(content), path)
    averages = content.get(_AVERAGES)
    if isinstance(averages, dict) and averages is not content:
        averaged = _named_tensors(_unwrapped(averages), path)
        say(f"{path.name}: the averaged weights under '{_AVERAGES}' are taken, {len(averaged)} tensors")
        state |= averaged
    # A view can repeat a few stored numbers without end, and a copy of it would take memory for all of them.
    if sum(value.nbytes for value in state.values()) > os.path.getsize(path):
        raise InputError(f"{path}: its tensors have more numbers than the file")
    return state


def _load(path: Path):
    """Return what `torch.save` wrote: tensors in plain containers. A zip file, as torch writes it, is mapped."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        with open(path, "rb") as file:
            is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns of odd pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch.load passes on every error of its unpickler and its zip reader
        reason = _reason_of(error)
        raise InputError(f"{path}: cannot be read as a torch checkpoint of plain weights ({reason})") from None


def _reason_of(error: Exception) -> str:
    """Return in a few words why torch refused a file. Its own message is a page with escape codes for a terminal."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it names '{shown_name(named[1])}', expected tensors and plain containers alone"
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Weights only load failed", "Please file", "("))]
    return shown(lines[0])[1:-1] if lines else type(error).__name__


def _unwrapped(content: dict) -> dict:
    """Return the dictionary of tensors, where a training script has put it beside other things."""
    for _ in range(_DEEPEST):
        inside = next((content[name] for name in (*_WRAPPERS, _AVERAGES) if isinstance(content.get(name), dict)), None)
        if inside is None:
            break
        content = inside
    return content


def _named_tensors(state: dict, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by name without prefixes. Raises `InputError` for anything else in the dictionary."""
    found = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: expected a state dict, names to tensors")
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise InputError(f"{path}: '{shown_name(name)}' is no dense tensor of floating-point numbers")
        if not value.numel():
            raise InputError(f"{path}: tensor '{shown_name(name)}' is empty")
        short = _strip_prefixes(name)
        if short in found:
            raise InputError(f"{path}: tensor '{shown_name(short)}' comes twice, under different prefixes")
        found[short] = value
    return found


def _strip_prefixes(name: str) -> str:
    """Return a tensor's name without prefixes; several may stand one before the other."""
    while True:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)


def _recognise(state: dict[str, torch.Tensor], path: str | Path) -> Family:
    """Return the family that a checkpoint's tensors are named for. Raises `InputError`."""
    for family in FAMILIES:
        if all(name in state for name in family.marks):
            break
    else:
        names = ", ".join(shown_name(name) for name in sorted(state)[:3]) or "nothing"
        raise InputError(f"{path}: no weights of {' or '.join(PUBLISHED)} (it has {names})")
    head = state.get("lm_head.weight")
    if head is None or head.dim() != 2:
        raise InputError(f"{path}: no weights of {family.name} (lm_head.weight is missing or no matrix)")
    tokens = len(head)
    if tokens != VOCABULARY:
        whose = f", {_OTHER_PUZZLES[tokens]}'s" if tokens in _OTHER_PUZZLES else ""
        raise InputError(f"{path}: its vocabulary has {tokens} tokens{whose}, expected ARC's {VOCABULARY}")
    return family


def _settings_of(
    family: Family,
    state: dict[str, torch.Tensor],
    checkpoint: Path,
    settings_file: str | Path | None,
    flags: dict[str, int],
    say: Say,
) -> ModelConfig:
    """Return the network's settings: from the weights, flags, the file of settings, the published network."""
    told = _told_by_weights(family, state, checkpoint)
    where, run = _read_run(settings_file, checkpoint)
    from_file = _in_our_terms(family, told, "embed_pos.embedding_weight" in state, where, run)
    guessed = [name for name in NOT_IN_WEIGHTS if name not in flags and name not in from_file]
    if family.name != "TRM" and "puzzle_tokens" in guessed:
        guessed.remove("puzzle_tokens")  # only TRM has more tokens than its embeddings fill
    published = dataclasses.asdict(family.published)
    if guessed:
        _require_published_sizes(family, told, guessed, checkpoint)
    values = published | told | from_file | flags
    if "embed_pos.embedding_weight" in state:
        values |= _learned_canvas(state, values, checkpoint)
    config = _with_expansion(from_dict(ModelConfig, values, str(checkpoint)), where, run)
    _say_sources(family, told, from_file, where, flags, {name: values[name] for name in guessed}, say)
    return config


def _with_expansion(config: ModelConfig, where: Path | None, run: dict) -> ModelConfig:
    """Return the settings with the run's `expansion`, of which the weights tell a rounded width alone."""
    if "expansion" not in run:
        return config
    as_run = from_dict(ModelConfig, dataclasses.asdict(config) | {"expansion": run["expansion"]}, str(where))
    if as_run.intermediate_size != config.intermediate_size:
        raise InputError(
            f"{where}: expansion is {as_run.expansion:g}, a width of {as_run.intermediate_size}, the weights have "
            f"{config.intermediate_size}"
        )
    return as_run


def _say_sources(family: Family, told: dict, from_file: dict, where: Path | None, flags: dict, guessed: dict, say: Say):
    """Say where each setting comes from."""
    say(f"{family.name}: {_listed(told)} (from the weights)")
    if flags:
        say(f"{_listed(flags)} (from flags)")
    for name in flags.keys() & from_file.keys():
        if flags[name] != from_file[name]:
            say(f"{name} is {flags[name]} as the flag says, {where} has {from_file[name]}")
    kept = {name: value for name, value in from_file.items() if name not in flags}
    if kept:
        say(f"{_listed(kept)} (from {where})")
    if guessed:
        say(
            f"{_listed(guessed)} (NOT TOLD by weights, flags or a file of settings: taken from the published "
            f"{family.name} for ARC, preset {PUBLISHED[family.name]})"
        )


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _require_published_sizes(family: Family, told: dict, guessed: list[str], checkpoint: Path) -> None:
    """Raise `InputError` unless the weights have the published sizes: else the published settings are a guess."""
    published = dataclasses.asdict(family.published)
    for name, value in told.items():
        if value != published[name]:
            flags = ", ".join("--" + setting.replace("_", "-") for setting in guessed)
            raise InputError(
                f"{checkpoint}: its {name} is {value}, the published {family.name}'s {published[name]}, so {flags} "
                "cannot be guessed; give them, or the run's all_config.yaml as --config"
            )


def _read_run(given: str | Path | None, checkpoint: Path) -> tuple[Path | None, dict]:
    """Return the run's file of settings and its settings of the network, None and {} where there is no such file.

    A file that lies beside the checkpoint counts if it has a section of them. A file that is given must have such a
    section.
    """
    paths = [checkpoint.with_name(name) for name in _SETTINGS_FILES] if given is None else [Path(given)]
    for path in paths:
        if given is None and not path.is_file():
            continue
        run = _read_json_section(path) if path.suffix == ".json" else read_section(path, _SETTINGS_SECTION)
        if run is not None:
            return path, run
        if given is not None:
            raise InputError(f"{path}: has no section '{_SETTINGS_SECTION}', expected a published run's settings")
    return None, {}


def _read_json_section(path: Path) -> dict | None:
    content = read_json(path)
    section = content.get(_SETTINGS_SECTION) if isinstance(content, dict) else None
    return section if isinstance(section, dict) else None


# The published settings that say the same as one of ours, in other words or the same.
_OURS = {
    "num_heads": "num_heads",
    "H_cycles": "H_cycles",
    "L_cycles": "L_cycles",
    "halt_max_steps": "halt_max_steps",
    "loops": "halt_max_steps",
    "puzzle_emb_len": "puzzle_tokens",
    "halt_exploration_prob": "halt_exploration_prob",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}


def _in_our_terms(family: Family, told: dict, has_learned: bool, where: Path | None, run: dict) -> dict:
    """Return what the run's settings tell beyond the weights. Raises `InputError` where they contradict the weights."""
    counts = {"num_layers": "H_layers"} if family.name == "URM" else {name: name for name in family.stacks}
    same = {"hidden_size": "hidden_size", "puzzle_emb_ndim": "puzzle_emb_ndim", **counts}
    for theirs, ours in same.items():
        if theirs in run and run[theirs] != told[ours]:
            raise InputError(f"{where}: {theirs} is {shown(run[theirs])}, the weights have {told[ours]}")
    name = str(run.get("name", family.class_name))
    others = [other.name for other in FAMILIES if other is not family and other.class_name in name]
    if others and family.class_name not in name:
        raise InputError(
            f"{where}: name is {shown(name)}, which is {others[0]}, but the weights are those of {family.name}"
        )
    positions = "learned" if has_learned else "rope"
    if run.get("pos_encodings", positions) != positions and family.name != "URM":  # URM's code does not read it
        raise InputError(f"{where}: pos_encodings is {shown(run['pos_encodings'])}, the weights have {positions}")
    ours = {_OURS[name]: value for name, value in run.items() if name in _OURS}
    if isinstance(run.get("no_ACT_continue"), bool):
        ours["halting"] = "halt-only" if run["no_ACT_continue"] else "q-learning"
    return ours


def _learned_canvas(state: dict[str, torch.Tensor], values: dict, path: Path) -> dict:
    """Return the settings of learned positions, on a square canvas. Raises `InputError` where it would be none."""
    table = state["embed_pos.embedding_weight"]
    if table.dim() != 2:
        raise InputError(f"{path}: embed_pos.embedding_weight is no table of positions")
    if type(values["puzzle_tokens"]) is not int:
        raise InputError(f"{path}: puzzle_emb_len is {shown(values['puzzle_tokens'])}, expected a number")
    filled = -(-values["puzzle_emb_ndim"] // values["hidden_size"])  # rounded up
    cells = len(table) - max(values["puzzle_tokens"], filled)
    side = round(max(0, cells) ** 0.5)
    if side * side != cells or not side:
        raise InputError(
            f"{path}: has {len(table)} learned positions, which leaves {cells} cells with puzzle_tokens "
            f"{values['puzzle_tokens']}, expected a square canvas"
        )
    return {"positions": "learned", "canvas_rows": side, "canvas_cols": side}


def _told_by_weights(family: Family, state: dict[str, torch.Tensor], path: Path) -> dict:
    """Return the settings that the shapes of the tensors tell. Raises `InputError`."""
    try:
        vocabulary, hidden = state["lm_head.weight"].shape
        _, inner = state[family.marks[0]].shape
        _, ndim = state[TABLE_KEY].shape if TABLE_KEY in state else (0, 0)
        layers = {setting: _count_layers(state, prefix) for setting, prefix in family.stacks.items()}
    except ValueError as error:
        raise InputError(f"{path}: no weights of {family.name} ({error})") from None
    published = family.published
    is_published = (hidden, inner) == (published.hidden_size, published.intermediate_size)
    return {
        "hidden_size": hidden,
        "vocab_size": vocabulary,
        # A width is rounded up, so many values of `expansion` give it; else this one, by `intermediate_size` inverted.
        "expansion": published.expansion if is_published else inner * 3 / (2 * hidden),
        "puzzle_columns": 1 if ndim else 0,
        "puzzle_emb_ndim": ndim,
        **layers,
    }


def _count_layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    """Return the number of layers whose tensors are named `prefix` and a number. Raises `ValueError` for others."""
    numbers = [int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def _row_names(identifiers: str | Path | None, rows: int, keep_puzzles: bool, say: Say) -> list[str]:
    """Return what each row of the published table stands for. Raises `InputError` for names of another table.

    A table that is longer than the names is accepted where its rows are to be kept, and this is said.
    """
    named = [] if identifiers is None else read_json(identifiers)
    if identifiers is not None:
        fits = isinstance(named, list) and 0 < len(named) <= rows and (keep_puzzles or len(named) == rows)
        if not fits:
            raise InputError(
                f"{identifiers}: is {shown(named)}, expected a list of {rows} identifiers, one per row of the "
                "checkpoint's embedding table (--keep-puzzles accepts a longer table)"
            )
        if len(named) < rows:
            say(f"{identifiers}: names {len(named):,} of the table's {rows:,} rows; the others are kept without a name")
        if not keep_puzzles:
            say(f"{identifiers}: names the table's rows, which only --keep-puzzles keeps")
    return [*named, *(f"<row {row}>" for row in range(len(named), rows))] if keep_puzzles else []


def _shared_rows(table: torch.Tensor, path: str | Path) -> torch.Tensor:
    """Return our shared rows [SHARED_ROWS, ndim], of which the published table has two: the blank and the new puzzle's.

    The published row 0 is the blank one. It belongs to no puzzle, so it is no part of the mean. (The published code
    takes it into the mean; one row of 876,406 moves no digit of float32.) The sum is in float64, where none is lost.
    """
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for rows in _blocks(table):
        total += rows.double().sum(0)
    if not total.isfinite().all():
        raise InputError(f"{path}: tensor '{TABLE_KEY}' holds numbers that are not finite")
    shared = torch.zeros(SHARED_ROWS, table.shape[1])
    shared[BLANK_ROW] = table[0]
    if len(table) > 1:
        shared[NEW_PUZZLE_ROW] = (total - table[0].double()) / (len(table) - 1)
    return shared


def _blocks(table: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a table block by block, so that no more of it is copied at a time."""
    for start in range(0, len(table), _ROWS_AT_ONCE):
        yield table[start : start + _ROWS_AT_ONCE]


def _save_puzzles(folder: Path, shared: torch.Tensor, table: torch.Tensor, names: list[str]) -> None:
    """Write the whole table, our shared rows before the published puzzles, and what the rows stand for.

    The file is written block by block, since safetensors' own function copies a tensor as a whole.
    """
    rows, ndim = len(shared) + len(table) - 1, table.shape[1]
    entry = {"dtype": "F32", "shape": [rows, ndim], "data_offsets": [0, rows * ndim * 4]}
    header = json.dumps({TABLE_KEY: entry}).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the data to 8 bytes
    with open(folder / PUZZLES_FILE, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for block in (shared, *_blocks(table[1:])):
            file.write(block.float().contiguous().numpy().tobytes())
    write_json(folder / PUZZLE_NAMES_FILE, [*shared_row_names(), *names[1:]])
