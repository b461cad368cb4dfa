"""Stage `machine`: the chip, the versions, and the chip's own peaks, which the other stages are measured by."""

from __future__ import annotations

import platform

import numpy as np
import torch

from hrm_offline.ops import dispatch, launch
from tools.bench.contact.contact import Contact
from tools.bench.ops import measure_machine


def measure_peaks(contact: Contact) -> None:
    """Write what the machine is, then the rates of a large matrix product and of a large copy."""
    runtime = contact.runtime
    facts = _facts_of_gpu(runtime.device) if runtime.device.type == "cuda" else {"chip": "none: a CPU, a smoke run"}
    contact.add(
        "machine",
        **facts,
        computing=str(runtime),
        torch=str(torch.__version__),
        triton=launch.triton.__version__ if launch.triton else "none",
        numpy=np.__version__,
        python=platform.python_version(),
        operations=dispatch.summary(runtime.device, runtime.dtype),
    )
    size = contact.pick(8192, 64)
    measure_machine(runtime.device, runtime.dtype, size)  # the first call starts libraries and raises the clock
    peaks = measure_machine(runtime.device, runtime.dtype, size)
    dtype = str(runtime.dtype).removeprefix("torch.")
    contact.add("peaks", **{"dtype": dtype, "product TFLOP/s": peaks.gemm_tflops, "copy GB/s": peaks.copy_gbs})


def _facts_of_gpu(device: torch.device) -> dict:
    properties = torch.cuda.get_device_properties(device)
    return {
        "chip": properties.name,
        "count": torch.cuda.device_count(),
        "capability": f"{properties.major}.{properties.minor}",
        "memory GiB": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "CUDA": torch.version.cuda,
        "built for": " ".join(torch.cuda.get_arch_list()),
    }
