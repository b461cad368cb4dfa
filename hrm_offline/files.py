"""Reading JSON with clear errors, and replacing files atomically."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from hrm_offline.errors import InputError


def read_json(path: str | Path):
    """Parse a JSON file. Raises `InputError` naming it if it cannot be read or is not JSON."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty, expected JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def write_json(path: str | Path, value, indent: int | None = None) -> None:
    """Replace `path` by `value` as JSON, atomically: a reader sees the old file or the new one. Raises
    `OSError` where it cannot be written, with the old file in place."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=indent)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def checksum(path: str | Path) -> int:
    """CRC-32 of a file's bytes. Raises `OSError` if it cannot be read."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents. Raises `InputError` if that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot create the folder ({error})") from None
    return path
