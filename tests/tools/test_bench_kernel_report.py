"""Test the report of what kernels compile to on every chip."""

import subprocess
import sys

from kernels import needs_triton
from places import REPOSITORY

from hrm_offline.ops import dispatch
from hrm_offline.presets import PRESETS


def kernel_report(*arguments, before="pass"):
    """Run the tool in a process of its own, where kernels are compiled and not interpreted."""
    code = (
        f"import sys; sys.path += ['tools']; sys.argv = ['kernel_report.py', *{arguments!r}]; "
        f"from tools.bench import kernel_report; {before}; "
        "sys.exit(kernel_report.main())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)


# Networks that call every operation: the one that a run on a GPU gets (heads of 32 columns), and large ones (64).
SOME = ("--presets", "decoder-4m,hrm-27m,urm-14m,decoder-75m")


@needs_triton
def test_every_kernel_that_would_be_chosen_compiles_without_a_spill():
    """Compile for a T4 and an L4, the tiles that a self-test may choose included.

    The tool compiles for all presets and six chips by default, which takes minutes.
    """
    report = kernel_report("--targets", "75,89", *SOME)
    assert report.returncode == 0, report.stdout + report.stderr
    t4, l4 = report.stdout.split("\nsm_")[1:]
    assert (t4[:2], l4[:2]) == ("75", "89")
    assert "MMA" not in t4
    assert "attention: PyTorch serves it in float16 (compute capability 7.5 is below 8.0)" in t4
    assert_products_on_tensor_cores(l4, "HMMA")
    assert sum("x32x64" in line for line in l4.splitlines()) >= 2  # both backward kernels, with tiles for the self-test


MATRIX = [op for op, rule in dispatch.RULES.items() if rule.capability == 80]  # those with matrix products


@needs_triton
def test_matrix_products_take_the_tensor_cores_of_an_h100():
    """Compile the kernels that an H100 computes in another way than an L4."""
    report = kernel_report("--usual-tiles", "--targets", "90", "--ops", ",".join(MATRIX), *SOME)
    assert report.returncode == 0, report.stdout + report.stderr
    assert_products_on_tensor_cores(report.stdout, "HGMMA")


def assert_products_on_tensor_cores(printed, unit):
    prefixes = ("attention_", "causal_attention_", "linear_")
    matrix = [line for line in printed.splitlines() if line.startswith(prefixes)]
    assert len(matrix) >= 18
    assert all(unit in line for line in matrix if not line.startswith("attention_grad_kv"))


@needs_triton
def test_every_operation_is_reported():
    refused = kernel_report("--ops", "none", "--targets", "61", "--presets", "large")
    assert refused.returncode == 2
    assert "unknown 61, none, large; targets are 75, " in refused.stderr
    assert f"ops are {', '.join(dispatch.RULES)}; presets are {', '.join(PRESETS)}\n" in refused.stderr


@needs_triton
def test_a_kernel_that_spills_fails_the_report():
    spoil = (
        "from hrm_offline.ops import linear_rms_norm; "
        "linear_rms_norm._CONFIGS[80] = dict(BLOCK_M=32, BLOCK_K=64, num_warps=4, num_stages=2)"
    )
    report = kernel_report("--targets", "89", "--ops", "linear_rms_norm", before=spoil)
    assert report.returncode == 1, report.stderr
    assert "SPILLS" in report.stdout
