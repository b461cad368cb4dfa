"""Test `python -m hrm_offline`."""

import subprocess
import sys

from places import REPOSITORY


def test_the_package_is_a_command():
    def run(*arguments):
        command = [sys.executable, "-m", "hrm_offline", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)

    described = run("--help")
    assert described.returncode == 0
    assert all(command in described.stdout for command in ("solve", "pretrain", "score", "show"))
    refused = run("score", "nowhere.json", "nowhere.json")
    assert refused.returncode == 2
    assert "nowhere.json" in refused.stderr
