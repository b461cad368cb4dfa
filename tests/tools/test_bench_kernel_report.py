"""Test the report of what kernels compile to on every chip."""

import subprocess
import sys

from kernels import needs_triton
from places import REPOSITORY

from hrm_offline.ops import dispatch


def kernel_report(*arguments, before="pass"):
    """Run the tool in a process of its own, where kernels are compiled and not interpreted."""
    code = (
        f"import sys; sys.path += ['tools']; sys.argv = ['kernel_report.py', *{arguments!r}]; "
        f"from tools.bench import kernel_report; {before}; "
        "sys.exit(kernel_report.main())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)


@needs_triton
def test_every_kernel_that_would_be_chosen_compiles_without_a_spill():
    """Compile for a T4, an L4 and an H100. The tool compiles for six chips by default, which takes minutes."""
    report = kernel_report("--usual-tiles", "--targets", "75,89,90")
    assert report.returncode == 0, report.stdout + report.stderr
    chips = report.stdout.split("\nsm_")[1:]
    assert [chip.split()[0] for chip in chips] == ["75", "89", "90"]
    assert "MMA" not in chips[0]
    assert "attention: PyTorch serves it in float16 (compute capability 7.5 is below 8.0)" in chips[0]
    for chip in chips[1:]:
        unit = "HGMMA" if chip.startswith("90") else "HMMA"
        prefixes = ("attention_", "causal_attention_", "linear_")
        matrix = [line for line in chip.splitlines() if line.startswith(prefixes)]
        assert len(matrix) >= 18
        assert all(unit in line for line in matrix if not line.startswith("attention_grad_kv"))


@needs_triton
def test_tiles_that_a_self_test_may_choose_are_clean_too():
    report = kernel_report("--targets", "89", "--ops", "attention")
    assert report.returncode == 0, report.stdout + report.stderr
    assert sum("32x64" in line for line in report.stdout.splitlines()) >= 6  # both backward kernels, by head dimension


@needs_triton
def test_every_operation_is_reported():
    known = kernel_report("--ops", "none")
    assert known.returncode == 2
    assert known.stderr.strip().endswith("operations " + ", ".join(dispatch.RULES))


@needs_triton
def test_a_kernel_that_spills_fails_the_report():
    spoil = (
        "from hrm_offline.ops import linear_rms_norm; "
        "linear_rms_norm._CONFIGS[80] = dict(BLOCK_M=32, BLOCK_K=64, num_warps=4, num_stages=2)"
    )
    report = kernel_report("--targets", "89", "--ops", "linear_rms_norm", before=spoil)
    assert report.returncode == 1, report.stderr
    assert "SPILLS" in report.stdout
    assert kernel_report("--targets", "61").returncode == 2
