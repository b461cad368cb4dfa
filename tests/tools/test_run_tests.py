"""Test the test command."""

import subprocess
import sys

from places import REPOSITORY


def test_a_test_that_fails_fails_the_command(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    command = [sys.executable, "tools/run_tests.py", "-n", "0", str(tmp_path / "test_wrong.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 1
    assert "1 failed" in result.stdout
