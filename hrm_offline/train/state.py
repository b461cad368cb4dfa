"""Save a training run on disk and load it again, so that a killed run goes on exactly where it was.

`state.json` points at one complete folder `state-<step>`. There `learner.safetensors` holds the network, the averaged
weights, the optimiser's moments and the embeddings, and `rank-<number>.safetensors` the carries of each process, where
these are saved. The pointer is replaced last: a kill at any instant leaves the state before or the state after. Nothing
is a pickle.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.files import checksum, make_folder, read_json, write_json
from hrm_offline.model.artifact import read_safetensors
from hrm_offline.model.halting import Carry, Sequences
from hrm_offline.train.learner import Learner

STATE_FILE, LEARNER_FILE = "state.json", "learner.safetensors"
# Settings that a continued run may change: they do not touch what is learned, but for rounding. Earlier versions
# recorded `cuda_graphs`.
FREE_SETTINGS = ("log_every", "save_every", "cuda_graphs")
_LONGEST_VALUE = 100  # characters of a setting's value in an error message
_POINTER_KEYS = ("folder", "step", "processes", "identity", "loss scaler", "carries", "extra", "checksum")
_TENSORS = ("z_H", "z_L", "steps", "halted")
_STATES = ("/z_H", "/z_L")
_SEQUENCES = ("inputs", "labels", "puzzle_identifiers", "cells")


def save_state(folder: Path, learner: Learner, identity: dict, extra: dict | None = None, carries: bool = True) -> None:
    """Save a run in `folder`. Every process of the run calls this.

    identity: what is being trained, as JSON. It must be the same when the run goes on.
    extra: the caller's own data, as JSON.
    carries: whether to save them; they can be far larger than the network. Without them, all sequences must have been
    restarted (`Learner.restart_sequences`).
    Raises `OSError`, in every process, where one of them cannot write.
    """
    world = learner.world
    name = f"state-{learner.step:08d}"
    target = folder / name
    with _failing_together(learner):
        make_folder(target)
        if carries:
            _replace(target / f"rank-{world.rank}.safetensors", _carry_tensors(learner))
        if world.is_main:
            _replace(target / LEARNER_FILE, learner_tensors(learner))
    with _failing_together(learner):
        if world.is_main:
            write_json(
                folder / STATE_FILE,
                {
                    "folder": name,
                    "step": learner.step,
                    "processes": world.size,
                    "identity": identity,
                    "loss scaler": learner.scaler.state_dict(),
                    "carries": carries,
                    "extra": extra or {},
                    "checksum": checksum(target / LEARNER_FILE),
                },
            )
            for old in folder.glob("state-*"):
                if old.name != name:
                    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _failing_together(learner: Learner) -> Iterator[None]:
    """Have all processes end a `with` block together. Raises `OSError` in all of them where it was raised in one.

    A process that went on alone would take the others' next message for an answer to its own.
    """
    problem = None
    try:
        yield
    except (OSError, SafetensorError, InputError) as error:
        problem = error if isinstance(error, OSError) else OSError(str(error))
    failed = torch.tensor(float(problem is not None), device=learner.model.device)
    if learner.world.size > 1 and learner.world.sum_metrics({"failed": failed})["failed"] and problem is None:
        problem = OSError("another process could not save its part of the state")
    if problem is not None:
        raise problem


def _replace(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace `path` by a file of tensors, atomically. `state.json` may point at the old file already."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(tensors, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_state(folder: Path, learner: Learner, identity: dict) -> dict | None:
    """Load the state in `folder` into the learner and return its `extra`, None if there is no state.

    Raises `InputError` if the state is another run's, cannot be read, or was saved with carries by another number of
    processes.
    """
    saved = _read_pointer(folder, identity)
    if saved is None:
        return None
    if saved["carries"] and saved["processes"] != learner.world.size:
        raise InputError(
            f"{folder / STATE_FILE}: was saved by {saved['processes']} processes, these are {learner.world.size}"
        )
    source = folder / saved["folder"]
    if not (source / LEARNER_FILE).is_file() or checksum(source / LEARNER_FILE) != saved["checksum"]:
        raise InputError(f"{source / LEARNER_FILE}: is missing or damaged: its checksum is not the one that was saved")
    learned = read_safetensors(source / LEARNER_FILE)
    carries = read_safetensors(source / f"rank-{learner.world.rank}.safetensors") if saved["carries"] else {}
    # Nothing has changed so far, so that a file that cannot be read leaves the learner as it was.
    learner.step = saved["step"]
    if saved["loss scaler"]:  # a state that was saved in another dtype than float16 has none
        learner.scaler.load_state_dict(saved["loss scaler"])
    restore_learner(learner, learned)
    _restore_carries(learner, carries)
    return saved["extra"]


def saved_step(folder: Path, identity: dict) -> int:
    """Return the step that `load_state` would continue at, -1 if there is no state.

    Raises `InputError` if the state is another run's.
    """
    saved = _read_pointer(folder, identity)
    return -1 if saved is None else saved["step"]


def _read_pointer(folder: Path, identity: dict) -> dict | None:
    """Read `state.json`, None if there is none. Raises `InputError` if it is another run's."""
    if not (folder / STATE_FILE).exists():
        return None
    saved = read_json(folder / STATE_FILE)
    if not isinstance(saved, dict) or not saved.keys() >= set(_POINTER_KEYS) or not isinstance(saved["identity"], dict):
        raise InputError(f"{folder / STATE_FILE}: is damaged, expected an object with {', '.join(_POINTER_KEYS)}")
    require_same_run(saved["identity"], identity, folder / STATE_FILE)
    return saved


def require_same_run(saved: dict, identity: dict, path: Path) -> None:
    """Raise `InputError`, naming a setting, where `saved`, read from `path`, is another run's identity.

    A setting that one of the two lacks has its default there: `identity_of` leaves out the defaults of later settings.
    """
    for key in sorted((saved.keys() | identity.keys()) - set(FREE_SETTINGS)):
        if saved.get(key) != identity.get(key):
            raise InputError(
                f"{path}: was saved with {shown_name(key)} = {_in_words(saved, key)}, this run has "
                f"{_in_words(identity, key)}; continue with the same settings or use another folder"
            )


def _in_words(identity: dict, key: str) -> str:
    """Return a setting's value for an error message."""
    if key not in identity:
        return "the default"
    text = repr(identity[key])
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def learner_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """Return what the learner has learned, on the CPU.

    `model/<name>` is the model's state dict. Parameter number i has its average in `ema/<i>`. Once it was updated, its
    moments are in `adam/<i>/m` and `adam/<i>/v`, whichever optimiser they are of, and the number of its updates is in
    `adam/<i>/step`. Muon's matrices have no `v`.
    """
    tensors = {f"model/{name}": value for name, value in learner.model.state_dict().items()}
    for i, param in enumerate(learner.params):
        if learner.ema:
            tensors[f"ema/{i}"] = learner.ema.average[i]
        for name, value in learner.optimizer.state.get(param, {}).items():
            tensors[f"adam/{i}/{name}"] = torch.as_tensor(value)  # the step is a number
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restore_learner(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors of `learner_tensors` back into the learner. Moments may have any dtype."""
    learner.model.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    )
    for i, param in enumerate(learner.params):
        if learner.ema:
            learner.ema.average[i].copy_(tensors[f"ema/{i}"])
        if f"adam/{i}/m" in tensors:
            names = learner.optimizer.moment_shapes(param)
            moments = {name: tensors[f"adam/{i}/{name}"].to(param) for name in names}
            # A parameter has fewer updates than the learner has steps where only embeddings learned for a while.
            # States of earlier versions do not hold the number.
            step = int(tensors.get(f"adam/{i}/step", learner.step))
            learner.optimizer.state[param] = {"step": step, **moments}


def _carry_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """Return the learner's carries as tensors `<bucket>/<part>/<name>` on the CPU."""
    tensors = {}
    for (bucket, part), carry in learner.carries.items():
        where = f"{bucket}/{part}"
        tensors[f"{where}/canvas"] = torch.tensor(carry.canvas)
        tensors |= {f"{where}/{name}": getattr(carry, name) for name in _TENSORS}
        tensors |= {
            f"{where}/{name}": getattr(carry.sequences, name)
            for name in _SEQUENCES
            if getattr(carry.sequences, name) is not None
        }
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _restore_carries(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors of `_carry_tensors` back into the learner, with states in the dtype that it computes in."""
    tensors = {name: value.to(learner.model.device) for name, value in tensors.items()}
    for name in [name for name in tensors if name.endswith(_STATES)]:
        tensors[name] = tensors[name].to(learner.model.dtype)
    keys = {tuple(map(int, name.split("/")[:2])) for name in tensors}  # (bucket, part)
    for bucket, part in sorted(keys):
        where = f"{bucket}/{part}"
        learner.carries[bucket, part] = Carry(
            tuple(tensors[f"{where}/canvas"].tolist()),
            **{name: tensors[f"{where}/{name}"] for name in _TENSORS},
            sequences=Sequences(**{name: tensors.get(f"{where}/{name}") for name in _SEQUENCES}),
        )
