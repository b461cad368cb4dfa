"""Write the folder of wheels that becomes a Kaggle dataset, from which the notebook installs without a network.

    python tools/vendor_wheels.py --out DIR [--user NAME]
    python tools/vendor_wheels.py --verify DIR

Downloads the wheels that wheels/requirements.lock lists, for Kaggle's platform on any machine, and builds our own.
Adds a requirements.txt for pip's --require-hashes, a SHA256SUMS, and Kaggle's dataset-metadata.json. The folder has no
subfolders, because Kaggle's client would leave them out. --verify checks such a folder against its SHA256SUMS; the
exit code is 1 if a file differs.
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
from tools.support.command_line import absolute_path, parser_of, run_tool
from tools.support.kaggle_metadata import DATASET_FILE, check_dataset, check_slug

LOCK = WHEELS / "requirements.lock"
REQUIREMENTS_FILE, SUMS_FILE = "requirements.txt", "SHA256SUMS"
DATASET_SLUG, PLACEHOLDER_USER = "hrm-offline-bundle", "your-username"

# The Kaggle image has one of these versions of CPython, on a Linux that takes wheels of all these platforms.
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
_PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
# On another system, as in a rehearsal on a Mac, the package that is installed there already serves.
_LINUX_ONLY = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class DownloadError(InputError):
    """Says that a wheel of the lock could not be downloaded, or has another hash than the lock says."""


def main() -> int:
    options = _parse_arguments()
    environment.ensure(only=("setuptools", "wheel"))
    if options.verify is not None:
        return _report(options.verify, verify(options.verify))
    check_slug(options.user, "user name")
    vendor(options.out, options.user)
    print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")
    return 0


def vendor(out: Path, user: str, extra: Iterable[Path] = (), lock: Path | None = LOCK) -> None:
    """Write the whole dataset into `out`, in place of one that this tool wrote there before.

    The dataset holds the wheels of `lock` (none if `lock` is None), our wheel, and copies of the `extra` files.
    Raises `DownloadError` if a wheel cannot be downloaded, and `InputError` for other errors. `out` then stays as it
    was.
    """
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
    """Download the wheels of a lock for every Python version of the Kaggle image. Raises `DownloadError`."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    checked = ["--require-hashes", "--requirement", str(lock), "--dest", str(out)]
    platform = ["--only-binary", ":all:", "--implementation", "cp"]
    platform += [word for name in _PLATFORMS for word in ("--platform", name)]
    patience = ["--retries", "1", "--timeout", "20"]
    for version in PYTHON_VERSIONS:
        command = [*pip, *checked, *platform, "--python-version", version, *patience]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            said = " ".join(result.stderr.partition("ERROR: ")[2].split()) or f"exit code {result.returncode}"
            raise DownloadError(
                f"{lock}: its wheels for Python {version} could not be downloaded (is the index "
                f"reachable?); pip says: {said}"
            )


def requirements(folder: Path) -> str:
    """Return the text of a requirements file with which pip accepts only the wheels of a folder, by hash."""
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
    """Return Kaggle's description of a dataset that holds the files `names`."""
    return {
        "title": "hrm offline bundle",
        "id": f"{user}/{DATASET_SLUG}",
        "licenses": [{"name": "other"}],  # Kaggle's list has none that fits all the files
        "description": "hrm_offline is under MIT-0, the other wheels are under the licences inside them. "
        f"Files: {', '.join(names)}",
    }


def clear_earlier(folder: Path) -> None:
    """Make `folder`, or delete the dataset in it. Raises `InputError` if the folder holds anything else."""
    make_folder(folder)
    listed, _ = _read_sums(folder / SUMS_FILE)
    ours = {*listed, SUMS_FILE, DATASET_FILE}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise InputError(f"{folder}: holds {foreign[0]}, which this tool did not write; give a new or an empty folder")
    for path in folder.iterdir():
        path.unlink()


def verify(folder: Path) -> list[str]:
    """Return a line for each file of a folder that differs from SHA256SUMS, is missing, or is not listed there.

    The folder is one that `vendor` wrote or that Kaggle mounted. Kaggle's metadata file is skipped, because it is not
    uploaded. Raises `InputError` if there is no such folder.
    """
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
    """Return the SHA-256 hash of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_sums(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the hashes of a SHA256SUMS by file name, and a finding for each malformed line.

    Both are empty if there is no such file.
    """
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
    print(f"{folder}: {f'{len(findings)} problems' if findings else 'every file is as it was written'}")
    return 1 if findings else 0


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=absolute_path, metavar="DIR", help="write the dataset into this folder")
    action.add_argument("--verify", type=absolute_path, metavar="DIR", help="check this folder by its SHA256SUMS")
    parser.add_argument(
        "--user",
        default=PLACEHOLDER_USER,
        metavar="NAME",
        help="your Kaggle user name, for the metadata (default: the placeholder %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
