"""Test the report of the memory that a training step takes."""

import subprocess
import sys

from kernels import needs_triton
from places import REPOSITORY


@needs_triton
def test_the_memory_report_finds_the_fused_path_smaller():
    report = subprocess.run(
        [sys.executable, "tools/bench/memory_report.py", "--preset", "hrm-132k"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert report.returncode == 0, report.stderr
    fused, plain = (float(line.split(" + ")[1].split()[0]) for line in report.stdout.splitlines() if " + " in line)
    assert 0 < fused < 0.7 * plain
