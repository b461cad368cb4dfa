"""Decide once on which device and in which dtype a run computes, and say why."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass

import torch

from hrm_offline.common.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """The device, the dtype of activations, and the reason for them."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def memory(self) -> int:
        """Return the bytes of memory on the device, 0 for a CPU."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else 0

    def __str__(self) -> str:
        return f"{self.device} in {str(self.dtype).removeprefix('torch.')}: {self.reason}"


def free_cache(device: torch.device) -> None:
    """Give the memory that no tensor uses back to a GPU.

    After a recording that failed, some versions of PyTorch refuse to. Then that memory stays with this process.
    """
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def interpret_kernels_on_cpu(device: str | None) -> None:
    """Have Triton interpret kernels where a CPU computes. Triton asks when a kernel is defined: `ops` comes later."""
    if device == "cpu" or not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def choose_runtime(device: str | None = None, dtype: str | None = None, index: int = 0) -> Runtime:
    """Return the best device there is with its dtype, or the device and dtype that were asked for.

    device: "cpu", "cuda", "cuda:N", or None for a GPU where there is one. index: the GPU that a plain "cuda" means.
    dtype: "float32", "bfloat16", "float16", or None for what the device is fastest in.
    bfloat16 is chosen from compute capability 8 on. `torch.cuda.is_bf16_supported()` is not asked: it is true on a
    T4, which only emulates bfloat16. Raises `InputError` for an unknown name or a device that is not there.
    """
    unsuited = ""
    if device is None:
        device, unsuited = _best_device()
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype '{dtype}', expected one of {', '.join(_DTYPES)}")
    if re.fullmatch(r"cuda(:\d+)?", device):
        device = _existing_gpu(device, index)
        capability = torch.cuda.get_device_capability(device)
        chosen, reason = dtype_for_capability(capability)
        reason = f"{torch.cuda.get_device_name(device)}, {reason}"
    elif device == "cpu":
        chosen, reason = torch.float32, f"{unsuited}a CPU gains nothing from less"
    else:
        raise InputError(f"unknown device '{device}', expected cpu, cuda or cuda:N")
    if dtype is not None:
        chosen, reason = _DTYPES[dtype], "asked for"
    return Runtime(torch.device(device), chosen, reason)


def _best_device() -> tuple[str, str]:
    """Return "cuda" or "cpu", and why a GPU that is there is not used."""
    if not torch.cuda.is_available():
        return "cpu", ""
    capability = torch.cuda.get_device_capability()
    if is_built_for(capability, torch.cuda.get_arch_list()):
        return "cuda", ""
    return "cpu", f"{_not_built_for(torch.cuda.get_device_name(), capability)}, so a CPU computes; "


def _existing_gpu(device: str, index: int) -> str:
    """Return the GPU asked for with its number. Raises `InputError` if there is no such GPU or torch cannot use it."""
    if not torch.cuda.is_available():
        raise InputError(f"device '{device}' was asked for, but torch finds no GPU")
    number = int(device.partition(":")[2] or index)
    count = torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"device 'cuda:{number}' was asked for, but there are {count} GPUs, expected cuda:0 to cuda:{count - 1}"
        )
    capability = torch.cuda.get_device_capability(number)
    if not is_built_for(capability, torch.cuda.get_arch_list()):
        raise InputError(f"device '{device}': {_not_built_for(torch.cuda.get_device_name(number), capability)}")
    return f"cuda:{number}"


def is_built_for(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Return whether a torch built for these architectures ("sm_80", "compute_90") runs on a compute capability.

    Machine code runs on its own major version from its minor version on. "compute" code is compiled by the driver and
    runs on every later chip (CUDA programming guide, "binary compatibility"). An empty list says nothing.
    """
    major, minor = capability
    for name in architectures:
        kind, _, version = name.partition("_")
        digits = re.match(r"\d+", version)
        if digits is None:
            continue
        built_major, built_minor = divmod(int(digits[0]), 10)
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= capability:
            return True
    return not architectures


def _not_built_for(name: str, capability: tuple[int, int]) -> str:
    return f"this torch was not built for {name} (compute capability {capability[0]}.{capability[1]})"


def dtype_for_capability(capability: tuple[int, int]) -> tuple[torch.dtype, str]:
    """Return bfloat16 where the hardware has it, else float16, and the reason. (8, 9) is compute capability 8.9."""
    major, minor = capability
    if major >= 8:
        return torch.bfloat16, f"compute capability {major}.{minor} has bfloat16"
    return torch.float16, f"compute capability {major}.{minor} only emulates bfloat16; the loss is scaled"
