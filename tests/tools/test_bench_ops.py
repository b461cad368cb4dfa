"""Test the benchmark of operations, by a smoke run without a GPU."""

import os
import subprocess
import sys

from kernels import needs_triton
from places import REPOSITORY


@needs_triton
def test_the_benchmark_refuses_without_a_gpu_and_its_smoke_run_takes_every_path(tmp_path):
    def bench(*arguments):
        return subprocess.run(
            [sys.executable, "tools/bench/ops.py", *arguments],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"},
        )

    refused = bench()
    assert refused.returncode == 2
    assert "needs a GPU" in refused.stderr
    smoke = bench("--smoke", "--out", str(tmp_path / "smoke.csv"))
    assert smoke.returncode == 0, smoke.stderr
    lines = (tmp_path / "smoke.csv").read_text().splitlines()
    operations = {line.split(",")[0] for line in lines[1:]}
    assert operations == {
        "rms_norm",
        "add_rms_norm",
        "swiglu",
        "conv_silu",
        "attention",
        "causal_attention",
        "cached_attention",
        "linear_swiglu",
        "linear_rms_norm out",
        "linear_rms_norm down",
        "stablemax_cross_entropy",
        "block",
        "training step",
    }
    assert all("a smoke run" in line for line in lines[1:])
    assert bench("--smoke", "--against", str(tmp_path)).returncode == 2
