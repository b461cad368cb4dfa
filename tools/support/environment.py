"""The Python environment of the tools, made on first use. Standard library only.

`ensure()` returns at once where every package of tools/requirements.txt is installed, in whatever
version. Otherwise it makes `.venv` in the repository with the pinned versions and starts the
running script again in it.
"""

from __future__ import annotations

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
    """Make sure the running interpreter has the packages, or those of them named; may replace this process."""
    missing = [name for name in _missing() if name in only or not only]
    if not missing:
        return
    python = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"missing here: {', '.join(missing)}; installing pinned packages into {ENVIRONMENT}", flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(ENVIRONMENT)
        _pip(python, "install", "--quiet", "--requirement", str(REQUIREMENTS))
        stamp.write_text(wanted)
    elif Path(sys.prefix) == ENVIRONMENT:
        raise SystemExit(f"{ENVIRONMENT} lacks {', '.join(missing)}; remove that folder and start again")
    os.execv(python, [str(python), *sys.argv])


def commit_of_checkout() -> str:
    """The commit that the tools run from, with "-dirty" where files were changed since; "unknown" without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, text=True, capture_output=True
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def _missing() -> list[str]:
    missing = []
    for line in REQUIREMENTS.read_text().splitlines():
        requirement, _, marker = line.partition(";")
        name = requirement.partition("==")[0].strip()
        elsewhere = marker.strip() not in ("", f"sys_platform == '{sys.platform}'")
        if not name or name.startswith("#") or elsewhere:
            continue
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def _pip(python: Path, *arguments: str) -> None:
    result = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments])
    if result.returncode:
        raise SystemExit(
            "the packages could not be installed; their index must be reachable once "
            f"(or install {REQUIREMENTS.name} yourself and start again)"
        )
