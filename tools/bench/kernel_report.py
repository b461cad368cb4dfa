"""Compile every Triton kernel for every GPU Kaggle lends, without having one, and report.

    python tools/bench/kernel_report.py [--targets 75,89] [--ops attention,rms_norm] [--all]

A row is a kernel in the configuration its launcher picks for that chip: registers a thread, bytes of
stack (spills), spill instructions, shared memory against the chip's limit, tensor-core instructions, and
the share of a multiprocessor's warps that fit at once. Exits 1 if a configuration that `dispatch`
would choose spills or does not fit. `--all` adds what it would not choose: other dtypes than the chip's
own, and operations that PyTorch serves better there.
"""

from __future__ import annotations

import script_setup

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # kernels must be defined to be compiled

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hrm_offline.config import PRESETS, ModelConfig
from hrm_offline.model.device import dtype_for_capability
from hrm_offline.ops import (
    adam_atan2,
    attention,
    dispatch,
    embedding,
    encode_views,
    linear_rms_norm,
    linear_swiglu,
    rms_norm,
    sign_sgd,
    stablemax_cross_entropy,
    swiglu,
)
from hrm_offline.ops.launch import OPTIONS, Launch, recording


@dataclass(frozen=True)
class Chip:
    """Limits of a multiprocessor (CUDA programming guide, "technical specifications per compute
    capability"). Bytes of shared memory: what a program may have, and all there is."""

    name: str
    program_shared: int
    shared: int
    warps: int
    programs: int


CHIPS = {
    75: Chip("T4", 64 << 10, 64 << 10, 32, 16),
    80: Chip("A100", 163 << 10, 164 << 10, 64, 32),
    86: Chip("A10, RTX 30", 99 << 10, 100 << 10, 48, 16),
    89: Chip("L4, RTX 40", 99 << 10, 100 << 10, 48, 24),
    90: Chip("H100, H200", 227 << 10, 228 << 10, 64, 32),
    120: Chip("RTX Pro 6000, RTX 50", 99 << 10, 100 << 10, 48, 24),
}
REGISTERS = 65536  # of 32 bits, on every one of them
RESERVED_SHARED = 1 << 10  # that the driver takes for each program from 8.0 on
TENSOR_CORE = ("HMMA", "HGMMA", "QMMA", "OMMA", "UTCHMMA")


@dataclass(frozen=True)
class Variant:
    """A kernel as a launcher launches it on a chip, and whether dispatch would choose it there."""

    op: str
    dtype: torch.dtype
    chosen: bool
    launch: Launch


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a variant; `error` instead of numbers where it made nothing."""

    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    tensor_core: str = ""
    error: str = ""


def variants(capability: int, everything: bool) -> list[Variant]:
    """Every launch of the presets' operations on that chip; the same kernel is listed once."""
    preferred, _ = dtype_for_capability((capability // 10, capability % 10))
    dtypes = [torch.float32, torch.float16, torch.bfloat16][: 3 if capability >= 80 else 2]
    found: dict[tuple, Variant] = {}
    for preset in PRESETS.values():
        for dtype in dtypes if everything else [preferred]:
            for op, call in _calls(preset.model, dtype).items():
                op_dtype = torch.float32 if op in dispatch.FLOAT32_OPS else dtype
                chosen = dispatch.decide_for(op, capability, op_dtype).triton
                if not chosen and not everything:
                    continue
                with recording(capability) as launches:
                    call()
                for launch in launches:
                    key = (launch.kernel, *launch.constants.items(), *_types(launch).values())
                    found.setdefault(key, Variant(op, op_dtype, chosen, launch))
    return list(found.values())


def _calls(model: ModelConfig, dtype: torch.dtype) -> dict:
    """By operation, a function that launches its kernels, backward passes included, on two
    sequences of the full canvas."""
    batch, tokens, width, inner = 2, 901, model.hidden_size, model.intermediate_size
    heads, head_dim = model.num_heads, model.head_dim

    def new(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    rows, ids = new(batch, tokens, width), torch.zeros(batch, dtype=torch.int64)
    wide, gate_up = new(batch, tokens, inner), new(batch, tokens, 2 * inner)
    square = new(width, width)
    factors, lse = new(batch, tokens, dtype=torch.float32), new(batch, heads, tokens, dtype=torch.float32)
    qkv, rope_dtype = new(batch, tokens, 3 * width), torch.float32 if dtype is torch.float32 else torch.float16
    rope = new(tokens, head_dim, dtype=rope_dtype)
    lengths = torch.full((batch,), tokens, dtype=torch.int32)
    cells = torch.zeros(batch, tokens - 1, dtype=torch.int32)
    table, logits = new(12, width, dtype=torch.float32), new(batch, tokens - 1, 12)
    labels, losses = cells.long(), new(batch, tokens - 1, dtype=torch.float32)
    addresses, chunks = torch.zeros(8, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)

    def run_attention() -> None:
        attention.attention_forward(qkv, rope, lengths, heads, rows, None)
        attention.attention_forward(qkv, rope, lengths, heads, rows, lse)
        attention.attention_backward(rows, qkv, rope, lengths, heads, rows, lse, lse, qkv)

    def run_rms_norm() -> None:
        rms_norm.rms_norm_forward(rows, rows, rows, None, 1e-5)
        rms_norm.rms_norm_forward(rows, rows, rows, factors, 1e-5)
        rms_norm.rms_norm_backward(rows, rows, factors, rows)

    def run_swiglu() -> None:
        swiglu.swiglu_forward(gate_up, wide)
        swiglu.swiglu_backward(wide, gate_up, gate_up)

    def run_linear_swiglu() -> None:
        weight = new(2 * inner, width)
        linear_swiglu.linear_swiglu_forward(rows, weight, wide)
        linear_swiglu.linear_swiglu_backward(rows, weight, wide, gate_up)

    def run_linear_rms_norm() -> None:
        for x, weight in ((rows, square), (wide, new(width, inner))):
            linear_rms_norm.linear_rms_norm_forward(x, weight, rows, rows, None, 1e-5)
            linear_rms_norm.linear_rms_norm_forward(x, weight, rows, rows, factors, 1e-5)

    def run_stablemax_cross_entropy() -> None:
        stablemax_cross_entropy.stablemax_cross_entropy_forward(logits, labels, losses)
        stablemax_cross_entropy.stablemax_cross_entropy_backward(losses, logits, labels, logits)

    def run_embedding() -> None:
        puzzle = new(batch, width, dtype=torch.float32)
        embedding.embedding_forward(cells, table, puzzle, 1, None, 2.0, rows)
        embedding.embedding_backward(rows, cells, 1, new(4, 12, width, dtype=torch.float32))

    def run_adam_atan2() -> None:
        one = [new(1, dtype=torch.float32)]
        adam_atan2.adam_atan2_step(one, one, one, one, addresses, chunks, 0.9, 0.9, 0.9, 1.5, 0.1)

    def run_sign_sgd() -> None:
        sign_sgd.sign_sgd_step(table, ids, new(batch, width, dtype=torch.float32), 0.1, 0.9)

    def run_encode_views() -> None:
        bytes_, numbers = torch.zeros(4, dtype=torch.uint8), torch.zeros(4, dtype=torch.int32)
        encode_views.encode_views_forward(
            bytes_, numbers, numbers, numbers, numbers, bytes_, bytes_, numbers, 30, cells
        )

    return dict(
        attention=run_attention,
        linear_rms_norm=run_linear_rms_norm,
        linear_swiglu=run_linear_swiglu,
        rms_norm=run_rms_norm,
        swiglu=run_swiglu,
        embedding=run_embedding,
        stablemax_cross_entropy=run_stablemax_cross_entropy,
        adam_atan2=run_adam_atan2,
        sign_sgd=run_sign_sgd,
        encode_views=run_encode_views,
    )


_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


def _types(launch: Launch) -> dict[str, str]:
    """Triton's type of each argument, by name, specialised as a launch would (None and 1 are constants)."""
    names = launch.kernel.arg_names
    types = {}
    for name, value in zip(names, launch.args):
        if isinstance(value, torch.Tensor):
            types[name] = _POINTERS[value.dtype]
        elif isinstance(value, float):
            types[name] = "fp32"
        else:
            types[name] = "constexpr" if value is None or value == 1 else "i32"
    return types | dict.fromkeys(names[len(launch.args) :], "constexpr")


def compile_variant(variant: Variant, capability: int) -> Compiled:
    launch = variant.launch
    names, types = launch.kernel.arg_names, _types(launch)
    values = dict(zip(names, launch.args)) | {k: v for k, v in launch.constants.items() if k in names}
    constants = {(names.index(name),): values[name] for name, kind in types.items() if kind == "constexpr"}
    # A launch specialises arguments that are multiples of 16, as PyTorch's allocations are.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if types[name][0] == "*" or (types[name] == "i32" and values[name] % 16 == 0)
    }
    options = OPTIONS | {k: v for k, v in launch.constants.items() if k in ("num_warps", "num_stages")}
    try:
        source = ASTSource(launch.kernel, types, constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        return Compiled(error=f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}")
    return _read(compiled.asm["cubin"], compiled.metadata.shared)


def _read(cubin: bytes, shared: int) -> Compiled:
    """Numbers of a cubin, through the tools that come with Triton."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
        code = subprocess.run([tools / "nvdisasm", file.name], capture_output=True, text=True).stdout
    used = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    instructions = re.findall(r"\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)", code)
    if not used or not instructions:
        return Compiled(error="the compiler's output could not be read")
    tensor_core = {name: instructions.count(name) for name in TENSOR_CORE if name in instructions}
    return Compiled(
        int(used["REG"]),
        int(used["STACK"]),
        instructions.count("LDL") + instructions.count("STL"),
        shared,
        " ".join(f"{n} {name}" for name, n in tensor_core.items()),
    )


def occupancy(compiled: Compiled, warps: int, chip: Chip) -> float:
    """Warps that one multiprocessor holds at once, as a share of its limit: registers come in
    units of 256 a warp, shared memory with what the driver reserves."""
    warp_registers = -(-compiled.registers * 32 // 256) * 256
    programs = min(
        chip.programs,
        chip.warps // warps,
        REGISTERS // (warp_registers * warps),
        chip.shared // (compiled.shared + RESERVED_SHARED),
    )
    return programs * warps / chip.warps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(map(str, CHIPS)), help="compute capabilities, such as 75,89")
    parser.add_argument("--ops", default=",".join(dispatch.RULES), help="operations")
    parser.add_argument("--all", action="store_true", help="also what dispatch would not choose")
    options = parser.parse_args()
    targets = [int(target) for target in options.targets.split(",")]
    ops = options.ops.split(",")
    if unknown := [str(name) for name in {*targets, *ops} if name not in CHIPS and name not in dispatch.RULES]:
        parser.error(
            f"unknown {', '.join(unknown)}; targets are {', '.join(map(str, CHIPS))}, "
            f"operations {', '.join(dispatch.RULES)}"
        )
    work = [(variant, target) for target in targets for variant in variants(target, options.all) if variant.op in ops]
    print(f"Triton {triton.__version__}, torch {torch.__version__}: {len(work)} kernels for {len(targets)} chips")
    # Forked, so that a worker finds the launches by their number.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork"), _share, (work,)) as pool:
        results = list(pool.map(_compile_number, range(len(work))))
    failures = 0
    for target in targets:
        rows = [(variant, result) for (variant, of), result in zip(work, results) if of == target]
        failures += _print_chip(target, rows)
    print(
        f"{failures} of the kernels that dispatch would choose spill or do not fit"
        if failures
        else "every kernel that dispatch would choose fits, without a spill"
    )
    return 1 if failures else 0


_work: list[tuple[Variant, int]] = []


def _share(work: list[tuple[Variant, int]]) -> None:
    _work[:] = work


def _compile_number(number: int) -> Compiled:
    return compile_variant(*_work[number])


def _print_chip(target: int, rows: list[tuple[Variant, Compiled]]) -> int:
    """The chip's table; returns how many chosen kernels spill or do not fit."""
    chip = CHIPS[target]
    print(f"\nsm_{target} ({chip.name}), {chip.program_shared >> 10} KiB of shared memory for a program")
    print(
        f"{'kernel':<42}{'dtype':<10}{'tiles':<26}{'warps':>5}{'stages':>7}{'regs':>6}{'stack':>7}{'spills':>7}"
        f"{'shared':>8}{'occup.':>8}  {'tensor cores':<14}"
    )
    preferred, _ = dtype_for_capability((target // 10, target % 10))
    for op in dispatch.RULES:
        decision = dispatch.decide_for(op, target, torch.float32 if op in dispatch.FLOAT32_OPS else preferred)
        if not decision.triton:
            print(f"{op}: PyTorch serves it in {str(preferred)[6:]} ({decision.reason})")
    failures = 0
    for variant, result in rows:
        constants, name = variant.launch.constants, variant.launch.kernel.__name__.strip("_")
        flags = "".join(f" {k.lower()}" for k, v in constants.items() if v is True and k not in ("EVEN_K", "ALIGNED"))
        tiles = "x".join(str(v) for k, v in constants.items() if k.isupper() and type(v) is int and k != "IGNORE")
        start = f"{(name.replace('_kernel', '') + flags)[:41]:<42}{str(variant.dtype)[6:]:<10}{tiles:<26}"
        if result.error:
            print(f"{start}{result.error}")
            failures += variant.chosen
            continue
        too_large = result.shared > chip.program_shared
        bad = result.stack > 0 or result.spills > 0 or too_large
        failures += bad and variant.chosen
        warps = constants["num_warps"]
        remark = ("TOO LARGE" if too_large else "SPILLS" if bad else "") + ("" if variant.chosen else " (not chosen)")
        print(
            f"{start}{warps:>5}{constants.get('num_stages', ''):>7}{result.registers:>6}{result.stack:>7}"
            f"{result.spills:>7}{result.shared:>8}{occupancy(result, warps, chip):>8.0%}"
            f"  {result.tensor_core or '-':<14}{remark}"
        )
    return failures


if __name__ == "__main__":
    sys.exit(main())
