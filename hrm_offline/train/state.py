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

from hrm_offline.artifact import read_safetensors
from hrm_offline.errors import InputError
from hrm_offline.files import checksum, make_folder, read_json, write_json
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
        save_file(_learner_tensors(learner), target / LEARNER_FILE)
    world.barrier()
    if world.is_main:
        write_json(folder / STATE_FILE, {
            "folder": name, "step": learner.step, "processes": world.size, "identity": identity,
            "loss scaler": learner.scaler.state_dict(), "carries": carries, "extra": extra or {},
            "checksum": checksum(target / LEARNER_FILE),
        })
        for old in folder.glob("state-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
    world.barrier()


def load_state(folder: Path, learner: Learner, identity: dict) -> dict | None:
    """Continue a saved run and return its `extra`; None if there is none. Raises `InputError` if it is
    another run's, cannot be read, or was saved with carries by another number of processes."""
    if not (folder / STATE_FILE).exists():
        return None
    saved = read_json(folder / STATE_FILE)
    for key in sorted(identity):
        if saved["identity"].get(key) != identity[key]:
            raise InputError(f"{folder / STATE_FILE}: was saved with {key} = {saved['identity'].get(key)!r}, this "
                             f"run has {identity[key]!r}; continue with the same settings or use another folder")
    if saved["carries"] and saved["processes"] != learner.world.size:
        raise InputError(f"{folder / STATE_FILE}: was saved by {saved['processes']} processes, "
                         f"these are {learner.world.size}")
    source = folder / saved["folder"]
    if not (source / LEARNER_FILE).exists() or checksum(source / LEARNER_FILE) != saved["checksum"]:
        raise InputError(f"{source / LEARNER_FILE}: is missing or damaged: its checksum is not the one that was saved")
    learner.step = saved["step"]
    learner.scaler.load_state_dict(saved["loss scaler"])
    _restore_learner(learner, read_safetensors(source / LEARNER_FILE))
    if saved["carries"]:
        _restore_carries(learner, read_safetensors(source / f"rank-{learner.world.rank}.safetensors"))
    return saved["extra"]


def _learner_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    tensors = {f"model/{name}": value for name, value in learner.model.state_dict().items()}
    for i, param in enumerate(learner.params):
        if learner.ema:
            tensors[f"ema/{i}"] = learner.ema.average[i]
        for name in ("m", "v"):
            if param in learner.optimizer.state:
                tensors[f"adam/{i}/{name}"] = learner.optimizer.state[param][name]
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _restore_learner(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    learner.model.load_state_dict({name.removeprefix("model/"): value for name, value in tensors.items()
                                   if name.startswith("model/")})
    for i, param in enumerate(learner.params):
        if learner.ema:
            learner.ema.average[i].copy_(tensors[f"ema/{i}"])
        if f"adam/{i}/m" in tensors:
            moments = {name: tensors[f"adam/{i}/{name}"].to(param.device) for name in ("m", "v")}
            learner.optimizer.state[param] = {"step": learner.step, **moments}


def _carry_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    tensors = {}
    for (bucket, part), carry in learner.carries.items():
        where = f"{bucket}/{part}"
        tensors[f"{where}/canvas"] = torch.tensor(carry.canvas)
        tensors |= {f"{where}/{name}": getattr(carry, name) for name in _TENSORS}
        tensors |= {f"{where}/{name}": getattr(carry.sequences, name) for name in _SEQUENCES
                    if getattr(carry.sequences, name) is not None}
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
