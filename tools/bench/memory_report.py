"""What a training step needs in memory at full size, counted tensor by tensor, without a GPU.

    python tools/bench/memory_report.py [--preset hrm-27m]

Takes a step (forward, backward) on tensors that have shapes and no contents,
adds up every one alive at each moment, and adds the optimiser's moments, the averaged weights and the
states that each tight canvas keeps between steps. PyTorch's own workspaces and the allocator's gaps
come on top. A T4 lies between the two paths: it takes the pointwise kernels, and cuBLAS' matrix products.
"""

from __future__ import annotations

import script_setup

import argparse
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # on a CPU, dispatch takes the kernels with it alone

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrm_offline.config import PRESETS, Preset
from hrm_offline.data.canvas import SIDES
from hrm_offline.model.halting import Sequences, initial_carry, refill_, training_step
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.train.losses import outer_step_loss

GPUS = (("T4", 15.0, 48), ("L4", 22.5, 96))  # usable GiB, and the batch that has to fit on the full canvas


_FAKE = FakeTensorMode()  # one for all, as cached rotary cosines belong to it


class LiveTensors(TorchDispatchMode):
    """The most bytes that storages made by operations held at once."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                self.live.setdefault(reference.cdata, (reference, storage.nbytes()))
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def peak_bytes(preset: Preset, batch: int, mode: str) -> int:
    """Of a training step in 16 bits on the full canvas, with moments and averaged weights."""
    config = preset.model
    canvas = (config.canvas_rows, config.canvas_cols)
    model = RecursiveModel(config, 1, torch.bfloat16)
    with dispatch.override(mode), _FAKE, LiveTensors() as tensors:
        _empty(model)
        cells = torch.zeros(batch, canvas[0] * canvas[1], dtype=torch.int32)
        sequences = Sequences(cells, cells.long(), torch.zeros(batch, config.puzzle_ids, dtype=torch.int64))
        carry = initial_carry(model, sequences, canvas)
        refill_(model, carry, sequences)
        vectors = model.puzzle_vectors(sequences.puzzle_identifiers).requires_grad_()
        step = training_step(model, carry, vectors, torch.zeros(batch, dtype=torch.int32), look_ahead=False)
        loss, _ = outer_step_loss(step, sequences.labels, preset.adapt.loss)
        loss.backward()
    kept_between_steps = 3 * 4 * sum(p.numel() for p in model.parameters())
    return tensors.peak + kept_between_steps


def _empty(model: torch.nn.Module) -> None:
    """Replace weights and buffers by ones without contents."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(_FAKE.from_tensor(parameter).detach().clone())
        for name, buffer in module._buffers.items():
            module._buffers[name] = _FAKE.from_tensor(buffer).clone()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="hrm-27m", choices=list(PRESETS))
    preset = PRESETS[parser.parse_args().preset]
    config = preset.model
    tokens = config.puzzle_tokens + config.canvas_rows * config.canvas_cols
    for mode, name in (("triton", "fused kernels (8.0 and newer)"), ("reference", "plain PyTorch")):
        small, large = (peak_bytes(preset, batch, mode) for batch in (48, 96))
        a_sequence = (large - small) / 48
        print(f"{name}: {(small - 48 * a_sequence) / 2**30:.2f} GiB + {a_sequence / tokens / 2**10:.1f} KiB a token")
        carried = (len(SIDES) - 1) * 2 * 2 * tokens * config.hidden_size  # one canvas' states are counted above
        for gpu, room, batch in GPUS:
            need = (small + (batch - 48) * a_sequence) / 2**30
            largest = int((room * 2**30 - small + 48 * a_sequence) / (a_sequence + carried))
            print(
                f"  {gpu}: batch {batch} of {tokens} tokens needs {need:.1f} GiB of {room:.1f}, and up to "
                f"{batch * carried / 2**30:.1f} for the states of {len(SIDES)} tight canvases; "
                f"the largest batch is {largest}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
