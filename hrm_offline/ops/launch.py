"""Define and launch the package's Triton kernels.

Triton is optional. Without it `jit` leaves a kernel as a plain function, and `dispatch` never chooses it.

A launcher is a function that launches the kernels of an operation. `launcher` registers it as a PyTorch operator, so
that `torch.compile` calls it as it is. Eager code calls the function itself, since a call through PyTorch's dispatcher
costs more than the launch. A launch that fails raises `KernelFault`. Before a CUDA graph is captured, a launcher must
have run once with the same shapes: the first call compiles its kernels.

Tile sizes are written down by compute capability, and `pick` chooses among them. They are never searched for at run
time: a notebook has no minutes to spare, and a search may end differently each time.

`recording` collects launches instead of running them. `tools/bench/kernel_report.py` compiles them without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hrm_offline.ops.faults import KernelFault, is_context_lost, is_out_of_memory

try:
    import triton
    import triton.language as tl
except Exception:  # not there, or broken: some versions cannot be imported under python -OO. PyTorch serves then
    triton = None

Config = dict[str, int]  # tile sizes, num_warps and num_stages of a kernel
OPTIONS = dict(enable_fp_fusion=True)  # of every launch; Triton's default changes with its version

_INTERPRETED_CAPABILITY = 80  # the interpreter runs the tiles of this chip


@dataclass(frozen=True)
class Launch:
    """A kernel and its arguments. `constants` are its compile-time arguments, `num_warps` and `num_stages`."""

    kernel: object
    args: tuple
    constants: Config


def jit(function: Callable):
    """Return `triton.jit(function)`, or the function itself where Triton is not installed."""
    return function if triton is None else triton.jit(function)


@jit
def _probe(out_ptr):
    tl.store(out_ptr, 1.0)


# Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when the package was imported).
interpreted = triton is not None and not isinstance(_probe, triton.JITFunction)
_INTERPRETED = tl.constexpr(interpreted) if triton else None


@jit
def dot(a, b, total=None):
    """Return total + a b, accumulated in float32. Factors in float32 are not rounded to TF32."""
    if _INTERPRETED:  # the interpreter would multiply the bits of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    if total is None:  # Triton before 3.4 takes no None for it
        total = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


LOG2_E = tl.constexpr(1.4426950408889634) if triton else None  # exp(x) is exp2(x log2(e))


@jit
def load_rows(ptr, rows, inside, row_stride, COLUMNS: tl.constexpr):
    """Return rows of a matrix in memory, [rows, COLUMNS]; zeros where `inside` is false."""
    at = ptr + rows[:, None] * row_stride + tl.arange(0, COLUMNS)[None, :]
    return tl.load(at, mask=inside[:, None], other=0.0)


def tracked(*tensors: torch.Tensor | None) -> bool:
    """Return whether autograd follows an operation on these tensors. If not, nothing need be saved for it."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def describe(**tensors: torch.Tensor | None) -> str:
    """Return the tensors' names, dtypes and shapes for an error message."""
    return ", ".join(
        f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items() if t is not None
    )


def launcher(schema: str) -> Callable[[Callable], Callable]:
    """Register a function that launches kernels as the operator `hrm_offline::<its name>`.

    `schema` is PyTorch's, such as "(Tensor x, Tensor(a!) y) -> ()". Launchers write into tensors that they are given
    and return nothing, so that the caller decides what is allocated.
    """
    written = re.findall(r"\(\w!\)\??(?:\[\])? (\w+)", schema)  # names of the arguments marked "(a!)"

    def register(function: Callable) -> Callable:
        name = f"hrm_offline::{function.__name__.strip('_')}"
        operator = torch.library.custom_op(name, function, mutates_args=written, schema=schema)
        op = function.__module__.rpartition(".")[2]

        @functools.wraps(function)
        def call(*args):
            if torch.compiler.is_compiling() or not _is_plain(args[0]):
                operator(*args)
                return
            try:
                function(*args)
            except Exception as error:
                if is_out_of_memory(error) or is_context_lost(error):
                    raise
                raise KernelFault(op, error) from error

        return call

    return register


def _is_plain(first: torch.Tensor | list[torch.Tensor]) -> bool:
    """Return whether a launcher's first argument is a real tensor, and not the stand-in of a tracer."""
    tensor = first[0] if isinstance(first, (list, tuple)) else first
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def launch(kernel, programs: int, *args, **constants) -> None:
    """Run `programs` instances of a kernel on the device of its first argument, a tensor."""
    if _recorded is not None:
        _recorded.append(Launch(kernel, args, constants))
    elif programs:
        with torch.cuda.device_of(args[0]):
            kernel[(programs,)](*args, **constants, **OPTIONS)


@functools.cache
def failure(device: torch.device) -> str | None:
    """Return why kernels cannot run on a device, None if a kernel just did.

    Triton is installed on many machines where it cannot work: it needs a C compiler for its launchers, and a driver
    that can load its code.
    """
    out = torch.zeros(1, device=device)
    try:
        launch(_probe, 1, out)
        if out.item() == 1:
            return None
        reason = "it wrote nothing"
    except Exception as error:  # of any kind: PyTorch serves then
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"a Triton kernel failed to run here, {reason}"


def pick(configs: dict[int, Config], x: torch.Tensor) -> Config:
    """Return the configuration for the device and dtype of `x`.

    `configs` is keyed by compute capability (89 is 8.9). The newest key that is not above the device's is taken; below
    all keys it is the oldest. Tiles are made for 16-bit numbers: float32 takes the oldest chip's, which are the
    smallest, to fit into a program's shared memory.
    """
    if _recorded_capability is not None:
        capability = _recorded_capability
    elif x.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(x.device)
        capability = 10 * major + minor
    else:
        return configs[_INTERPRETED_CAPABILITY]
    oldest = min(configs)
    if x.dtype is torch.float32:
        return configs[oldest]
    return configs[max(known for known in configs if known <= max(capability, oldest))]


_recorded: list[Launch] | None = None
_recorded_capability: int | None = None


@contextlib.contextmanager
def recording(capability: int) -> Iterator[list[Launch]]:
    """Collect launches inside a `with` block, with the configurations of a compute capability. Nothing runs."""
    global _recorded, _recorded_capability
    _recorded, _recorded_capability = [], capability
    try:
        yield _recorded
    finally:
        _recorded = _recorded_capability = None
