"""Keep the finished runs of a tool in a file, one line of JSON per run, so that a killed tool can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path


class RunLines:
    """The lines of a file of runs. A line that a kill has torn, or that is no JSON object, counts as missing."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[dict] = []
        content = path.read_bytes() if path.exists() else b""
        self._ends_with_newline = not content or content.endswith(b"\n")
        for text in content.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                self.lines.append(line)

    def add(self, line: dict) -> None:
        """Append a line and wait until the disk holds it."""
        start = b"" if self._ends_with_newline else b"\n"  # a torn line must not spoil this one
        with open(self.path, "ab") as file:
            file.write(start + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._ends_with_newline = True
        self.lines.append(line)
