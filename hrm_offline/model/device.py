"""Decide once on which device and in which dtype a run computes, and say why."""

from __future__ import annotations

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


def choose_runtime(device: str | None = None, dtype: str | None = None, index: int = 0) -> Runtime:
    """Return the best device there is with its dtype, or the device and dtype that were asked for.

    device: "cpu", "cuda", "cuda:N", or None for a GPU where there is one. index: the GPU that a plain "cuda" means.
    dtype: "float32", "bfloat16", "float16", or None for what the device is fastest in.
    bfloat16 is chosen from compute capability 8 on. `torch.cuda.is_bf16_supported()` is not asked: it is true on a
    T4, which only emulates bfloat16. Raises `InputError` for an unknown name or a device that is not there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype '{dtype}', expected one of {', '.join(_DTYPES)}")
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(f"device '{device}' was asked for, but torch finds no GPU")
        device = f"cuda:{index}" if device == "cuda" else device
        capability = torch.cuda.get_device_capability(device)
        chosen, reason = dtype_for_capability(capability)
        reason = f"{torch.cuda.get_device_name(device)}, {reason}"
    elif device == "cpu":
        chosen, reason = torch.float32, "a CPU gains nothing from less"
    else:
        raise InputError(f"unknown device '{device}', expected cpu, cuda or cuda:N")
    if dtype is not None:
        chosen, reason = _DTYPES[dtype], "asked for"
    return Runtime(torch.device(device), chosen, reason)


def dtype_for_capability(capability: tuple[int, int]) -> tuple[torch.dtype, str]:
    """Return bfloat16 where the hardware has it, else float16, and the reason. (8, 9) is compute capability 8.9."""
    major, minor = capability
    if major >= 8:
        return torch.bfloat16, f"compute capability {major}.{minor} has bfloat16"
    return torch.float16, f"compute capability {major}.{minor} only emulates bfloat16; the loss is scaled"
