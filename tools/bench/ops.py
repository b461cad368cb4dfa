"""Time the Triton kernels on a GPU, beside eager PyTorch, torch.compile and Liger-Kernel.

    python tools/bench/ops.py [--shapes 96x226,768x901] [--steps 48x901,96x901] [--out bench_ops.csv]
    python tools/bench/ops.py --against PATH_TO_A_CHECKOUT_OF_sapientinc/HRM
    python tools/bench/ops.py --smoke      # every path once at toy size, on any machine; the numbers mean nothing

The tests of the kernels run first on the same GPU, and nothing is timed unless they pass. Then the tool times a large
matrix product and a large copy, which are the machine's limits; every operation and the whole block, forward alone and
with the backward pass; and whole training steps with their peak memory. FLOP and bytes are those that the mathematics
needs: each input is read once, each output is written once, and nothing is computed again.
"""

from __future__ import annotations

import script_setup

import argparse
import csv
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

# script_setup installs no more than these packages, so that a GPU machine's own PyTorch and Triton are timed.
import numpy as np
import torch

from hrm_offline.common.errors import InputError
from hrm_offline.config import ModelConfig
from hrm_offline.model.batching import fixed_batch
from hrm_offline.model.device import choose_runtime
from hrm_offline.model.halting import Sequences
from hrm_offline.model.layers import Block, PreNormLayer
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.ops.add_rms_norm import add_rms_norm
from hrm_offline.ops.attention import attention
from hrm_offline.ops.cached_attention import cached_attention
from hrm_offline.ops.causal_attention import causal_attention
from hrm_offline.ops.conv_silu import conv_silu
from hrm_offline.ops.linear_rms_norm import linear_rms_norm
from hrm_offline.ops.linear_swiglu import linear_swiglu
from hrm_offline.ops.rms_norm import rms_norm
from hrm_offline.ops.rope import rope_cos_sin
from hrm_offline.ops.stablemax_cross_entropy import stablemax_cross_entropy
from hrm_offline.ops.swiglu import swiglu
from hrm_offline.presets import PRESETS, RECURSIVE_PRESETS
from hrm_offline.train.learner import Learner
from tools.bench.published import load as load_published
from tools.bench.published import training_step as published_step
from tools.support import environment
from tools.support.command_line import absolute_path, parser_of, run_tool

SHAPES = "8x226,96x226,48x901,96x901,768x901"
STEPS = "48x901,96x901"
EPS = 1e-5

_MACHINE_SIZE, _SMOKE_SIZE = 8192, 64  # sides of the square matrices that measure a machine
KERNEL_TESTS = (
    "tests/ops",
    "tests/model/test_layers.py",
    "tests/model/test_recursive.py",
    "tests/train/test_losses.py",
)


# An implementation of an operation: its name, the mode of dispatch, the function.
Way = tuple[str, str, Callable[..., torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """An operation at one size, on `tensors`.

    `flop` and `bytes` are those of the forward pass. `liger` is Liger-Kernel's equal, or None if there is none.
    `has_gradient` says whether there is a backward pass to time.
    """

    name: str
    run: Callable[..., torch.Tensor]
    tensors: list[torch.Tensor]
    flop: float
    bytes: float
    liger: Callable[..., torch.Tensor] | None = None
    has_gradient: bool = True


@dataclass(frozen=True)
class Row:
    """A line of the CSV file. The shares, in percent, are of this machine's own matrix product and copy."""

    op: str
    direction: str
    batch: int
    tokens: int
    implementation: str
    ms: float
    tflops: float = 0.0
    gbs: float = 0.0
    gemm_percent: float = 0.0
    copy_percent: float = 0.0
    peak_gib: float = 0.0


@dataclass(frozen=True)
class Machine:
    """A device, its dtype, and its limits: TFLOP/s of a large matrix product and GB/s of a large copy."""

    device: torch.device
    dtype: torch.dtype
    gemm_tflops: float
    copy_gbs: float


def time_ms(function: Callable[[], object], device: torch.device) -> float:
    """Return the milliseconds of a call: on a GPU the median of many, each with a cleared cache; on a CPU of one."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return do_bench(function, warmup=50, rep=1000, return_mode="median")
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def measure_machine(device: torch.device, dtype: torch.dtype, size: int) -> Machine:
    """Measure a machine's limits on random data: a product of [size, size] matrices, and a copy.

    The copy counts the bytes that are read and those that are written.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    gemm = 2 * size**3 / time_ms(lambda: a @ b, device) / 1e9
    source = torch.randn(16 * size * size, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size() / time_ms(lambda: target.copy_(source), device) / 1e6
    return Machine(device, dtype, gemm, copied)


# ----- the operations that are timed


class Inputs:
    """Makes random tensors of one size for the operations: B sequences of T tokens, in the machine's dtype."""

    def __init__(self, config: ModelConfig, batch: int, tokens: int, machine: Machine):
        self.config, self.batch, self.tokens, self.machine = config, batch, tokens, machine
        self.rows, self.itemsize = batch * tokens, machine.dtype.itemsize
        self.width, self.inner = config.hidden_size, config.intermediate_size

    def activations(self, width: int) -> torch.Tensor:
        """Return a tensor [B, T, width]."""
        return self.random(self.batch, self.tokens, width)

    def weight(self, rows: int, columns: int) -> torch.Tensor:
        """Return a weight [rows, columns], scaled so that its products are of the inputs' size."""
        return self.random(rows, columns, scale=columns**-0.5)

    def rope(self) -> torch.Tensor:
        """Return the rotary table of the tokens, in the dtype that the model keeps it in."""
        dtype = torch.float16 if self.itemsize == 2 else torch.float32
        head_dim, theta, device = self.config.head_dim, self.config.rope_theta, self.machine.device
        return rope_cos_sin("rope-1d", (1, self.tokens), 0, self.tokens, head_dim, theta, device, dtype)

    @property
    def attention_flop(self) -> float:
        return 4 * self.batch * self.tokens**2 * self.width

    def random(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Return a tensor of normal numbers."""
        return (scale * torch.randn(shape, device=self.machine.device)).to(self.machine.dtype)


def cases(config: ModelConfig, batch: int, tokens: int, machine: Machine) -> Iterator[Case]:
    """Yield the operations of a block, and the block itself, on random activations."""
    inputs = Inputs(config, batch, tokens, machine)
    yield from _pointwise_cases(inputs)
    yield from _matrix_product_cases(inputs)
    yield _loss_case(inputs)
    yield block_case(inputs)


def _pointwise_cases(inputs: Inputs) -> Iterator[Case]:
    """Yield the operations whose time goes into memory: three tensors are read or written."""
    rows, width, inner, itemsize = inputs.rows, inputs.width, inputs.inner, inputs.itemsize
    yield Case(
        "rms_norm",
        lambda x, residual: rms_norm(x, EPS, residual),
        [inputs.activations(width), inputs.activations(width)],
        0,
        3 * rows * width * itemsize,
        _liger_rms_norm(width, inputs.machine),
    )
    yield Case(
        "add_rms_norm",
        lambda x, delta, weight: add_rms_norm(x, delta, weight, EPS)[1],
        [inputs.activations(width), inputs.activations(width), inputs.random(width).float()],
        0,
        4 * rows * width * itemsize,
    )
    gate_up = inputs.activations(2 * inner)
    yield Case("swiglu", swiglu, [gate_up], 0, 3 * rows * inner * itemsize, _liger_swiglu())
    hidden, weights = inputs.activations(inner), [inputs.random(inner, 2).float(), inputs.random(inner).float()]
    yield Case("conv_silu", conv_silu, [hidden, *weights], 0, 2 * rows * inner * itemsize)


def _matrix_product_cases(inputs: Inputs) -> Iterator[Case]:
    """Yield the operations whose time goes into matrix products."""
    rows, width, inner, itemsize = inputs.rows, inputs.width, inputs.inner, inputs.itemsize
    rope, product_flop = inputs.rope(), 2 * rows * width  # per column of the other matrix
    x = inputs.activations(width)
    yield Case(
        "attention",
        lambda qkv: attention(qkv, inputs.config.num_heads, rope),
        [inputs.activations(3 * width)],
        inputs.attention_flop,
        4 * rows * width * itemsize,
    )
    # The same sequences end to end. Half of the pairs of tokens see each other.
    bounds = torch.arange(inputs.batch + 1, dtype=torch.int32, device=rope.device) * inputs.tokens
    packed_rope = rope.repeat(inputs.batch, 1)
    yield Case(
        "causal_attention",
        lambda qkv: causal_attention(qkv, inputs.config.num_heads, packed_rope, bounds, inputs.tokens),
        [inputs.activations(3 * width).flatten(0, 1)],
        inputs.attention_flop / 2,
        4 * rows * width * itemsize,
    )
    yield _decoding_case(inputs)
    yield Case(
        "linear_swiglu",
        linear_swiglu,
        [x, inputs.weight(2 * inner, width)],
        product_flop * 2 * inner,
        (rows * (width + inner) + 2 * inner * width) * itemsize,
    )
    for name, source_width in (("out", width), ("down", inner)):
        yield Case(
            f"linear_rms_norm {name}",
            lambda source, weight, residual: linear_rms_norm(source, weight, residual, EPS),
            [inputs.activations(source_width), inputs.weight(width, source_width), x],
            product_flop * source_width,
            (rows * (source_width + 2 * width) + width * source_width) * itemsize,
        )


def _decoding_case(inputs: Inputs) -> Case:
    """Return a step of decoding that sees `tokens` tokens, the new one included."""
    shape = (inputs.batch, inputs.config.num_heads, inputs.tokens, inputs.config.head_dim)
    lengths = torch.full((inputs.batch,), inputs.tokens - 1, device=inputs.machine.device)
    angles = inputs.rope()[-1:].expand(inputs.batch, -1)
    return Case(
        "cached_attention",
        lambda qkv, keys, values: cached_attention(qkv, inputs.config.num_heads, angles, keys, values, lengths),
        [inputs.activations(3 * inputs.width)[:, 0], inputs.random(*shape), inputs.random(*shape)],
        4 * inputs.rows * inputs.width,
        2 * inputs.rows * inputs.width * inputs.itemsize,
        has_gradient=False,
    )


def _loss_case(inputs: Inputs) -> Case:
    vocab_size = inputs.config.vocab_size
    labels = torch.randint(0, vocab_size, (inputs.batch, inputs.tokens), device=inputs.machine.device)
    label_and_loss = 8 + 4  # bytes per token: an int64 label and a float32 loss
    return Case(
        "stablemax_cross_entropy",
        lambda logits: stablemax_cross_entropy(logits, labels),
        [inputs.activations(vocab_size)],
        0,
        inputs.rows * (vocab_size * inputs.itemsize + label_and_loss),
    )


def block_case(inputs: Inputs) -> Case:
    block, rope = Block(inputs.config).to(inputs.machine.device), inputs.rope()
    parameters = sum(p.numel() for p in block.parameters())
    return Case(
        "block",
        lambda x, *_: block(x, rope),
        [inputs.activations(inputs.width), *block.parameters()],
        2 * inputs.rows * parameters + inputs.attention_flop,
        inputs.rows * (10 * inputs.width + inputs.inner) * inputs.itemsize,
    )


def decoder_layer_case(inputs: Inputs) -> Case:
    """Return a layer of a decoder on packed sequences of unequal lengths: `tokens` at most, nine tenths on average."""
    config, device = inputs.config, inputs.machine.device
    layer = PreNormLayer(config).to(device)
    lengths = inputs.tokens - torch.arange(inputs.batch) % 5 * (inputs.tokens // 20)
    bounds = torch.cat([torch.zeros(1), lengths.cumsum(0)]).int().to(device)
    rope = torch.cat([inputs.rope()[:length] for length in lengths.tolist()])  # [N, head_dim]
    packed, parameters = len(rope), sum(p.numel() for p in layer.parameters())

    def run(x: torch.Tensor, delta: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        x, normed = add_rms_norm(x, delta, layer.attention_norm.weight, config.rms_norm_eps)
        seen = causal_attention(layer.qkv_proj(normed), config.num_heads, rope, bounds, inputs.tokens)
        x, normed = add_rms_norm(x, layer.o_proj(seen), layer.mlp_norm.weight, config.rms_norm_eps)
        return x + layer.mlp(normed)

    return Case(
        "decoder layer",
        run,
        [inputs.random(packed, inputs.width), inputs.random(packed, inputs.width), *layer.parameters()],
        2 * packed * parameters + 2 * inputs.width * float(lengths.square().sum()),  # half of the pairs are seen
        packed * (12 * inputs.width + inputs.inner) * inputs.itemsize,
    )


def _liger_rms_norm(width: int, machine: Machine) -> Callable | None:
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    except ImportError:
        return None
    weight = torch.ones(width, device=machine.device, dtype=machine.dtype)
    # Liger's kernel has no residual, so the sum is an operation before it.
    return lambda x, residual: LigerRMSNormFunction.apply(x + residual, weight, EPS, 0.0, "llama", False)


def _liger_swiglu() -> Callable | None:
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return None
    return lambda gate_up: LigerSiLUMulFunction.apply(*(half.contiguous() for half in gate_up.chunk(2, dim=-1)))


# ----- timing


def bench_case(case: Case, batch: int, tokens: int, machine: Machine, ways: list[Way]) -> Iterator[Row]:
    """Yield the rows of one operation, computed in these ways, forward alone and with the backward pass."""
    for name, mode, function in ways:
        with dispatch.override(mode):
            # The backward pass costs about twice the forward pass.
            directions = (("forward", 1, _forward), ("both", 3, _both))
            for direction, factor, make in directions if case.has_gradient else directions[:1]:
                try:
                    ms = time_ms(make(function, case), machine.device)
                except torch.cuda.OutOfMemoryError:
                    ms = float("nan")
                tflops, gbs = factor * case.flop / ms / 1e9, factor * case.bytes / ms / 1e6
                shares = 100 * tflops / machine.gemm_tflops, 100 * gbs / machine.copy_gbs
                yield Row(case.name, direction, batch, tokens, name, ms, tflops, gbs, *shares)


def ways_of(case: Case, machine: Machine, compiled: bool) -> list[Way]:
    """Return ours as dispatched, eager PyTorch, PyTorch compiled if `compiled`, and Liger's if there is one."""
    ours = "triton" if machine.device.type == "cpu" else "auto"
    ways = [("ours", ours, case.run), ("eager", "reference", case.run)]
    if compiled:
        torch._dynamo.reset()  # so that each size is compiled by itself, as the kernels are
        function = torch.compile(case.run, mode="max-autotune-no-cudagraphs", dynamic=False)
        ways.append(("compiled", "reference", function))
    if case.liger is not None and machine.device.type == "cuda":
        ways.append(("liger", "reference", case.liger))
    return ways


def _forward(function: Callable, case: Case) -> Callable[[], object]:
    """Return a call of the forward pass alone."""

    def call():
        with torch.no_grad():
            return function(*case.tensors)

    return call


def _both(function: Callable, case: Case) -> Callable[[], object]:
    """Return a call of the forward and the backward pass."""
    leaves = [t if isinstance(t, torch.nn.Parameter) else t.detach().requires_grad_() for t in case.tensors]
    with torch.no_grad():
        grad = torch.randn_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def bench_steps(
    config: ModelConfig, batch: int, tokens: int, machine: Machine, against: Path | None, compiled: bool
) -> Iterator[Row]:
    """Yield the rows of whole training steps, halting's look-ahead included, with their peak memory.

    The rows are ours, plain PyTorch, and the published code if `against` names a checkout of it. Each begins with an
    empty allocator.
    """
    side = round((tokens - config.prefix_tokens) ** 0.5)
    config = replace(config, canvas_rows=side, canvas_cols=side)
    cells = torch.from_numpy(np.random.default_rng(0).integers(2, config.vocab_size, size=(batch, side * side)))
    ids = torch.arange(batch)[:, None]
    # The labels are the inputs of other sequences: a step's time does not depend on what it learns.
    sequences = Sequences(*(tensor.to(machine.device) for tensor in (cells.int(), cells.flip(0), ids)))
    recipe = replace(PRESETS["hrm-27m"].adapt, halting_target="look-ahead", ema=0.0)

    def make_ours() -> Callable[[], object]:
        torch.manual_seed(0)
        model = RecursiveModel(config, batch, machine.dtype).to(machine.device)
        learner = Learner(model, recipe, total_steps=1000, seed=0)
        return lambda: learner.learn(fixed_batch(sequences, (side, side)))

    def make_published() -> Callable[[], object]:
        torch.manual_seed(0)
        theirs = {
            "inputs": sequences.inputs,
            "labels": sequences.labels.int(),
            "puzzle_identifiers": sequences.puzzle_identifiers[:, 0].int(),
        }
        return published_step(against, config, recipe, theirs, batch, machine.dtype, compiled)

    ours = "triton" if machine.device.type == "cpu" else "auto"
    ways = [("ours", ours, make_ours), ("eager", "reference", make_ours)]
    if against is not None:
        ways.append(("published", "reference", make_published))
    for name, mode, make in ways:
        with dispatch.override(mode):
            row = _bench_step(name, make, batch, tokens, machine)
        yield row


def _bench_step(name: str, make: Callable, batch: int, tokens: int, machine: Machine) -> Row:
    """Time the step that `make` returns; its milliseconds are NaN if the GPU's memory is too small."""
    on_gpu = machine.device.type == "cuda"
    try:
        step = make()
        step()  # compiles, and allocates the optimiser's moments
        peak = 0.0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            step()
            # Read before the timing, which holds a buffer of its own to clear the cache with.
            peak = torch.cuda.max_memory_allocated() / 2**30
        ms = time_ms(step, machine.device)
    except torch.cuda.OutOfMemoryError:
        ms = peak = float("nan")
    step = None  # drops the model, so that the next step finds an empty allocator
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return Row("training step", "both", batch, tokens, name, ms, peak_gib=peak)


# ----- output


def print_row(row: Row) -> None:
    print(
        f"{row.op:<22}{row.direction:<9}{f'{row.batch}x{row.tokens}':<10}{row.implementation:<11}{row.ms:>10.3f} ms"
        f"{row.tflops:>8.1f} TFLOP/s{row.gemm_percent:>5.0f}%{row.gbs:>8.0f} GB/s{row.copy_percent:>5.0f}%"
        + (f"{row.peak_gib:>7.2f} GiB" if row.peak_gib else ""),
        flush=True,
    )


def print_ratios(rows: list[Row]) -> None:
    """Print how many times faster ours is than each of the others, and its share of their peak memory."""
    ours = {(r.op, r.direction, r.batch, r.tokens): r for r in rows if r.implementation == "ours"}
    for row in rows:
        own = ours[row.op, row.direction, row.batch, row.tokens]
        if row is not own:
            memory = f", {100 * own.peak_gib / row.peak_gib:.0f}% of its memory" if row.peak_gib else ""
            print(
                f"ratio {row.op} {row.direction} {row.batch}x{row.tokens} against {row.implementation}: "
                f"{row.ms / own.ms:.2f}{memory}"
            )


def write_csv(path: Path, rows: list[Row], machine: Machine) -> None:
    """Write every row with the commit, the machine and the versions that it was measured with."""
    import triton

    name = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else "none: a smoke run"
    about = {
        "commit": environment.commit_of_checkout(),
        "device": name,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "peak_gemm_tflops": machine.gemm_tflops,
        "peak_copy_gbs": machine.copy_gbs,
    }
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*(f.name for f in fields(Row)), *about])
        writer.writeheader()
        writer.writerows(asdict(row) | about for row in rows)


# ----- the tool


def main() -> int:
    options = _parse_arguments()
    if not options.smoke and not torch.cuda.is_available():
        raise InputError("the benchmark needs a GPU, and torch finds none (--smoke runs without one)")
    if not options.smoke and not kernels_are_correct():
        print("the kernels are wrong on this GPU, so nothing was timed", file=sys.stderr)
        return 1
    runtime = choose_runtime("cpu" if options.smoke else None)
    config = PRESETS[options.preset].model
    if options.smoke:
        config = replace(config, hidden_size=64, num_heads=4, H_layers=1, L_layers=1, puzzle_emb_ndim=64)
        config = replace(config, H_cycles=1, L_cycles=1)
        options.shapes, options.steps = "2x17", "2x17"
        print("a smoke run: these numbers mean nothing")
    shapes, steps = parse_shapes(options.shapes), parse_shapes(options.steps)
    if options.against is not None:
        load_published(options.against)  # raises its error now rather than after an hour
    machine = measure_machine(runtime.device, runtime.dtype, _SMOKE_SIZE if options.smoke else _MACHINE_SIZE)
    print(f"computing on {runtime}; matrix product {machine.gemm_tflops:.0f} TFLOP/s, copy {machine.copy_gbs:.0f} GB/s")
    print(dispatch.summary(runtime.device, runtime.dtype))
    compiled = not options.no_compile and not options.smoke
    rows = []
    try:
        for row in bench(config, shapes, steps, machine, options.against, compiled):
            rows.append(row)
            print_row(row)
    finally:
        write_csv(options.out, rows, machine)
        print(f"wrote {options.out}")
    print_ratios(rows)
    return 0


def kernels_are_correct() -> bool:
    """Run the tests of the kernels on this GPU."""
    print("first the tests of the kernels on this GPU", flush=True)
    command = [sys.executable, "-m", "pytest", *KERNEL_TESTS]
    return subprocess.run(command, cwd=environment.REPOSITORY).returncode == 0


def bench(
    config: ModelConfig, shapes: list, steps: list, machine: Machine, against: Path | None, compiled: bool
) -> Iterator[Row]:
    """Yield all rows: those of the operations first, then those of the training steps."""
    for batch, tokens in shapes:
        try:
            for case in cases(config, batch, tokens, machine):
                yield from bench_case(case, batch, tokens, machine, ways_of(case, machine, compiled))
        except torch.cuda.OutOfMemoryError:
            print(f"{batch}x{tokens}: this GPU's memory is too small for the tensors themselves")
    for batch, tokens in steps:
        yield from bench_steps(config, batch, tokens, machine, against, compiled)


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """Return [(96, 226), (48, 901)] for "96x226,48x901" and [] for "none". Raises `InputError`."""
    if text == "none":
        return []
    try:
        return [(int(batch), int(tokens)) for batch, tokens in (shape.split("x") for shape in text.split(","))]
    except ValueError:
        raise InputError(f"'{text}' is not a list of shapes such as {SHAPES}") from None


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--shapes", default=SHAPES, help="batch x tokens of the operations, or none (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", default=STEPS, help="batch x tokens of the training steps, or none (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        default="hrm-27m",
        choices=RECURSIVE_PRESETS,
        help="network whose sizes are taken (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        type=absolute_path,
        metavar="DIR",
        help="checkout of sapientinc/HRM whose training step is timed too",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--smoke", action="store_true", help="run every path once at toy size, without a GPU")
    parser.add_argument(
        "--out",
        type=absolute_path,
        default=environment.REPOSITORY / "bench_ops.csv",
        metavar="FILE",
        help="CSV file to write (default: bench_ops.csv in the repository)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
