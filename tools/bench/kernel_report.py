"""Compile every Triton kernel for every GPU that Kaggle lends, on a machine without a GPU, and report.

    python tools/bench/kernel_report.py [--targets 75,89] [--ops attention,rms_norm] [--presets hrm-27m] [--all]
        [--json FILE]

A row is a kernel in the configuration that its launcher picks for a chip. The columns are registers per thread, bytes
of stack, spill instructions, bytes of shared memory, the share of a multiprocessor's warps that fit at once
(occupancy), and tensor-core instructions. The exit code is 1 if a configuration that `dispatch` would choose spills
registers or does not fit the chip. --all adds the kernels that `dispatch` would not choose: other dtypes than the
chip's own, and operations that PyTorch serves better there. --json also writes the numbers into a file, with the
instructions of each kernel; `tools/write_kernel_tables.py` makes the tables of docs/kernels.md from such files.

Triton 3.2 and later will do. Another version than the installed one can be tried from a folder of its own:

    pip install --target FOLDER --no-deps triton==3.4.0
    PYTHONPATH=FOLDER python tools/bench/kernel_report.py
"""

from __future__ import annotations

import script_setup

import argparse
import dataclasses
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # with this setting, kernels would be interpreted and not compiled

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

try:  # Triton before 3.3 describes arguments with it
    from triton.backends.compiler import AttrsDescriptor
except ImportError:
    AttrsDescriptor = None

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import write_json
from hrm_offline.config import ModelConfig
from hrm_offline.model.device import dtype_for_capability
from hrm_offline.ops import (
    adam_atan2,
    add_rms_norm,
    attention,
    cached_attention,
    causal_attention,
    conv_silu,
    dispatch,
    embedding,
    encode_views,
    linear_rms_norm,
    linear_swiglu,
    muon,
    rms_norm,
    rotate,
    sign_sgd,
    stablemax_cross_entropy,
    swiglu,
)
from hrm_offline.ops.launch import OPTIONS, Launch, recording
from hrm_offline.presets import PRESETS
from tools.support.command_line import parser_of


@dataclass(frozen=True)
class Chip:
    """The limits of a multiprocessor (CUDA programming guide, "technical specifications per compute capability").

    `program_shared` is the shared memory that one program may have, `shared` all there is, in bytes; `warps` and
    `programs` are the numbers that fit at once.
    """

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
REGISTERS = 65536  # of 32 bits, on a multiprocessor of any of these chips
RESERVED_SHARED = 1 << 10  # bytes that the driver takes for each program, from compute capability 8.0 on
TENSOR_CORE = ("HMMA", "HGMMA", "QMMA", "OMMA", "UTCHMMA")


@dataclass(frozen=True)
class Variant:
    """A kernel as its launcher launches it on a chip. `chosen` says whether dispatch would choose the kernel there."""

    op: str
    dtype: torch.dtype
    chosen: bool
    launch: Launch


@dataclass(frozen=True)
class Compiled:
    """The numbers of a compiled variant, or the `error` of one that could not be compiled."""

    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    tensor_core: str = ""
    instructions: int = 0
    error: str = ""


def variants(capability: int, presets: list[str], everything: bool, usual_tiles: bool) -> list[Variant]:
    """Return every launch on a chip of the operations that networks of `presets` call, equal kernels only once.

    `everything` adds the launches that dispatch would not choose. `usual_tiles` leaves out the tiles that only a
    self-test on the chip may choose.
    """
    preferred, _ = dtype_for_capability((capability // 10, capability % 10))
    dtypes = [torch.float32, torch.float16, torch.bfloat16][: 3 if capability >= 80 else 2]
    found: dict[tuple, Variant] = {}
    for preset in (PRESETS[name] for name in presets):
        for dtype in dtypes if everything else [preferred]:
            samples = Samples(preset.model, dtype, usual_tiles)
            for op, launch_all in LAUNCHES.items():
                if op not in dispatch.ops_of(preset.model):
                    continue
                op_dtype = dispatch.dtype_of(op, dtype)
                chosen = dispatch.decide_for(op, capability, op_dtype).triton
                if not chosen and not everything:
                    continue
                with recording(capability) as launches:
                    launch_all(samples)
                for launch in launches:
                    key = (launch.kernel, *launch.constants.items(), *_types(launch).values())
                    found.setdefault(key, Variant(op, op_dtype, chosen, launch))
    return list(found.values())


class Samples:
    """Tensors without contents for the operations of a network: two sequences on the full canvas, in one dtype."""

    batch, tokens = 2, 901  # 30 x 30 cells and a puzzle token

    def __init__(self, model: ModelConfig, dtype: torch.dtype, usual_tiles: bool):
        self.dtype = dtype
        self.attention_variants = [
            name for name in dispatch.VARIANTS["attention"] if not (usual_tiles and name.endswith("tiles"))
        ]
        self.width, self.inner = model.hidden_size, model.intermediate_size
        self.heads, self.head_dim = model.num_heads, model.head_dim
        self.rows = self.activations(self.width)
        self.cells = torch.zeros(self.batch, self.tokens - 1, dtype=torch.int32)

    def activations(self, width: int) -> torch.Tensor:
        """Return a tensor [B, T, width]."""
        return self.new(self.batch, self.tokens, width)

    def new(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype)

    def float32(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32)


# Each function below launches all kernels of one operation, those of the backward pass included.


def _attention(s: Samples) -> None:
    qkv, out = s.activations(3 * s.width), s.rows
    rope_dtype = torch.float32 if s.dtype is torch.float32 else torch.float16
    lengths = torch.full((s.batch,), s.tokens, dtype=torch.int32)
    lse = s.float32(s.batch, s.heads, s.tokens)
    for name in s.attention_variants:
        cos_sin = torch.empty(s.tokens, s.head_dim, dtype=rope_dtype) if name == "rotate inside" else None
        with dispatch.forced("attention", True, name):
            attention.attention_forward(qkv, cos_sin, lengths, s.heads, out, None)
            attention.attention_forward(qkv, cos_sin, lengths, s.heads, out, lse)
            attention.attention_backward(out, qkv, cos_sin, lengths, s.heads, out, lse, lse, qkv)


def _causal_attention(s: Samples) -> None:
    tokens, bounds = s.batch * s.tokens, torch.zeros(s.batch + 1, dtype=torch.int32)
    out, qkv, lse = s.new(tokens, s.width), s.new(tokens, 3 * s.width), s.float32(s.heads, tokens)
    causal_attention.causal_attention_forward(qkv, bounds, s.heads, s.tokens, out, None)
    causal_attention.causal_attention_forward(qkv, bounds, s.heads, s.tokens, out, lse)
    causal_attention.causal_attention_backward(out, qkv, bounds, s.heads, s.tokens, out, lse, lse, qkv)


def _cached_attention(s: Samples) -> None:
    out, qkv, angles = s.new(s.batch, s.width), s.new(s.batch, 3 * s.width), s.float32(s.batch, s.head_dim)
    keys, lengths = s.new(s.batch, s.heads, s.tokens, s.head_dim), torch.zeros(s.batch, dtype=torch.int64)
    cached_attention.cached_attention_forward(qkv, s.heads, angles, keys, keys, lengths, out)


def _rotate(s: Samples) -> None:
    qkv = s.activations(3 * s.width)
    for inverse in (False, True):
        rotate.rotate_rows(qkv, s.float32(s.tokens, s.head_dim), s.heads, inverse, qkv)


def _linear_rms_norm(s: Samples) -> None:
    factors = s.float32(s.batch, s.tokens)
    for x, columns in ((s.rows, s.width), (s.activations(s.inner), s.inner)):
        weight = s.new(s.width, columns)
        linear_rms_norm.linear_rms_norm_forward(x, weight, s.rows, s.rows, None, 1e-5)
        linear_rms_norm.linear_rms_norm_forward(x, weight, s.rows, s.rows, factors, 1e-5)


def _linear_swiglu(s: Samples) -> None:
    weight, out, gate_up = s.new(2 * s.inner, s.width), s.activations(s.inner), s.activations(2 * s.inner)
    linear_swiglu.linear_swiglu_forward(s.rows, weight, out)
    linear_swiglu.linear_swiglu_backward(s.rows, weight, out, gate_up)


def _rms_norm(s: Samples) -> None:
    factors = s.float32(s.batch, s.tokens)
    rms_norm.rms_norm_forward(s.rows, s.rows, s.rows, None, 1e-5)
    rms_norm.rms_norm_forward(s.rows, s.rows, s.rows, factors, 1e-5)
    rms_norm.rms_norm_backward(s.rows, s.rows, factors, s.rows)


def _add_rms_norm(s: Samples) -> None:
    weight, factors, partial = s.float32(s.width), s.float32(s.batch, s.tokens), s.float32(29, s.width)
    for delta in (None, s.rows):
        add_rms_norm.add_rms_norm_forward(s.rows, delta, weight, delta, s.rows, None, 1e-5)
        add_rms_norm.add_rms_norm_forward(s.rows, delta, weight, delta, s.rows, factors, 1e-5)
        add_rms_norm.add_rms_norm_backward(s.rows, delta, s.rows, weight, factors, s.rows, partial)


def _swiglu(s: Samples) -> None:
    out, gate_up = s.activations(s.inner), s.activations(2 * s.inner)
    swiglu.swiglu_forward(gate_up, out)
    swiglu.swiglu_backward(out, gate_up, gate_up)


def _conv_silu(s: Samples) -> None:
    hidden, weight, bias = s.activations(s.inner), s.float32(s.inner, 2), s.float32(s.inner)
    conv_silu.conv_silu_forward(hidden, weight, bias, hidden)
    conv_silu.conv_silu_backward(hidden, hidden, weight, bias, hidden, s.float32(15, 3, s.inner))


def _embedding(s: Samples) -> None:
    embedding.embedding_forward(s.cells, s.float32(12, s.width), s.float32(s.batch, s.width), 1, None, 2.0, s.rows)
    embedding.embedding_backward(s.rows, s.cells, 1, s.float32(4, 12, s.width))


def _stablemax_cross_entropy(s: Samples) -> None:
    logits, labels = s.new(s.batch, s.tokens - 1, 12), s.cells.long()
    losses = s.float32(s.batch, s.tokens - 1)
    stablemax_cross_entropy.stablemax_cross_entropy_forward(logits, labels, losses)
    stablemax_cross_entropy.stablemax_cross_entropy_backward(losses, logits, labels, logits)


def _adam_atan2(s: Samples) -> None:
    one = [s.float32(1)]
    addresses, chunks = torch.zeros(8, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)
    adam_atan2.adam_atan2_step(one, one, one, one, addresses, chunks, 0.9, 0.9, 0.9, 1.5, 0.1)


def _muon(s: Samples) -> None:
    weight = s.float32(s.width, s.width)
    muon.muon_smooth(weight, weight, weight, True)
    muon.muon_apply(weight, weight, 0.9, 0.1)


def _sign_sgd(s: Samples) -> None:
    ids = torch.zeros(s.batch, dtype=torch.int64)
    sign_sgd.sign_sgd_step(s.float32(12, s.width), ids, s.float32(s.batch, s.width), 0.1, 0.9)


def _encode_views(s: Samples) -> None:
    bytes_, numbers = torch.zeros(4, dtype=torch.uint8), torch.zeros(4, dtype=torch.int32)
    encode_views.encode_views_forward(bytes_, numbers, numbers, numbers, numbers, bytes_, bytes_, numbers, 30, s.cells)


LAUNCHES = {
    "attention": _attention,
    "causal_attention": _causal_attention,
    "cached_attention": _cached_attention,
    "linear_rms_norm": _linear_rms_norm,
    "linear_swiglu": _linear_swiglu,
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "swiglu": _swiglu,
    "conv_silu": _conv_silu,
    "rotate": _rotate,
    "embedding": _embedding,
    "stablemax_cross_entropy": _stablemax_cross_entropy,
    "adam_atan2": _adam_atan2,
    "muon": _muon,
    "sign_sgd": _sign_sgd,
    "encode_views": _encode_views,
}


# ----- compiling


_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


def _types(launch: Launch) -> dict[str, str]:
    """Return Triton's type of each argument by name. As in a real launch, None and 1 are constants."""
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


def compile_variant(variant: Variant, capability: int, count: bool = True) -> Compiled:
    """Compile a kernel for a chip as a launch on that chip would, and read the numbers of the result.

    Without `count`, the instructions of a kernel without spills and matrix products are not counted: to disassemble
    takes longer than to compile.
    """
    launch = variant.launch
    names, types = launch.kernel.arg_names, _types(launch)
    values = dict(zip(names, launch.args)) | {k: v for k, v in launch.constants.items() if k in names}
    constants = {name: values[name] for name, kind in types.items() if kind == "constexpr"}
    # A real launch tells the compiler which arguments are multiples of 16; the addresses of PyTorch's tensors are.
    aligned = [
        i for i, name in enumerate(names) if types[name][0] == "*" or (types[name] == "i32" and values[name] % 16 == 0)
    ]
    options = OPTIONS | {k: v for k, v in launch.constants.items() if k in ("num_warps", "num_stages")}
    try:
        source = _source(launch.kernel, types, constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        return Compiled(error=f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}")
    has_products = re.search(r"\b(?:mma|wgmma)\.", compiled.asm["ptx"]) is not None
    return _read(compiled.asm["cubin"], compiled.metadata.shared, count or has_products)


def _source(kernel, types: dict[str, str], constants: dict[str, object], aligned: list[int]) -> ASTSource:
    """Return the kernel for the compiler, in the form that this version of Triton takes."""
    if AttrsDescriptor is not None:
        types = {name: kind for name, kind in types.items() if name not in constants}
        return ASTSource(kernel, types, constants, AttrsDescriptor.from_hints(dict.fromkeys(aligned, 16)))
    return ASTSource(kernel, types, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})


def _read(cubin: bytes, shared: int, count: bool) -> Compiled:
    """Return the numbers of a compiled kernel, read with the tools that come with Triton.

    Without `count`, the instructions are read only if the kernel has a stack, which spills need.
    """
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
        used = dict(re.findall(r"(REG|STACK):(\d+)", usage))
        disassemble = [tools / "nvdisasm", "--print-code", "--no-dataflow", file.name]
        needed = count or used.get("STACK") != "0"
        code = subprocess.run(disassemble, capture_output=True, text=True).stdout if needed else ""
    instructions = re.findall(r"\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)", code)
    if not used or (needed and not instructions):
        return Compiled(error="the compiler's output could not be read")
    tensor_core = {name: instructions.count(name) for name in TENSOR_CORE if name in instructions}
    return Compiled(
        int(used["REG"]),
        int(used["STACK"]),
        instructions.count("LDL") + instructions.count("STL"),
        shared,
        " ".join(f"{n} {name}" for name, n in tensor_core.items()),
        len(instructions) - instructions.count("NOP"),
    )


def occupancy(compiled: Compiled, warps: int, chip: Chip) -> float:
    """Return the warps that a multiprocessor holds at once, as a share of its limit."""
    # A warp of 32 threads gets registers in units of 256.
    warp_registers = -(-compiled.registers * 32 // 256) * 256
    programs = min(
        chip.programs,
        chip.warps // warps,
        REGISTERS // (warp_registers * warps),
        chip.shared // (compiled.shared + RESERVED_SHARED),
    )
    return programs * warps / chip.warps


def main() -> int:
    targets, ops, presets, options = _parse_arguments()
    work = [
        (variant, target)
        for target in targets
        for variant in variants(target, presets, options.all, options.usual_tiles)
        if variant.op in ops
    ]
    print(f"Triton {triton.__version__}, torch {torch.__version__}: {len(work)} kernels for {len(targets)} chips")
    if "fork" not in multiprocessing.get_all_start_methods():
        raise InputError("this system cannot fork processes, which this report needs")
    # Launches cannot be sent to a process. A forked worker already has them, and finds each by its number.
    with ProcessPoolExecutor(
        os.cpu_count(), multiprocessing.get_context("fork"), _share, (work, options.json is not None)
    ) as pool:
        results = list(pool.map(_compile_number, range(len(work))))
    if options.json:
        rows = [_as_json(variant, target, result) for (variant, target), result in zip(work, results)]
        write_json(options.json, {"triton": triton.__version__, "kernels": rows}, indent=1)
    failures = 0
    for target in targets:
        rows = [(variant, result) for (variant, of), result in zip(work, results) if of == target]
        failures += _print_chip(target, rows)
    if failures:
        print(f"{failures} of the kernels that dispatch would choose spill registers or do not fit")
        return 1
    print("every kernel that dispatch would choose fits and spills no registers")
    return 0


def _as_json(variant: Variant, target: int, result: Compiled) -> dict:
    names = {"capability": target, "op": variant.op, "kernel": _title(variant), "chosen": variant.chosen}
    return names | {"fits": _fits(result, CHIPS[target])} | dataclasses.asdict(result)


def _parse_arguments() -> tuple[list[int], list[str], list[str], argparse.Namespace]:
    """Return the targets, the operations, the presets, and all options."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--targets",
        default=",".join(map(str, CHIPS)),
        help="compute capabilities of the chips, without the dot (default: %(default)s)",
    )
    parser.add_argument("--ops", default=",".join(LAUNCHES), help="operations (default: %(default)s)")
    parser.add_argument(
        "--presets", default=",".join(PRESETS), help="networks that call the operations (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="report the kernels that dispatch would not choose, too")
    parser.add_argument(
        "--usual-tiles", action="store_true", help="leave out the tiles that only a self-test on the chip may choose"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    options = parser.parse_args()
    known = {"targets": list(map(str, CHIPS)), "ops": list(LAUNCHES), "presets": list(PRESETS)}
    chosen = {name: getattr(options, name).split(",") for name in known}
    unknown = [word for name in known for word in chosen[name] if word not in known[name]]
    if unknown:
        lists = (f"{name} are {', '.join(names)}" for name, names in known.items())
        parser.error("; ".join([f"unknown {', '.join(unknown)}", *lists]))
    return [int(target) for target in chosen["targets"]], chosen["ops"], chosen["presets"], options


_work: list[tuple[Variant, int, bool]] = []  # in a worker: the arguments of all the work there is


def _share(work: list[tuple[Variant, int]], count: bool) -> None:
    _work[:] = [(*item, count) for item in work]


def _compile_number(number: int) -> Compiled:
    return compile_variant(*_work[number])


def _print_chip(target: int, rows: list[tuple[Variant, Compiled]]) -> int:
    """Print the table of a chip. Returns how many chosen kernels spill or do not fit."""
    chip = CHIPS[target]
    print(f"\nsm_{target} ({chip.name}), {chip.program_shared >> 10} KiB of shared memory per program")
    print(
        f"{'kernel':<42}{'dtype':<10}{'tiles':<26}{'warps':>5}{'stages':>7}{'regs':>6}{'stack':>7}{'spills':>7}"
        f"{'shared':>8}{'occup.':>8}  {'tensor cores':<14}"
    )
    preferred, _ = dtype_for_capability((target // 10, target % 10))
    for op in dispatch.RULES:
        decision = dispatch.decide_for(op, target, dispatch.dtype_of(op, preferred))
        if not decision.triton:
            print(f"{op}: PyTorch serves it in {str(preferred)[6:]} ({decision.reason})")
    return sum(_print_variant(variant, result, chip) for variant, result in rows)


def _title(variant: Variant) -> str:
    """Return the kernel's name, and its flags that are on."""
    name = variant.launch.kernel.__name__.strip("_").replace("_kernel", "")
    flags = [k.lower() for k, v in variant.launch.constants.items() if v is True and k not in ("EVEN_K", "ALIGNED")]
    return " ".join([name, *flags])


def _fits(result: Compiled, chip: Chip) -> bool:
    return result.shared <= chip.program_shared


def _print_variant(variant: Variant, result: Compiled, chip: Chip) -> bool:
    """Print the row of a kernel. Returns whether it is a chosen one that spills or does not fit."""
    constants = variant.launch.constants
    tiles = "x".join(str(v) for k, v in constants.items() if k.isupper() and type(v) is int and k != "IGNORE")
    start = f"{_title(variant)[:41]:<42}{str(variant.dtype)[6:]:<10}{tiles:<26}"
    if result.error:
        print(f"{start}{result.error}")
        return variant.chosen
    too_large = not _fits(result, chip)
    spills = result.stack > 0 or result.spills > 0
    remark = ("TOO LARGE" if too_large else "SPILLS" if spills else "") + ("" if variant.chosen else " (not chosen)")
    warps = constants["num_warps"]
    print(
        f"{start}{warps:>5}{constants.get('num_stages', ''):>7}{result.registers:>6}{result.stack:>7}"
        f"{result.spills:>7}{result.shared:>8}{occupancy(result, warps, chip):>8.0%}"
        f"  {result.tensor_core or '-':<14}{remark}"
    )
    return variant.chosen and (spills or too_large)


if __name__ == "__main__":
    sys.exit(main())
