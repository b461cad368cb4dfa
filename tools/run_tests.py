"""The test command: `python tools/run_tests.py [pytest arguments]`. Lints, then runs every test, on every core."""

from __future__ import annotations

import script_setup

import subprocess
import sys

from tools.support import environment


def main() -> int:
    environment.ensure()
    lint = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=environment.REPOSITORY)
    tests = subprocess.run([sys.executable, "-m", "pytest", "-n", "auto", *sys.argv[1:]], cwd=environment.REPOSITORY)
    return lint.returncode or tests.returncode


if __name__ == "__main__":
    sys.exit(main())
