"""What a training step needs in memory, measured tensor by tensor on a CPU, and what that makes on a GPU.

    python tools/memory_report.py [--preset hrm-27m] [--canvas 5]

Takes whole training steps (look-ahead, backward pass and optimiser included) of two small batches
in 16 bits, adds up every tensor alive at each moment, and takes the line through the two peaks: a fixed
part (weights, gradients, moments, averaged weights) and a part that grows with the tokens. The fused
kernels run in Triton's interpreter, which takes some minutes. PyTorch's own workspaces and
the allocator's gaps come on top.
"""

from __future__ import annotations

import argparse
import os
import sys
import weakref
from dataclasses import replace

import environment

environment.ensure()
os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(environment.REPOSITORY))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from hrm_offline.config import PRESETS, Preset  # noqa: E402
from hrm_offline.data.puzzles import Batch  # noqa: E402
from hrm_offline.model.hrm import HRM  # noqa: E402
from hrm_offline.ops import dispatch  # noqa: E402
from hrm_offline.train.learner import Learner  # noqa: E402

GPUS = (("T4", 15.0, 48), ("L4", 22.5, 96))  # usable GiB, and the batch that has to fit at 901 tokens


class LiveTensors(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and the most there were."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, int] = {}
        self.bytes = self.peak = 0

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.live or not storage.nbytes():
            return
        self.live[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.bytes -= self.live.pop(key, 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result


def peak_bytes(preset: Preset, batch: int, side: int, mode: str) -> int:
    """Of the second training step of a batch on a canvas of side x side, everything alive counted."""
    config = replace(preset.model, canvas_rows=side, canvas_cols=side)
    inputs = np.random.default_rng(0).integers(2, config.vocab_size, size=(batch, side * side))
    data = Batch(0, (side, side), inputs.astype(np.uint8), inputs[::-1].astype(np.int64),
                 np.zeros((batch, config.puzzle_columns), dtype=np.int64))
    with dispatch.override(mode), LiveTensors() as tensors:
        learner = Learner(HRM(config, 1, torch.bfloat16), preset.adapt, total_steps=10, seed=0)
        learner.learn(data)
        learner.learn(data)
    return tensors.peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="hrm-27m", choices=list(PRESETS))
    parser.add_argument("--canvas", type=int, default=5, help="side of the canvas that is measured")
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    tokens = options.canvas**2 + preset.model.puzzle_tokens
    for mode, name in (("triton", "fused kernels (8.0 and newer)"), ("reference", "plain PyTorch")):
        small, large = (peak_bytes(preset, batch, options.canvas, mode) for batch in (4, 12))
        a_token = (large - small) / (8 * tokens)
        fixed = small - 4 * tokens * a_token
        print(f"{name}: {fixed / 2**30:.2f} GiB + {a_token / 2**10:.1f} KiB a token")
        for gpu, room, batch in GPUS:
            need = (fixed + batch * 901 * a_token) / 2**30
            print(f"  {gpu}: batch {batch} of 901 tokens needs {need:.1f} GiB of {room:.1f}; "
                  f"the largest batch is {int((room * 2**30 - fixed) / (901 * a_token))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
