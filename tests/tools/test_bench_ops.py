"""Test the benchmark of operations, by a smoke run without a GPU."""

import sys

import pytest
import torch
from kernels import needs_triton

from tools.bench import ops
from tools.support.command_line import run_tool


@pytest.fixture
def bench(monkeypatch):
    """Return a function that runs the benchmark as on a machine without a GPU, and returns the exit code."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ops.py", *arguments])
        return run_tool(ops.main)

    return run


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted only where there is no GPU")
def test_the_benchmark_refuses_without_a_gpu_and_its_smoke_run_takes_every_path(bench, tmp_path, capsys):
    assert bench() == 2
    assert "needs a GPU" in capsys.readouterr().err
    assert bench("--smoke", "--out", str(tmp_path / "smoke.csv")) == 0
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
    assert bench("--smoke", "--against", str(tmp_path)) == 2
