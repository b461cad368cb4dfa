"""Read JSON and the header of a tensor file with clear errors, and replace files atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hrm_offline.common.errors import InputError, shown, shown_name

# Parsed JSON can take twenty times the memory of its text. The files of the public sets have some megabytes.
_MAX_JSON_BYTES = 2**28
# A megabyte of header names 8,000 tensors. Two are enough for the largest network that a config may ask for, with the
# state of its optimiser.
_MAX_HEADER_BYTES = 2**21
_MAX_DIMENSIONS = 8
_DRAFT = re.compile(r"\..+\.\d+-\d+\.tmp")  # the names of files that `write_bytes` is about to put in place
_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


def read_json(path: str | Path, most_bytes: int = _MAX_JSON_BYTES):
    """Return the parsed content of a JSON file of at most `most_bytes` bytes, in any encoding that JSON may have.

    Where an object has a key twice, the last value counts. Raises `InputError` naming the file if it cannot be read or
    is not JSON.
    """
    size = _size_of(path)
    if size > most_bytes:
        raise InputError(f"{path}: has {size} bytes, expected at most {most_bytes}")
    try:
        content = Path(path).read_bytes()
        if not content.strip():
            raise InputError(f"{path}: the file is empty, expected JSON")
        return json.loads(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory") from None


@dataclass(frozen=True)
class TensorInfo:
    """The header's entry for one tensor of a safetensors file. `dtype` is spelt as in the format: "F32", "I64"."""

    dtype: str
    shape: tuple[int, ...]


def read_tensor_header(path: str | Path) -> dict[str, TensorInfo]:
    """Return the tensors that the header of a safetensors file lists, by name. Their data are not read.

    Raises `InputError` naming the file unless it is well-formed: a header of sensible length, known dtypes, and tensors
    that fill the rest of the file without a gap or an overlap.
    """
    size = _size_of(path)
    try:
        with open(path, "rb") as file:
            return parse_tensor_header(file, size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def parse_tensor_header(file: BinaryIO, size: int) -> dict[str, TensorInfo]:
    """Return what `read_tensor_header` does, for a file of `size` bytes that is open at its start.

    Raises `ValueError` or `RecursionError` unless the file is well-formed.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"its header would have {length} of its {size} bytes, expected at most {_MAX_HEADER_BYTES}")
    text = file.read(length).decode("utf-8")
    return _checked_tensors(json.loads(text, object_pairs_hook=_without_duplicates), size - 8 - length)


def _size_of(path: str | Path) -> int:
    """Return the bytes of a regular file. Raises `InputError` for a device or a pipe, which might never end."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero character
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: cannot be read (it is not a regular file)")
    return found.st_size


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """Return the pairs as a dict. Raises `ValueError` for a key that comes twice.

    Readers differ in which of two equal keys they take, so a checked tensor might not be the loaded one.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice in its header")
    return found


def _checked_tensors(header, data_bytes: int) -> dict[str, TensorInfo]:
    """Return the tensors of a parsed header. Raises `ValueError` unless they fill `data_bytes` exactly."""
    if not isinstance(header, dict):
        raise ValueError(f"its header is {shown(header)}, expected an object")
    places = [(*_checked_place(name, entry), name) for name, entry in header.items() if name != "__metadata__"]
    filled = 0
    for begin, end, name in sorted(places):
        if begin != filled:
            raise ValueError(f"tensor '{shown_name(name)}' begins at byte {begin}, the one before it ends at {filled}")
        filled = end
    if filled != data_bytes:
        raise ValueError(f"its tensors have {filled} bytes, the file has {data_bytes} for them")
    return {name: TensorInfo(header[name]["dtype"], tuple(header[name]["shape"])) for _, _, name in places}


def _checked_place(name: str, entry) -> tuple[int, int]:
    """Return the bytes where a tensor's data begin and end. Raises `ValueError` for an entry that makes no sense."""
    tensor = f"tensor '{shown_name(name)}'"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{tensor} has no dtype, shape and data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"{tensor} has dtype {shown(dtype)}, expected one of {', '.join(_ITEM_BYTES)}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS or not _are_counts(place) or len(place) != 2:
        raise ValueError(f"{tensor} has shape {shown(shape)} and data_offsets {shown(place)}")
    begin, end = place
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"{tensor} of shape {shape} and dtype {dtype} has {end - begin} bytes")
    return begin, end


def _are_counts(value) -> bool:
    return isinstance(value, list) and all(type(count) is int and 0 <= count < 2**63 for count in value)


def write_json(path: str | Path, value, indent: int | None = None) -> None:
    """Replace `path` by `value` as JSON, atomically. Raises `OSError` as `write_bytes` does."""
    write_bytes(path, json.dumps(value, indent=indent).encode())


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Replace `path` by `content`, atomically: a reader sees the old file or the new file.

    A device or a pipe, such as /dev/stdout, is written to. Raises `OSError` where the new file cannot be written. The
    old file is then still in place.
    """
    path = Path(path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        with open(path, "wb") as file:
            file.write(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left of files that they were about to replace. No other process may write there."""
    with contextlib.suppress(OSError):  # a folder that cannot be changed keeps them
        for path in folder.iterdir():
            if _DRAFT.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Create the folder of a file that the user has named, for a block that writes the file. Raises `InputError`."""
    require_writable(path)
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None


def require_writable(path: str | Path) -> None:
    """Create the folder of a file that is to be written. Raises `InputError` if `path` is a folder or below a file."""
    if os.path.isdir(path):
        raise InputError(f"{path}: cannot be written (it is a folder, expected a file)")
    make_folder(Path(path).parent)


def checksum(path: str | Path) -> int:
    """Return the CRC-32 of a file's bytes. Raises `OSError` if it cannot be read."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def digest_of_files(*paths: str | Path) -> str:
    """Return the SHA-256 of the bytes of some files, in hexadecimal. Raises `InputError` if a file cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_size_of(path).to_bytes(8, "little"))  # so that no byte can move from one file to the next
        try:
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
    return digest.hexdigest()


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents, and return the folder's path. Raises `InputError` if that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot create the folder ({error})") from None
    return path
