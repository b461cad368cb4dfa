"""Build the wheel of hrm_offline, with the same bytes for the same commit on every machine. Needs no network.

    python tools/build_wheel.py [--out DIR]

setuptools builds the wheel, and this tool packs the files again with everything fixed that could differ between two
machines: the order of the files, their modes and their times. The files are not compressed, because compressed bytes
depend on the version of zlib. Only the version of setuptools still matters, and tools/requirements.txt pins it.
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
from tools.support.command_line import absolute_path, parser_of, run_tool

WHEELS = environment.REPOSITORY / "wheels"
_SOURCES = ("hrm_offline", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_MIN_ZIP_TIME = 315532800  # 1980-01-01, in seconds since 1970: a zip file can hold no earlier time
_FILE_MODE = 0o100644  # a regular file that everybody may read


def build_wheel(out: Path = WHEELS) -> Path:
    """Build the wheel of the working tree into `out`, in place of older ones, and return its path.

    Raises `InputError` if setuptools cannot build the wheel.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # The build takes a copy, so that its own folders neither stay in the repository nor get into the wheel.
        source, built = Path(scratch) / "source", Path(scratch) / "built"
        _copy_sources(source)
        _build_with_setuptools(source, built)
        wheel = next(built.glob("hrm_offline-*.whl"))
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("hrm_offline-*.whl"):
            old.unlink()
        return pack_again(wheel, out / wheel.name, source_date_epoch())


def _copy_sources(target: Path) -> None:
    target.mkdir()
    for name in _SOURCES:
        path = environment.REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, target / name)


def _build_with_setuptools(source: Path, built: Path) -> None:
    """Build the wheel of the folder `source` into the folder `built`.

    setuptools is asked itself. pip would ask it three times, in a process each.
    """
    built.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise InputError(f"{environment.REPOSITORY}: setuptools could not build the wheel, see above")


def pack_again(wheel: Path, target: Path, epoch: int) -> Path:
    """Write the files of a wheel to `target`: sorted, uncompressed, and all with one mode and one time.

    `epoch` is that time, in seconds since 1970. Returns `target`.
    """
    when = time.gmtime(max(epoch, _MIN_ZIP_TIME))[:6]
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as fixed:
        for name in sorted(name for name in given.namelist() if not name.endswith("/")):
            entry = zipfile.ZipInfo(name, when)
            entry.create_system = 3  # Unix, on every system, because this number says how to read the mode
            entry.external_attr = _FILE_MODE << 16
            fixed.writestr(entry, given.read(name))
    return target


def source_date_epoch() -> int:
    """Return the time of the wheel's files, in seconds since 1970.

    The time is SOURCE_DATE_EPOCH if that variable is set, else the last commit's, else (without git) 1980.
    Raises `InputError` for a SOURCE_DATE_EPOCH that is not a number.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        if not given.isdecimal():
            raise InputError(f"SOURCE_DATE_EPOCH is '{given}', expected seconds since 1970")
        return int(given)
    if shutil.which("git") is None:
        return _MIN_ZIP_TIME
    command = ["git", "log", "-1", "--format=%ct"]
    shown = subprocess.run(command, cwd=environment.REPOSITORY, capture_output=True, text=True)
    if shown.returncode or not shown.stdout.strip():
        return _MIN_ZIP_TIME
    return int(shown.stdout)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--out", type=absolute_path, default=WHEELS, metavar="DIR", help="folder for the wheel (default: wheels/)"
    )
    options = parser.parse_args()
    environment.ensure(only=("setuptools", "wheel"))
    print(build_wheel(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
