"""A training run on disk, so that it can be killed and go on exactly where it was.

`state.json` points at one complete `state-<step>` folder: `learner.safetensors` (network, averaged
weights, optimiser moments, embeddings) and, where asked for, a file of carries for each process. The pointer is
replaced last, so a kill at any instant leaves the state before or the state after. No pickle.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import checksum, make_folder, read_json, write_json
from hrm_offline.model.artifact import read_safetensors
from hrm_offline.model.halting import Carry, Sequences
from hrm_offline.train.learner import Learner

STATE_FILE, LEARNER_FILE = "state.json", "learner.safetensors"
_TENSORS = ("z_H", "z_L", "steps", "halted")
_SEQUENCES = ("inputs", "labels", "puzzle_identifiers", "cells")


def save_state(folder: Path, learner: Learner, identity: dict, extra: dict | None = None, carries: bool = True) -> None:
    """Save the run in `folder`; every process of it calls this. `identity` says what is being
    trained, and must be the same when the run goes on; `extra` is the caller's own, in JSON. Without
    `carries`, which can outweigh the network by far, all sequences must have been restarted."""
    world = learner.world
    name = f"state-{learner.step:08d}"
    target = make_folder(folder / name)
    if carries:
        save_file(_carry_tensors(learner), target / f"rank-{world.rank}.safetensors")
    if world.is_main:
        save_file(learner_tensors(learner), target / LEARNER_FILE)
    world.barrier()
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
    world.barrier()


def load_state(folder: Path, learner: Learner, identity: dict) -> dict | None:
    """Continue a saved run and return its `extra`; None if there is none. Raises `InputError` if it is
    another run's, cannot be read, or was saved with carries by another number of processes."""
    saved = _read_pointer(folder, identity)
    if saved is None:
        return None
    if saved["carries"] and saved["processes"] != learner.world.size:
        raise InputError(
            f"{folder / STATE_FILE}: was saved by {saved['processes']} processes, these are {learner.world.size}"
        )
    source = folder / saved["folder"]
    if not (source / LEARNER_FILE).exists() or checksum(source / LEARNER_FILE) != saved["checksum"]:
        raise InputError(f"{source / LEARNER_FILE}: is missing or damaged: its checksum is not the one that was saved")
    learner.step = saved["step"]
    learner.scaler.load_state_dict(saved["loss scaler"])
    restore_learner(learner, read_safetensors(source / LEARNER_FILE))
    if saved["carries"]:
        _restore_carries(learner, read_safetensors(source / f"rank-{learner.world.rank}.safetensors"))
    return saved["extra"]


def saved_step(folder: Path, identity: dict) -> int:
    """The step that `load_state` would continue at, -1 if there is no state. Raises `InputError` if it is another
    run's."""
    saved = _read_pointer(folder, identity)
    return -1 if saved is None else saved["step"]


def _read_pointer(folder: Path, identity: dict) -> dict | None:
    if not (folder / STATE_FILE).exists():
        return None
    saved = read_json(folder / STATE_FILE)
    require_same_run(saved["identity"], identity, folder / STATE_FILE)
    return saved


def require_same_run(saved: dict, identity: dict, path: Path) -> None:
    """Raise `InputError` naming the first setting in which what `path` saved is another run than `identity`."""
    for key in sorted(identity):
        if saved.get(key) != identity[key]:
            raise InputError(
                f"{path}: was saved with {key} = {saved.get(key)!r}, this run has {identity[key]!r}; "
                "continue with the same settings or use another folder"
            )


def learner_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """What the learner has learned, on the CPU: `model/<name>`, and by number of the parameter its average
    `ema/<i>` and, once it was updated, its moments `adam/<i>/m`, `adam/<i>/v` and updates `adam/<i>/step`."""
    tensors = {f"model/{name}": value for name, value in learner.model.state_dict().items()}
    for i, param in enumerate(learner.params):
        if learner.ema:
            tensors[f"ema/{i}"] = learner.ema.average[i]
        for name, value in learner.optimizer.state.get(param, {}).items():
            tensors[f"adam/{i}/{name}"] = torch.as_tensor(value)  # the step is a number
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restore_learner(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors of `learner_tensors` back, moments of any dtype."""
    learner.model.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    )
    for i, param in enumerate(learner.params):
        if learner.ema:
            learner.ema.average[i].copy_(tensors[f"ema/{i}"])
        if f"adam/{i}/m" in tensors:
            moments = {name: tensors[f"adam/{i}/{name}"].to(param) for name in ("m", "v")}
            # Fewer than the learner's where only embeddings learned for a while. Old states do not say.
            step = int(tensors.get(f"adam/{i}/step", learner.step))
            learner.optimizer.state[param] = {"step": step, **moments}


def _carry_tensors(learner: Learner) -> dict[str, torch.Tensor]:
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
    tensors = {name: value.to(learner.model.device) for name, value in tensors.items()}
    for bucket, part in sorted({tuple(map(int, name.split("/")[:2])) for name in tensors}):
        where = f"{bucket}/{part}"
        learner.carries[bucket, part] = Carry(
            tuple(tensors[f"{where}/canvas"].tolist()),
            **{name: tensors[f"{where}/{name}"] for name in _TENSORS},
            sequences=Sequences(**{name: tensors.get(f"{where}/{name}") for name in _SEQUENCES}),
        )
