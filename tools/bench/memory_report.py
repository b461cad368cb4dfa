"""Report how much memory a training step needs on a GPU, counted tensor by tensor on a machine without one.

    python tools/bench/memory_report.py [--preset hrm-27m | --table]

Takes a training step (forward and backward) on tensors that have shapes but no contents, and adds up the tensors that
live at the same time. The optimiser's moments, the averaged weights, and the states that each tight canvas keeps
between steps are added. PyTorch's own workspaces and the gaps between allocations are not counted. A T4 lies between
the two reported paths: it uses our pointwise kernels but the matrix products of cuBLAS. --table has one line for each
preset, with its floating-point operations.
"""

from __future__ import annotations

import script_setup

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # without this setting, dispatch takes no kernel on a CPU

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrm_offline.data.canvas import SIDES
from hrm_offline.model.halting import Sequences, initial_carry, refill_, training_step
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.presets import PRESETS, RECURSIVE_PRESETS, Preset
from hrm_offline.train.losses import outer_step_loss
from tools.support.command_line import parser_of
from tools.support.flop import outer_step_flop, training_flop

GPUS = (("T4", 15.0, 48), ("L4", 22.5, 96))  # usable GiB, and the batch that has to fit on the full canvas
_SMALL_BATCH, _LARGE_BATCH = 48, 96  # the two batches that are counted
_MODES = (("triton", "fused kernels (compute capability 8.0 and newer)"), ("reference", "plain PyTorch"))
_GIB = 2**30

_FAKE = FakeTensorMode()  # only one for the whole run, because cached rotary tables belong to it


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all living tensors that operations made; `peak` is the largest count so far."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                # Views share a storage, which is counted once; a weak reference tells when the storage is freed.
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                self.live.setdefault(reference.cdata, (reference, storage.nbytes()))
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def peak_bytes(preset: Preset, batch: int, mode: str) -> int:
    """Return the peak bytes of a training step in 16 bits on the full canvas, with moments and averaged weights.

    `mode` is the mode of dispatch: "triton" for the fused kernels, "reference" for plain PyTorch.
    """
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
    # The optimiser's two moments and the averaged weights, in float32.
    kept_between_steps = 3 * 4 * sum(p.numel() for p in model.parameters())
    return tensors.peak + kept_between_steps


def _empty(model: torch.nn.Module) -> None:
    """Replace the weights and buffers of a model by tensors without contents."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(_FAKE.from_tensor(parameter).detach().clone())
        for name, buffer in module._buffers.items():
            module._buffers[name] = _FAKE.from_tensor(buffer).clone()


def lines_of(name: str) -> dict[str, tuple[float, float]]:
    """Return for each mode of dispatch the bytes of a preset's step that are fixed, and the bytes per token."""
    config = PRESETS[name].model
    tokens = config.prefix_tokens + config.canvas_rows * config.canvas_cols
    lines = {}
    for mode, _ in _MODES:
        fixed, per_sequence = _line_of(PRESETS[name], mode)
        lines[mode] = fixed, per_sequence / tokens
    return lines


def _line_of(preset: Preset, mode: str) -> tuple[float, float]:
    """Return the fixed bytes and the bytes per sequence on the full canvas: counting two batches gives the line."""
    small, large = (peak_bytes(preset, batch, mode) for batch in (_SMALL_BATCH, _LARGE_BATCH))
    per_sequence = (large - small) / (_LARGE_BATCH - _SMALL_BATCH)
    return small - _SMALL_BATCH * per_sequence, per_sequence


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--preset", default="hrm-27m", choices=RECURSIVE_PRESETS, help="network and recipe (default: %(default)s)"
    )
    parser.add_argument("--table", action="store_true", help="one line per preset, with the FLOP of an example-step")
    arguments = parser.parse_args()
    if arguments.table:
        _print_table()
        return 0
    preset = PRESETS[arguments.preset]
    for mode, name in _MODES:
        _print_path(preset, mode, name)
    return 0


def _print_table() -> None:
    """Print a table of the presets: parameters, and the FLOP and memory of a training step on the full canvas."""
    columns = ("preset", "parameters", "GFLOP per example-step", "forward alone", "memory, fused", "in plain PyTorch")
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for name in RECURSIVE_PRESETS:
        config = PRESETS[name].model
        cells = config.canvas_rows * config.canvas_cols
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in RecursiveModel(config, 1).parameters())
        flop = [function(config, cells) / 1e9 for function in (training_flop, outer_step_flop)]
        memory = [
            f"{fixed / _GIB:.2f} GiB + {token / 2**10:.1f} KiB per token" for fixed, token in lines_of(name).values()
        ]
        print(
            " | ".join([f"| `{name}`", f"{count:,}", *(f"{value:,.1f}" for value in flop), *memory]) + " |", flush=True
        )


def _print_path(preset: Preset, mode: str, name: str) -> None:
    """Print the memory of one path, which grows linearly with the batch."""
    config = preset.model
    tokens = config.prefix_tokens + config.canvas_rows * config.canvas_cols
    fixed, per_sequence = _line_of(preset, mode)
    print(f"{name}: {fixed / _GIB:.2f} GiB + {per_sequence / tokens / 2**10:.1f} KiB per token")
    # States of 2 bytes per number; the states of one canvas are in `per_sequence` already.
    carried = (len(SIDES) - 1) * (2 if config.L_layers else 1) * 2 * tokens * config.hidden_size
    for gpu, room, batch in GPUS:
        need = fixed + batch * per_sequence
        largest_batch = int((room * _GIB - fixed) / (per_sequence + carried))
        print(
            f"  {gpu}: batch {batch} of {tokens} tokens needs {need / _GIB:.1f} GiB of {room:.1f}, and up to "
            f"{batch * carried / _GIB:.1f} for the states of {len(SIDES)} tight canvases; "
            f"the largest batch is {largest_batch}"
        )


if __name__ == "__main__":
    sys.exit(main())
