"""Install the packages that the tools need, when a tool first runs. Imports the standard library only.

`ensure()` returns at once if every package of tools/requirements.txt is installed, in any version. Otherwise the
function makes a virtual environment, `.venv` in the repository, installs the pinned versions there, and starts the
running script again with the Python of that environment.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
REQUIREMENTS = REPOSITORY / "tools" / "requirements.txt"
ENVIRONMENT = REPOSITORY / ".venv"


def ensure(only: tuple[str, ...] = ()) -> None:
    """Make sure that the running Python has all packages of tools/requirements.txt, or those that `only` names.

    If a package is missing, this process is replaced by the same script in `.venv`. A script that was asked for help
    prints its docstring and ends instead, because help should not install anything.
    Raises `SystemExit` if the packages cannot be installed.
    """
    missing = [name for name in _missing_packages() if name in only or not only]
    if not missing:
        return
    if {"-h", "--help"} & set(sys.argv[1:]):
        _print_docstring_and_end(missing)
    python = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / "python"
    # The stamp is written last, so an environment with a current stamp was installed to its end.
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"missing packages: {', '.join(missing)}; installing them into {ENVIRONMENT}", flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(ENVIRONMENT)
        _pip(python, "install", "--quiet", "--requirement", str(REQUIREMENTS))
        stamp.write_text(wanted)
    elif Path(sys.prefix) == ENVIRONMENT:  # starting the script again would lead here again
        raise SystemExit(f"{ENVIRONMENT} lacks {', '.join(missing)}; remove that folder and start again")
    _start_again([str(python), *sys.argv], os.name == "nt")


def _start_again(command: list[str], beside: bool) -> None:
    """Replace this process by a command, or end with the exit code of the command `beside` this process.

    Windows' exec splits a path at its spaces, and its caller would not wait.
    """
    if beside:
        raise SystemExit(subprocess.run(command).returncode)
    os.execv(command[0], command)


def commit_of_checkout() -> str:
    """Return the commit that the tools run from, with "-dirty" if files differ from it, or "unknown" without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, text=True, capture_output=True
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def _missing_packages() -> list[str]:
    """Return the names in tools/requirements.txt that are not installed, without those of other systems."""
    missing = []
    for line in REQUIREMENTS.read_text().splitlines():
        requirement, _, marker = line.partition(";")
        name = requirement.partition("==")[0].strip()
        is_for_another_system = marker.strip() not in ("", f"sys_platform == '{sys.platform}'")
        if not name or name.startswith("#") or is_for_another_system:
            continue
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def _print_docstring_and_end(missing: list[str]) -> None:
    """Print the docstring of the running script without importing the script, and end with exit code 0."""
    print(ast.get_docstring(ast.parse(Path(sys.argv[0]).read_text(encoding="utf-8"))))
    print(
        f"\nThe flags are listed once these packages are installed: {', '.join(missing)}\n"
        f"python -m pip install -r {REQUIREMENTS}"
    )
    raise SystemExit(0)


def _pip(python: Path, *arguments: str) -> None:
    result = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments])
    if result.returncode:
        raise SystemExit(
            "the packages could not be installed: pip must reach its package index once. "
            f"Or install {REQUIREMENTS} yourself and start again"
        )
