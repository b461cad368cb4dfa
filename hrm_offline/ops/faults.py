"""Tell faults of a kernel, of the device and of its memory apart.

A kernel that cannot be compiled or launched leaves the device as it was: the operation can be computed by plain PyTorch
instead. After an error inside a running kernel every later call on the device fails: only a new process can go on.
"""

from __future__ import annotations

import torch

# Parts of the messages of PyTorch's allocator, the CUDA driver, cuBLAS and Triton.
_OUT_OF_MEMORY = ("out of memory", "alloc_failed", "memory allocation failure")
# Errors that the CUDA programming guide calls sticky: the context is lost.
_CONTEXT_LOST = (
    "illegal memory access",
    "misaligned address",
    "illegal instruction",
    "unspecified launch failure",
    "device-side assert",
    "launch timed out",
    "ecc error",
    "hardware stack error",
    "context is destroyed",
)


class KernelFault(Exception):
    """The kernel of operation `op` could not be compiled or launched; the device is as it was."""

    def __init__(self, op: str, error: BaseException):
        super().__init__(f"{op}: {first_line(error)}")
        self.op = op


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on a device or on the host, whoever says so."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def is_context_lost(error: BaseException) -> bool:
    """Return whether the device can do nothing more in this process."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _CONTEXT_LOST)
