"""Check the style of the code, then run all tests on every core. This is the test command of the project.

    python tools/run_tests.py                      # everything
    python tools/run_tests.py tests/ops -k norm    # all arguments go to pytest

Runs `ruff check`, `ruff format --check` and pytest, all three even if one fails. The exit code is not 0 if any failed.
"""

from __future__ import annotations

import script_setup

import subprocess
import sys

from tools.support import environment
from tools.support.command_line import docstring_of

_CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["pytest", "-n", "auto", "--dist", "worksteal"])


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(docstring_of(__file__))
        return 0
    environment.ensure()
    codes = []
    for module, *words in _CHECKS:
        command = [sys.executable, "-m", module, *words, *(arguments if module == "pytest" else ())]
        codes.append(subprocess.run(command, cwd=environment.REPOSITORY).returncode)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
