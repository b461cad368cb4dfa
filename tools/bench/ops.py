"""Time the Triton kernels on a GPU, beside eager PyTorch, torch.compile and Liger-Kernel.

    python tools/bench/ops.py --out bench_ops.csv [--shapes 96x226,768x901] [--steps 48x901,96x901]
    python tools/bench/ops.py --out bench_ops.csv --against PATH_TO_A_CHECKOUT_OF_sapientinc/HRM
    python tools/bench/ops.py --smoke      # every path once at toy size, anywhere; the numbers mean nothing

First the kernels' tests run on that GPU: nothing is timed unless they pass. Then the machine's own
ceilings (a large matrix product, a large copy), every operation and the whole block, forward
alone and with its backward pass, and whole training steps with their peak memory. FLOP and bytes are
what the mathematics needs: each input read once, each output written once, nothing computed again.
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

# No more than this, so that a GPU machine's own PyTorch and Triton are the ones that are timed.
import numpy as np
import torch

from hrm_offline.common.errors import InputError
from hrm_offline.config import PRESETS, ModelConfig
from hrm_offline.model.batching import fixed_batch
from hrm_offline.model.device import choose_runtime
from hrm_offline.model.halting import Sequences
from hrm_offline.model.layers import Block
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.ops.attention import attention
from hrm_offline.ops.linear_rms_norm import linear_rms_norm
from hrm_offline.ops.linear_swiglu import linear_swiglu
from hrm_offline.ops.rms_norm import rms_norm
from hrm_offline.ops.rope import rope_table
from hrm_offline.ops.stablemax import stablemax_cross_entropy
from hrm_offline.ops.swiglu import swiglu
from hrm_offline.train.learner import Learner
from tools.bench.published import load as load_published
from tools.bench.published import training_step as published_step
from tools.support import environment

SHAPES = "8x226,96x226,48x901,96x901,768x901"
STEPS = "48x901,96x901"
EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """An operation at one size. `flop` and `bytes` of the forward pass; `liger` where it has an equal."""

    name: str
    run: Callable[..., torch.Tensor]
    tensors: list[torch.Tensor]
    flop: float
    bytes: float
    liger: Callable[..., torch.Tensor] | None = None


@dataclass(frozen=True)
class Row:
    """A line of the CSV. Shares are of this machine's own matrix product and copy, in per cent."""

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
    device: torch.device
    dtype: torch.dtype
    gemm_tflops: float
    copy_gbs: float


def time_ms(run: Callable[[], object], device: torch.device) -> float:
    """Median milliseconds of a call, the cache cleared before each; on a CPU one call."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return do_bench(run, warmup=50, rep=1000, return_mode="median")
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure_machine(device: torch.device, dtype: torch.dtype, size: int) -> Machine:
    """Its ceilings, on random data: a square matrix product and a copy, read and written bytes counted."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    gemm = 2 * size**3 / time_ms(lambda: a @ b, device) / 1e9
    source = torch.randn(16 * size * size, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size() / time_ms(lambda: target.copy_(source), device) / 1e6
    return Machine(device, dtype, gemm, copied)


def cases(config: ModelConfig, batch: int, tokens: int, machine: Machine) -> Iterator[Case]:
    """The block's operations, and the block, on random activations."""
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads
    rows, size = batch * tokens, machine.dtype.itemsize
    table_dtype = torch.float16 if size == 2 else torch.float32
    table = rope_table(
        "rope-1d", (1, tokens), 0, tokens, config.head_dim, config.rope_theta, machine.device, table_dtype
    )

    def new(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(shape, device=machine.device)).to(machine.dtype)

    def linear(out: int, into: int) -> torch.Tensor:
        return new(out, into, scale=into**-0.5)

    x, hidden = new(batch, tokens, width), new(batch, tokens, inner)
    attention_flop = 4 * batch * tokens**2 * width
    linear_flop = 2 * rows * width
    yield Case(
        "rms_norm",
        lambda x, r: rms_norm(x, EPS, r),
        [x, new(batch, tokens, width)],
        0,
        3 * rows * width * size,
        _liger_rms_norm(width, machine),
    )
    yield Case("swiglu", swiglu, [new(batch, tokens, 2 * inner)], 0, 3 * rows * inner * size, _liger_swiglu())
    yield Case(
        "attention",
        lambda qkv: attention(qkv, heads, table),
        [new(batch, tokens, 3 * width)],
        attention_flop,
        4 * rows * width * size,
    )
    yield Case(
        "linear_swiglu",
        linear_swiglu,
        [x, linear(2 * inner, width)],
        linear_flop * 2 * inner,
        (rows * (width + inner) + 2 * inner * width) * size,
    )
    for name, into in (("out", new(batch, tokens, width)), ("down", hidden)):
        yield Case(
            f"linear_rms_norm {name}",
            lambda x, w, r: linear_rms_norm(x, w, r, EPS),
            [into, linear(width, into.shape[-1]), x],
            linear_flop * into.shape[-1],
            (rows * (into.shape[-1] + 2 * width) + width * into.shape[-1]) * size,
        )
    labels = torch.randint(0, config.vocab_size, (batch, tokens), device=machine.device)
    yield Case(
        "stablemax",
        lambda logits: stablemax_cross_entropy(logits, labels),
        [new(batch, tokens, config.vocab_size)],
        0,
        rows * (config.vocab_size * size + 12),
    )
    block = Block(config).to(machine.device)
    weights = sum(p.numel() for p in block.parameters())
    yield Case(
        "block",
        lambda x, *_: block(x, table),
        [x, *block.parameters()],
        2 * rows * weights + attention_flop,
        rows * (10 * width + inner) * size,
    )


def _liger_rms_norm(width: int, machine: Machine) -> Callable | None:
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    except ImportError:
        return None
    weight = torch.ones(width, device=machine.device, dtype=machine.dtype)
    # Its sum with the residual is an addition before it.
    return lambda x, r: LigerRMSNormFunction.apply(x + r, weight, EPS, 0.0, "llama", False)


def _liger_swiglu() -> Callable | None:
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return None
    return lambda gate_up: LigerSiLUMulFunction.apply(*(half.contiguous() for half in gate_up.chunk(2, dim=-1)))


def bench_case(case: Case, batch: int, tokens: int, machine: Machine, compiled: bool) -> Iterator[Row]:
    """Rows of one operation: ours as dispatched, eager PyTorch, compiled PyTorch and Liger."""
    ways = [("ours", "triton" if machine.device.type == "cpu" else "auto", case.run), ("eager", "reference", case.run)]
    if compiled:
        torch._dynamo.reset()  # so that each size is compiled for itself, as the kernels are
        compiled_run = torch.compile(case.run, mode="max-autotune-no-cudagraphs", dynamic=False)
        ways.append(("compiled", "reference", compiled_run))
    if case.liger is not None and machine.device.type == "cuda":
        ways.append(("liger", "reference", case.liger))
    for name, mode, run in ways:
        with dispatch.override(mode):
            for direction, factor, make in (("forward", 1, _forward), ("both", 3, _both)):
                try:
                    ms = time_ms(make(run, case), machine.device)
                except torch.cuda.OutOfMemoryError:
                    ms = float("nan")
                tflops, gbs = factor * case.flop / ms / 1e9, factor * case.bytes / ms / 1e6
                yield Row(
                    case.name,
                    direction,
                    batch,
                    tokens,
                    name,
                    ms,
                    tflops,
                    gbs,
                    100 * tflops / machine.gemm_tflops,
                    100 * gbs / machine.copy_gbs,
                )


def _forward(run: Callable, case: Case) -> Callable[[], object]:
    def call():
        with torch.no_grad():
            return run(*case.tensors)

    return call


def _both(run: Callable, case: Case) -> Callable[[], object]:
    leaves = [t if isinstance(t, torch.nn.Parameter) else t.detach().requires_grad_() for t in case.tensors]
    with torch.no_grad():
        grad = torch.randn_like(run(*leaves))
    return lambda: torch.autograd.grad(run(*leaves), leaves, grad)


def bench_steps(
    config: ModelConfig, batch: int, tokens: int, machine: Machine, against: Path | None, compiled: bool
) -> Iterator[Row]:
    """Whole training steps, halting's look-ahead included, with peak memory: ours, plain PyTorch,
    and the published code, each from a fresh allocator."""
    side = round((tokens - config.puzzle_tokens) ** 0.5)
    config = replace(config, canvas_rows=side, canvas_cols=side)
    inputs = torch.from_numpy(np.random.default_rng(0).integers(2, config.vocab_size, size=(batch, side * side)))
    ids = torch.arange(batch)[:, None]
    ours = Sequences(*(tensor.to(machine.device) for tensor in (inputs.int(), inputs.flip(0), ids)))
    recipe = replace(PRESETS["hrm-27m"].adapt, halting_target="look-ahead", ema=0.0)

    def learner_step() -> Callable[[], object]:
        torch.manual_seed(0)
        model = RecursiveModel(config, batch, machine.dtype).to(machine.device)
        learner = Learner(model, recipe, total_steps=1000, seed=0)
        return lambda: learner.learn(fixed_batch(ours, (side, side)))

    def published() -> Callable[[], object]:
        torch.manual_seed(0)
        theirs = {
            "inputs": ours.inputs,
            "labels": ours.labels.int(),
            "puzzle_identifiers": ours.puzzle_identifiers[:, 0].int(),
        }
        return published_step(against, config, recipe, theirs, batch, machine.dtype, compiled)

    ways = [
        ("ours", "triton" if machine.device.type == "cpu" else "auto", learner_step),
        ("eager", "reference", learner_step),
    ]
    if against is not None:
        ways.append(("published", "reference", published))
    for name, mode, make in ways:
        with dispatch.override(mode):
            row = _bench_step(name, make, batch, tokens, machine)
        yield row


def _bench_step(name: str, make: Callable, batch: int, tokens: int, machine: Machine) -> Row:
    on_gpu = machine.device.type == "cuda"
    try:
        step = make()
        step()  # compiles, and allocates the optimiser's moments
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        step()
        # Before timing, which holds a buffer of its own to clear the cache with.
        peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
        ms = time_ms(step, machine.device)
    except torch.cuda.OutOfMemoryError:
        ms = peak = float("nan")
    step = None
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return Row("training step", "both", batch, tokens, name, ms, peak_gib=peak)


def print_row(row: Row) -> None:
    print(
        f"{row.op:<22}{row.direction:<9}{f'{row.batch}x{row.tokens}':<10}{row.implementation:<11}{row.ms:>10.3f} ms"
        f"{row.tflops:>8.1f} TFLOP/s{row.gemm_percent:>5.0f}%{row.gbs:>8.0f} GB/s{row.copy_percent:>5.0f}%"
        + (f"{row.peak_gib:>7.2f} GiB" if row.peak_gib else ""),
        flush=True,
    )


def print_ratios(rows: list[Row]) -> None:
    """How many times faster ours is than each of the others, and its share of their peak memory."""
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
    """Every row with what it was measured on."""
    name = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else "none: a smoke run"
    import triton

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


def kernels_are_correct() -> bool:
    print("first, the kernels' tests on this GPU", flush=True)
    tests = ["tests/ops", "tests/model/test_layers.py", "tests/model/test_recursive.py", "tests/train/test_losses.py"]
    return subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=environment.REPOSITORY).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench_ops.csv"))
    parser.add_argument("--shapes", default=SHAPES, help="batch x tokens of the operations")
    parser.add_argument("--steps", default=STEPS, help="batch x tokens of whole training steps; 'none' for none")
    parser.add_argument("--preset", default="hrm-27m", choices=list(PRESETS))
    parser.add_argument("--against", type=Path, help="a checkout of sapientinc/HRM")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--smoke", action="store_true", help="run every path once, at toy size")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        print("bench_ops needs a GPU, and torch finds none (--smoke runs without)", file=sys.stderr)
        return 2
    if not options.smoke and not kernels_are_correct():
        print("the kernels are wrong on this GPU: nothing was timed", file=sys.stderr)
        return 1
    try:
        return run(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    runtime = choose_runtime("cpu" if options.smoke else None)
    config = PRESETS[options.preset].model
    if options.smoke:
        config = replace(config, hidden_size=64, num_heads=4, H_layers=1, L_layers=1, puzzle_emb_ndim=64)
        options.shapes, options.steps = "2x17", "2x17"
    machine = measure_machine(runtime.device, runtime.dtype, 64 if options.smoke else 8192)
    print(f"computing on {runtime}; matrix product {machine.gemm_tflops:.0f} TFLOP/s, copy {machine.copy_gbs:.0f} GB/s")
    print(dispatch.summary(runtime.device, runtime.dtype))
    if options.smoke:
        print("a smoke run: these numbers mean nothing")
    compiled = not options.no_compile and not options.smoke
    shapes, steps = parse_shapes(options.shapes), parse_shapes(options.steps)
    if options.against is not None:
        load_published(options.against)  # fails now rather than after an hour
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


def bench(
    config: ModelConfig, shapes: list, steps: list, machine: Machine, against: Path | None, compiled: bool
) -> Iterator[Row]:
    """All rows, operations first."""
    for batch, tokens in shapes:
        try:
            for case in cases(config, batch, tokens, machine):
                yield from bench_case(case, batch, tokens, machine, compiled)
        except torch.cuda.OutOfMemoryError:
            print(f"{batch}x{tokens}: the tensors themselves do not fit this GPU")
    for batch, tokens in steps:
        yield from bench_steps(config, batch, tokens, machine, against, compiled)


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """ "96x226,48x901" -> [(96, 226), (48, 901)]. Raises `InputError`."""
    if text == "none":
        return []
    try:
        return [(int(batch), int(tokens)) for batch, tokens in (shape.split("x") for shape in text.split(","))]
    except ValueError:
        raise InputError(f"'{text}' is no list of shapes such as {SHAPES}") from None


if __name__ == "__main__":
    sys.exit(main())
