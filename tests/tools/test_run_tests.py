"""Test the test command."""

import subprocess
import sys

from places import REPOSITORY


def test_the_style_is_checked_before_the_tests(tmp_path):
    (tmp_path / "test_right.py").write_text("def test_right():\n    pass\n")
    command = [sys.executable, "tools/run_tests.py", "-n", "0", str(tmp_path / "test_right.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    checked, formatted, passed = map(result.stdout.index, ("All checks passed", "already formatted", "1 passed"))
    assert checked < formatted < passed


def test_a_test_that_fails_fails_the_command(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    command = [sys.executable, "tools/run_tests.py", "-n", "0", str(tmp_path / "test_wrong.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 1
    assert "1 failed" in result.stdout
