"""Build our wheel, the same bytes from the same commit: `python tools/build_wheel.py`. Needs setuptools, no network.

setuptools writes the wheel; it is then packed again with what could differ between two machines held fixed: the order
of the files, their modes and their time, and no compression, whose bytes depend on the version of zlib. What remains
is setuptools' own version, which tools/requirements.txt pins.
"""

from __future__ import annotations

import script_setup

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from hrm_offline.common.errors import InputError
from tools.support import environment

WHEELS = environment.REPOSITORY / "wheels"
_SOURCES = ("hrm_offline", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_ZIP_BEGINS = 315532800  # 1980-01-01, the earliest time a zip file can hold
_FILE_MODE = 0o100644  # a regular file, which all may read


def build_wheel(out: Path = WHEELS) -> Path:
    """Build the wheel of the working tree, replacing older ones in `out`; returns its path.
    Raises `InputError` if setuptools cannot build it."""
    with tempfile.TemporaryDirectory() as scratch:
        # From a copy, so that no build folder is left in the repository or leaks into the wheel.
        source, built = Path(scratch) / "source", Path(scratch) / "built"
        source.mkdir()
        for name in _SOURCES:
            path = environment.REPOSITORY / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source / name)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "wheel",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(built),
            str(source),
        ]
        if code := subprocess.run(pip).returncode:
            raise InputError(f"{environment.REPOSITORY}: pip could not build the wheel (exit code {code}), see above")
        wheel = next(built.glob("hrm_offline-*.whl"))
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("hrm_offline-*.whl"):
            old.unlink()
        return pack_again(wheel, out / wheel.name, source_date_epoch())


def pack_again(wheel: Path, target: Path, epoch: int) -> Path:
    """Write the files of a wheel to `target`, sorted, uncompressed, with one mode and one time (seconds since 1970)."""
    when = time.gmtime(max(epoch, _ZIP_BEGINS))[:6]
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as fixed:
        for name in sorted(name for name in given.namelist() if not name.endswith("/")):
            entry = zipfile.ZipInfo(name, when)
            entry.create_system = 3  # Unix, whatever this is: it says how to read the mode
            entry.external_attr = _FILE_MODE << 16
            fixed.writestr(entry, given.read(name))
    return target


def source_date_epoch() -> int:
    """The time that the wheel's files carry: SOURCE_DATE_EPOCH if it is set, else the last commit's, else 1980.
    Raises `InputError` for a SOURCE_DATE_EPOCH that is no number."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        if not given.isdecimal():
            raise InputError(f"SOURCE_DATE_EPOCH is '{given}', expected seconds since 1970")
        return int(given)
    shown = (
        subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=environment.REPOSITORY, capture_output=True, text=True)
        if shutil.which("git")
        else None
    )
    if shown is None or shown.returncode or not shown.stdout.strip():
        return _ZIP_BEGINS
    return int(shown.stdout)


if __name__ == "__main__":
    environment.ensure(only=("setuptools", "wheel"))
    print(build_wheel())
