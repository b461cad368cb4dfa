"""Build our wheel into wheels/: `python tools/build_wheel.py`. Needs setuptools, no network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

WHEELS = environment.REPOSITORY / "wheels"
_SOURCES = ("hrm_offline", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(out: Path = WHEELS) -> Path:
    """Build the wheel of the working tree, replacing older ones in `out`; returns its path."""
    with tempfile.TemporaryDirectory() as scratch:
        # From a copy, so that no build folder is left in the repository or leaks into the wheel.
        source = Path(scratch) / "source"
        source.mkdir()
        for name in _SOURCES:
            path = environment.REPOSITORY / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source / name)
        built = Path(scratch) / "built"
        subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index",
                        "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source)], check=True)
        wheel = next(built.glob("hrm_offline-*.whl"))
        for old in out.glob("hrm_offline-*.whl"):
            old.unlink()
        return Path(shutil.copy(wheel, out))


if __name__ == "__main__":
    environment.ensure()
    print(build_wheel())
