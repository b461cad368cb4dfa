"""Test that faults of a kernel, of the device and of memory are told apart by their real messages."""

import pytest
import torch

from hrm_offline.ops.faults import KernelFault, first_line, is_context_lost, is_out_of_memory

MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]
LOST = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: misaligned address"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: device-side assert triggered"),
]
KERNEL = [
    RuntimeError("out of resource: shared memory, Required: 106496, Hardware limit: 101376"),
    RuntimeError("PTXAS error: Internal Triton PTX codegen error"),
    ValueError("cannot convert"),
]


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [*((e, True, False) for e in MEMORY), *((e, False, True) for e in LOST), *((e, False, False) for e in KERNEL)],
    ids=lambda value: str(value)[:40],
)
def test_errors_are_told_apart(error, memory, lost):
    assert is_out_of_memory(error) == memory
    assert is_context_lost(error) == lost


def test_a_fault_names_the_operation_and_one_line():
    fault = KernelFault("swiglu", RuntimeError("first\nsecond"))
    assert (fault.op, str(fault)) == ("swiglu", "swiglu: RuntimeError: first")
    assert first_line(ValueError()) == "ValueError"
