"""How the package's Triton kernels are defined and launched.

Triton is optional: without it `jit` leaves a kernel as it is, and `dispatch` never asks for one.
Functions that launch kernels are registered with `launcher` as PyTorch operators, which
`torch.compile` calls as they are. Eager code calls the function itself,
since a call through PyTorch's dispatcher costs more than the launch. A launch that fails raises
`KernelFault`. Under CUDA graph capture they need, as usual, a call of the same
shape before it. Tile sizes come from tables by compute capability and are never
searched for at run time: a notebook has no minutes to spare, and a search may end differently
each time. `recording` collects launches, which `tools/bench/kernel_report.py` compiles without a GPU.
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
except ImportError:
    triton = None

Config = dict[str, int]
OPTIONS = dict(enable_fp_fusion=True)  # of every launch; Triton's default changes with its version

_INTERPRETED_CAPABILITY = 80  # whose tiles the interpreter runs


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments; `constants` are compile-time ones, `num_warps` and `num_stages`."""

    kernel: object
    args: tuple
    constants: Config


def jit(function: Callable):
    """`triton.jit` where there is Triton."""
    return function if triton is None else triton.jit(function)


@jit
def _probe(out_ptr):
    tl.store(out_ptr, 1.0)


# Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when the package was imported).
interpreted = triton is not None and not isinstance(_probe, triton.JITFunction)
_INTERPRETED = tl.constexpr(interpreted) if triton else None


@jit
def dot(a, b, total=None):
    """total + a b, accumulated in float32; float32 factors keep all their digits."""
    if _INTERPRETED:  # it would multiply the bits of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    if total is None:  # which Triton before 3.4 does not take
        total = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


def tracked(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd follows an operation on these tensors. If not, nothing need be saved for it."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def describe(**tensors: torch.Tensor | None) -> str:
    """Names, dtypes and shapes, for an error message."""
    return ", ".join(
        f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items() if t is not None
    )


def launcher(schema: str) -> Callable[[Callable], Callable]:
    """Register a function that launches kernels as the operator `hrm_offline::<its name>`.

    `schema` is PyTorch's, such as "(Tensor x, Tensor(a!) y) -> ()"; launchers write into tensors
    they are given and return nothing, so that a caller decides what is allocated.
    """
    written = re.findall(r"\(\w!\)\??(?:\[\])? (\w+)", schema)

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
    """Why no kernel runs on a device, None if one just did. Triton is on many machines where it
    cannot work: it needs a C compiler for its launchers and a driver that knows its code."""
    out = torch.zeros(1, device=device)
    try:
        launch(_probe, 1, out)
        if out.item() == 1:
            return None
        reason = "it wrote nothing"
    except Exception as error:  # of whatever kind: PyTorch serves then
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"a Triton kernel failed to run here, {reason}"


def pick(configs: dict[int, Config], x: torch.Tensor) -> Config:
    """The configuration of the newest compute capability (89 is 8.9) not above that of x's device.
    Tiles are made for 16 bits; float32 takes the smallest, or it would not fit a program's shared memory."""
    if _recorded_capability is not None:
        capability = _recorded_capability
    elif x.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(x.device)
        capability = 10 * major + minor
    else:
        return configs[_INTERPRETED_CAPABILITY]
    if x.dtype is torch.float32:
        capability = min(configs)
    return configs[max(known for known in configs if known <= max(capability, min(configs)))]


_recorded: list[Launch] | None = None
_recorded_capability: int | None = None


@contextlib.contextmanager
def recording(capability: int) -> Iterator[list[Launch]]:
    """Within, launches are collected with the configuration of that capability, and nothing runs."""
    global _recorded, _recorded_capability
    _recorded, _recorded_capability = [], capability
    try:
        yield _recorded
    finally:
        _recorded = _recorded_capability = None
