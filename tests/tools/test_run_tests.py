"""Test the test command."""

import subprocess
import sys

import pytest
from places import REPOSITORY

from tools import run_tests


def test_the_style_is_checked_before_the_tests(tmp_path):
    (tmp_path / "test_right.py").write_text("def test_right():\n    pass\n")
    command = [sys.executable, "tools/run_tests.py", "-n", "0", str(tmp_path / "test_right.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    checked, formatted, passed = map(result.stdout.index, ("All checks passed", "already formatted", "1 passed"))
    assert checked < formatted < passed


@pytest.mark.parametrize("codes", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["style", "format", "tests"])
def test_all_three_run_and_one_that_fails_fails_the_command(monkeypatch, codes):
    ran = []

    def run(command, **_):
        ran.append(command[2])
        return subprocess.CompletedProcess(command, codes[len(ran) - 1])

    monkeypatch.setattr(subprocess, "run", run)
    assert run_tests.main([]) == 1
    assert ran == ["ruff", "ruff", "pytest"]
