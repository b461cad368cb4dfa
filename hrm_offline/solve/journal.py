"""Keep what a run has reached on disk, record by record, so that a run that was cut off can go on.

A record is a frame (magic, length, checksum) and a payload. The payload is in safetensors form: arrays, and `about`,
a JSON object. Records are only ever appended. When the journal is opened again, a torn last record is cut off, and a
record with a wrong checksum is counted and passed over.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from hrm_offline.common.errors import InputError

_MAGIC = b"HRMJ"
_FRAME = struct.Struct("<4sII")  # magic, bytes and CRC-32 of the payload
_ABOUT = "about"

SYNC_SECONDS = 5.0  # a loss of power costs at most the records of this time


@dataclass(frozen=True, eq=False)
class Record:
    """A JSON object and the arrays that belong to it."""

    about: dict
    arrays: dict[str, np.ndarray]


class Journal:
    """An append-only file of records.

    `records` are those found at opening, and `damaged` counts the records passed over. Raises `OSError` if the file
    cannot be opened. A later failure to write (a full disk) is told to `say` once, and the run goes on without a
    journal.
    """

    def __init__(self, path: Path, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.path = path
        self.say = say
        self.clock = clock
        self.file = open(path, "a+b")  # noqa: SIM115 - open as long as the run lasts
        self.file.seek(0)
        self.records, self.damaged, intact = _scan(self.file.read())
        self.file.truncate(intact)
        self.synced = clock()
        self.works = True

    def append(self, about: dict, arrays: dict[str, np.ndarray] | None = None) -> None:
        """Add a record. If more records come, the record is on the disk itself within `SYNC_SECONDS`."""
        if not self.works:
            return
        payload = _encode(about, arrays or {})
        end = self.file.seek(0, os.SEEK_END)
        try:
            self.file.write(_FRAME.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload)
            self.file.flush()
            if self.clock() - self.synced >= SYNC_SECONDS:
                self.sync()
        except OSError as error:
            self._give_up(error, end)

    def sync(self) -> None:
        """Wait until every record is on the disk. Raises `OSError`."""
        os.fsync(self.file.fileno())
        self.synced = self.clock()

    def clear(self) -> None:
        """Drop all records."""
        self.records, self.damaged = [], 0
        self.file.truncate(0)

    def close(self) -> None:
        try:
            self.sync()
            self.file.close()
        except OSError as error:
            self.say(f"WARNING: {self.path}: {error}")

    def _give_up(self, error: OSError, end: int) -> None:
        self.works = False
        self.say(f"WARNING: {self.path}: cannot be written ({error}); the run goes on without a journal")
        try:
            os.truncate(self.path, end)
        except OSError as second:
            self.say(f"WARNING: {self.path}: its last record is torn ({second})")


def read_records(path: Path) -> list[Record]:
    """Return the intact records of a journal without changing it, since a run may be writing. Raises `InputError`."""
    try:
        return _scan(path.read_bytes())[0]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _encode(about: dict, arrays: dict[str, np.ndarray]) -> bytes:
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    return save({_ABOUT: text} | {name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _scan(data: bytes) -> tuple[list[Record], int, int]:
    """Return the intact records, the number of damaged stretches, and where the last intact frame ends."""
    records, damaged, position, intact = [], 0, 0, 0
    while (position := data.find(_MAGIC, position)) >= 0:
        payload = _payload(data, position)
        if payload is None:
            position += 1  # its length may be wrong too, so the search for the next frame starts right here
            continue
        damaged += position > intact
        arrays = load(payload)
        records.append(Record(json.loads(arrays.pop(_ABOUT).tobytes()), arrays))
        position = intact = position + _FRAME.size + len(payload)
    return records, damaged + _is_whole(data, intact), intact


def _payload(data: bytes, position: int) -> bytes | None:
    """Return the payload of the frame at `position`, or None if the frame is torn or damaged."""
    if not _is_whole(data, position):
        return None
    _, length, checksum = _FRAME.unpack_from(data, position)
    start = position + _FRAME.size
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None


def _is_whole(data: bytes, position: int) -> bool:
    """Return whether a frame, intact or not, begins at `position` and ends within the data."""
    if position + _FRAME.size > len(data):
        return False
    magic, length, _ = _FRAME.unpack_from(data, position)
    return magic == _MAGIC and position + _FRAME.size + length <= len(data)
