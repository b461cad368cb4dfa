"""A folder of wheels to upload as a Kaggle dataset: what the notebook installs, offline and checked by hash.

    python tools/vendor_wheels.py --out DIR [--user NAME]
    python tools/vendor_wheels.py --verify DIR

Downloads what wheels/requirements.lock lists, for Kaggle's platform from any machine, and builds our own wheel. Beside
them go `requirements.txt`, which pip takes with --require-hashes, `SHA256SUMS`, and Kaggle's `dataset-metadata.json`.
Everything lies in one folder without subfolders, since Kaggle's client leaves those out.
"""

from __future__ import annotations

import script_setup

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, write_json
from tools.build_wheel import WHEELS, build_wheel
from tools.support import environment
from tools.support.kaggle_metadata import DATASET_FILE, check_dataset, check_slug

LOCK = WHEELS / "requirements.lock"
REQUIREMENTS_FILE, SUMS_FILE = "requirements.txt", "SHA256SUMS"
DATASET_SLUG, PLACEHOLDER_USER = "hrm-offline-bundle", "your-username"

# The Kaggle image: CPython of these versions, on a Linux whose C library is newer than either of these.
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
_PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
# Elsewhere, as in a rehearsal on another system, the package that is installed already serves.
_LINUX_ONLY = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class DownloadError(InputError):
    """A wheel of the lock could not be had, or was not the one that the lock means."""


def main() -> int:
    options = _parse_arguments()
    environment.ensure(only=("setuptools", "wheel"))
    try:
        if options.verify is not None:
            return _report(options.verify, verify(options.verify))
        check_slug(options.user, "user name")
        vendor(options.out, options.user)
        print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")
        return 0
    except InputError as error:
        print(f"vendor_wheels: error: {error}", file=sys.stderr)
        return 2


def vendor(out: Path, user: str, extra: Iterable[Path] = (), lock: Path | None = LOCK) -> None:
    """Write the whole dataset into `out`: the lock's wheels (none if it is None), ours, copies of the `extra` files.
    A dataset that was written there before is replaced. Raises `InputError`, as `DownloadError` where a wheel cannot
    be downloaded; `out` is as it was then."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        if lock is not None:
            download(lock, fresh)
        build_wheel(fresh)
        for path in extra:
            shutil.copyfile(path, fresh / path.name)
        (fresh / REQUIREMENTS_FILE).write_text(requirements(fresh), encoding="utf-8")
        names = sorted(path.name for path in fresh.iterdir())
        (fresh / SUMS_FILE).write_text("".join(f"{sha256(fresh / name)}  {name}\n" for name in names), encoding="utf-8")
        clear_earlier(out)
        for name in (*names, SUMS_FILE):
            shutil.copyfile(fresh / name, out / name)
    metadata = dataset_metadata(user, names)
    check_dataset(metadata, out / DATASET_FILE)
    write_json(out / DATASET_FILE, metadata, indent=2)


def download(lock: Path, out: Path) -> None:
    """Download the wheels of a lock for every Python version of the image. Raises `DownloadError`."""
    for version in PYTHON_VERSIONS:
        platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--implementation",
            "cp",
            "--python-version",
            version,
            *platforms,
            "--retries",
            "1",
            "--timeout",
            "20",
            "--requirement",
            str(lock),
            "--dest",
            str(out),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            said = " ".join(result.stderr.partition("ERROR: ")[2].split()) or f"exit code {result.returncode}"
            raise DownloadError(
                f"{lock}: its wheels for Python {version} could not be downloaded (is the index "
                f"reachable?); pip says: {said}"
            )


def requirements(folder: Path) -> str:
    """A pip requirements file that admits exactly the wheels of a folder, by version and hash."""
    wheels: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        wheels.setdefault(f"{name}=={version}", []).append(path)
    lines = []
    for requirement, paths in wheels.items():
        marker = "" if any(path.name.endswith("-any.whl") for path in paths) else f" {_LINUX_ONLY}"
        lines.append(" \\\n    ".join([requirement + marker, *(f"--hash=sha256:{sha256(path)}" for path in paths)]))
    return "\n".join(lines) + "\n"


def dataset_metadata(user: str, names: Iterable[str]) -> dict:
    """Kaggle's description of the dataset; its list of licences has none for all that lies in it."""
    return {
        "title": "hrm offline bundle",
        "id": f"{user}/{DATASET_SLUG}",
        "licenses": [{"name": "other"}],
        "description": "hrm_offline is under MIT-0, the other wheels are under the licences inside them. "
        f"Files: {', '.join(names)}",
    }


def clear_earlier(folder: Path) -> None:
    """Make `folder`, or empty it of a dataset written before. Raises `InputError` if it holds anything else."""
    make_folder(folder)
    listed, _ = _read_sums(folder / SUMS_FILE)
    ours = {*listed, SUMS_FILE, DATASET_FILE}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise InputError(f"{folder}: holds {foreign[0]}, which this tool did not write; give a new or an empty folder")
    for path in folder.iterdir():
        path.unlink()


def verify(folder: Path) -> list[str]:
    """What is wrong with a folder that `vendor` wrote or Kaggle mounted: a line for each file that differs from
    SHA256SUMS, is missing, or is not listed there. Kaggle's metadata is not uploaded, so it is neither.
    Raises `InputError` if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not (folder / SUMS_FILE).is_file():
        return [f"missing: {SUMS_FILE}, without which nothing can be checked"]
    listed, findings = _read_sums(folder / SUMS_FILE)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    for name, expected in sorted(listed.items()):
        if name not in present:
            findings.append(f"missing: {name}")
        elif sha256(folder / name) != expected:
            findings.append(f"differs: {name}")
    findings += [f"not listed: {name}" for name in sorted(present - listed.keys() - {SUMS_FILE, DATASET_FILE})]
    return findings


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_sums(path: Path) -> tuple[dict[str, str], list[str]]:
    """Hashes by file name, and a finding for each line that is none; both empty where there is no such file."""
    listed, findings = {}, []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if match := _SUM_LINE.fullmatch(line):
            listed[match[2]] = match[1]
        else:
            findings.append(f"differs: {path.name} (line {number} is not a hash, two spaces and a name)")
    return listed, findings


def _report(folder: Path, findings: list[str]) -> int:
    for finding in findings:
        print(finding)
    print(f"{folder}: {f'{len(findings)} problems' if findings else 'as it was written'}")
    return 1 if findings else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, metavar="DIR", help="write the dataset here")
    action.add_argument("--verify", type=Path, metavar="DIR", help="check a folder against its SHA256SUMS")
    parser.add_argument(
        "--user",
        default=PLACEHOLDER_USER,
        metavar="NAME",
        help="your Kaggle user name, for the metadata (default: %(default)s, to be replaced)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
