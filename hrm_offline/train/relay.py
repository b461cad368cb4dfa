"""Write a training run as small files and read it again, so that it can be carried to another machine.

A relay is a folder of parts and an index. The parts `relay-<step>-000.part`, `-001.part` and so on hold at most
`PART_BYTES` each. Joined, they are one safetensors file with the tensors of a state (see `hrm_offline.train.state`).
The index `relay.json` holds the step, the run's identity, and the bytes and the SHA-256 of each part. It is replaced
last: a kill at any instant leaves the relay before or the relay after.

The network and the averaged weights are written as float32, Adam's two moments as bfloat16 or not at all. `hrm-27m`
has 27.3M parameters, so it takes 109 + 109 + 2 x 55 = 327 MB in 21 parts, or 218 MB in 14 parts without the moments,
plus its embedding table. A table of at most 8 MB is written whole. A larger table, with a row for each view of each
task, is cut to its shared rows, and its other rows start anew. So does a decoder's average of such a table, and the
table's moments are left out. Sequences start anew too, and so does the loss scale of float16. The step, the learning
rate, the batches and the decay of the averages go on.

Parts may come from anybody: all of them are checked against `relay.json` and the model, and nothing is a pickle.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import read_json, write_bytes, write_json
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.model.artifact import TABLE_KEY, parse_safetensors, require_finite, shared_rows, table_of_new
from hrm_offline.train.learner import Learner
from hrm_offline.train.state import learner_tensors, require_same_run, restore_learner

FORMAT = "hrm_offline relay 1"
INDEX_FILE = "relay.json"
PART_BYTES = 16 * 10**6
_MAX_TABLE_BYTES = 8 * 10**6  # of an embedding table that is written whole
_MAX_INDEX_BYTES = 2**20
# Steps in which only embeddings learn after their table was cut to its shared rows. Rows that start anew would disturb
# the network.
_REWARM_STEPS = 200
_TABLE_KEY = f"model/{TABLE_KEY}"


def save_relay(folder: Path, learner: Learner, identity: dict, moments: bool = True) -> None:
    """Write the relay of a run into `folder`, in place of an earlier relay. Every process of the run calls this.

    identity: what is being trained, as in `save_state`. moments: whether to write Adam's moments.
    """
    if learner.world.is_main:
        _write(folder, learner, identity, moments)
    learner.world.barrier()  # a process that ended before the main one has written would take it down


def is_ahead(folder: Path, identity: dict, step: int) -> bool:
    """Return whether `folder` has a relay of a later step than `step`, which is -1 where nothing else was saved.

    Raises `InputError` if the relay is another run's. Where nothing else was saved, parts without `relay.json` are an
    `InputError` too: the run would start from its beginning.
    """
    if (folder / INDEX_FILE).exists():
        return _read_index(folder / INDEX_FILE, identity)["step"] > step
    if step < 0 and any(folder.glob("relay-*.part")):
        raise InputError(f"{folder / INDEX_FILE}: is missing, but there are parts of a relay")
    return False


def load_relay(folder: Path, learner: Learner, identity: dict) -> int:
    """Load the relay in `folder` into a learner that has not learned yet.

    Returns the step until which only embeddings ought to learn. It is the relay's own step where their whole table was
    written. Raises `InputError`, naming the part or the tensor, where a part is missing or damaged, and where the parts
    do not hold the tensors of this run, all finite.
    """
    index = _read_index(folder / INDEX_FILE, identity)
    step = index["step"]
    if step > learner.total_steps:
        raise InputError(f"{folder / INDEX_FILE}: is of step {shown(step)}, this run has {learner.total_steps}")
    content = b"".join(_read_part(folder / _part_name(step, i), part) for i, part in enumerate(index["parts"]))
    tensors = parse_safetensors(content, folder)
    was_cut = _complete_table(tensors, learner)
    _require_fit(tensors, learner, step, folder)
    require_finite(tensors, folder)
    learner.step = step
    restore_learner(learner, tensors)
    return step + _REWARM_STEPS if was_cut else step


def _write(folder: Path, learner: Learner, identity: dict, moments: bool) -> None:
    tensors = _written_tensors(learner, moments)
    content = memoryview(save(tensors))
    pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    names = [_part_name(learner.step, i) for i in range(len(pieces))]
    for name, piece in zip(names, pieces):
        write_bytes(folder / name, piece)
    write_json(
        folder / INDEX_FILE,
        {
            "format": FORMAT,
            "step": learner.step,
            "identity": identity,
            "inside": sorted({name.split("/")[0] for name in tensors}),
            "table_rows": len(tensors[_TABLE_KEY]) if _TABLE_KEY in tensors else 0,
            "parts": [{"bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()} for piece in pieces],
        },
        indent=2,
    )
    for old in folder.glob("relay-*.part"):
        if old.name not in names:
            old.unlink()


def _part_name(step: int, number: int) -> str:
    return f"relay-{step:08d}-{number:03d}.part"


def _written_tensors(learner: Learner, moments: bool) -> dict[str, torch.Tensor]:
    """Return the learner's tensors as a relay holds them."""
    tensors = learner_tensors(learner)
    if not moments:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("adam/")}
    for name in tensors:
        if name.endswith(("/m", "/v")):
            tensors[name] = tensors[name].bfloat16()
    if _TABLE_KEY in tensors and tensors[_TABLE_KEY].nbytes > _MAX_TABLE_BYTES:
        tables, table_moments = _names_of_table(tensors, learner)
        for name in table_moments:
            del tensors[name]
        for name in tables:
            tensors[name] = shared_rows(tensors[name])
    return tensors


def _names_of_table(tensors: dict[str, torch.Tensor], learner: Learner) -> tuple[list[str], list[str]]:
    """Return the names of the embedding table and its average among the tensors, and those of its moments.

    Only a decoder's table is a parameter, with an average and moments. The number of its updates counts as a moment.
    """
    params = [name for name, _ in learner.model.named_parameters()]
    if TABLE_KEY not in params:
        return [_TABLE_KEY], []
    number = params.index(TABLE_KEY)
    tables = [name for name in (_TABLE_KEY, f"ema/{number}") if name in tensors]
    return tables, [name for name in tensors if name.startswith(f"adam/{number}/")]


def _read_index(path: Path, identity: dict) -> dict:
    """Read `relay.json`. Its step, identity and parts are checked to be well-formed and this run's.

    Raises `InputError`.
    """
    index = read_json(path, _MAX_INDEX_BYTES)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{path}: expected the index of a '{FORMAT}'")
    checks = {
        "step": lambda step: type(step) is int and step >= 0,
        "identity": lambda settings: isinstance(settings, dict) and all(map(_is_setting, settings.values())),
        "parts": lambda parts: isinstance(parts, list) and all(map(_is_part, parts)),
    }
    for key, makes_sense in checks.items():
        if not makes_sense(index.get(key)):
            raise InputError(f"{path}: '{key}' is {shown(index.get(key))}, which makes no sense")
    require_same_run(index["identity"], identity, path)
    return index


def _is_setting(value) -> bool:
    names = value if isinstance(value, list) else []
    return not isinstance(value, dict) and all(isinstance(name, str) for name in names)


def _is_part(value) -> bool:
    return isinstance(value, dict) and type(value.get("bytes")) is int and isinstance(value.get("sha256"), str)


def _read_part(path: Path, part: dict) -> bytes:
    """Read a part. Raises `InputError` unless it has the size and the checksum that `relay.json` says."""
    try:
        is_whole = path.is_file() and path.stat().st_size == part["bytes"]
        content = path.read_bytes() if is_whole else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if content is None or hashlib.sha256(content).hexdigest() != part["sha256"]:
        raise InputError(f"{path}: is missing or damaged: its size or checksum is not the one that was saved")
    return content


def _complete_table(tensors: dict[str, torch.Tensor], learner: Learner) -> bool:
    """Fill up an embedding table that was cut to its shared rows, and return whether it was.

    The other rows start from the row for new puzzles, and so does their average. The table's moments start anew.
    """
    if _TABLE_KEY not in tensors or not learner.model.config.puzzle_columns:
        return False
    rows, columns = learner.model.puzzle_emb.weights.shape
    if tensors[_TABLE_KEY].shape != (SHARED_ROWS, columns) or rows == SHARED_ROWS:
        return False
    tables, table_moments = _names_of_table(tensors, learner)
    for name in table_moments:  # of an earlier version, which also wrote the average of all rows
        del tensors[name]
    for name in tables:
        if tensors[name].shape == (rows, columns) and tensors[name].dtype is torch.float32:
            tensors[name] = shared_rows(tensors[name])
        if tensors[name].shape == (SHARED_ROWS, columns):
            tensors[name] = table_of_new(tensors[name], rows)
    return True


def _require_fit(tensors: dict[str, torch.Tensor], learner: Learner, step: int, where: Path) -> None:
    """Raise `InputError` unless these are the tensors of this learner at `step`, with or without moments."""
    expected = {name: (value.dtype, value.shape) for name, value in learner_tensors(learner).items()}
    for i, param in enumerate(learner.params):
        shapes = learner.optimizer.moment_shapes(param)
        moments = {f"adam/{i}/{name}": (torch.bfloat16, shape) for name, shape in shapes.items()}
        moments[f"adam/{i}/step"] = (torch.int64, torch.Size([]))
        # A parameter that was updated has its moments and the number of its updates, any other has none of these.
        if moments.keys() & tensors.keys():
            expected |= moments
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{where}: tensor '{name}' is missing from the relay")
        if name not in expected:
            raise InputError(f"{where}: tensor '{shown_name(name)}' has no place in this run")
        found, (dtype, shape) = tensors[name], expected[name]
        if (found.dtype, found.shape) != (dtype, shape):
            raise InputError(
                f"{where}: tensor '{name}' is {found.dtype} {list(found.shape)}, this run has {dtype} {list(shape)}"
            )
        if name.endswith("/step") and not 0 <= int(found) <= step:
            raise InputError(f"{where}: tensor '{name}' is {int(found)}, expected 0 to {step}")
