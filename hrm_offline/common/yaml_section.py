"""Read one section of a YAML file: names and scalars, as published training scripts write their settings.

The published scripts save an `all_config.yaml` beside their checkpoints. This package does not depend on a YAML
library, and a section of names and scalars needs none. Everything else in the file is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

from hrm_offline.common.errors import InputError, shown, shown_name

_MAX_BYTES = 2**20
_ENTRY = re.compile(r"(?P<name>[A-Za-z_][\w.-]*):(?:\s+(?P<value>.*))?$")
_INTEGER = re.compile(r"[-+]?\d{1,18}$")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_QUOTED = re.compile(r"""(?P<mark>['"])(?P<text>.*?)(?P=mark)(\s+#.*)?$""")
_WORDS = {"true": True, "false": False, "null": None, "~": None}
_BEGINS_MORE = tuple("[{&*!|>%@`")  # a value that begins so is no scalar on one line

Scalar = str | int | float | bool | None


def read_section(path: str | Path, section: str) -> dict[str, Scalar] | None:
    """Return the scalars of a section at the top level of a YAML file by name, None where there is no such section.

    What is nested deeper in the section is left out, and so is a value that refers to another setting (`${name}`).
    Raises `InputError` with the line for anything in the section that is neither a name with a scalar nor nested.
    """
    lines = _lines_of(Path(path))
    starts = [number for number, line in enumerate(lines) if re.fullmatch(rf"{re.escape(section)}:\s*(#.*)?", line)]
    if not starts:
        return None
    found: dict[str, Scalar] = {}
    width = 0  # spaces before the section's names
    for number, line in enumerate(lines[starts[0] + 1 :], starts[0] + 2):
        text = line.lstrip(" ")
        if not text or text.startswith("#"):
            continue
        indent = len(line) - len(text)
        width = width or indent
        if not indent and not text.startswith("\t"):
            break
        if indent > width or text.startswith("- "):
            continue
        entry = _ENTRY.match(text)
        if indent < width or not entry or entry["name"] in found:
            raise InputError(f"{path}: line {number}: {shown(line)}, expected a setting of '{section}' that comes once")
        value = _scalar(entry["value"] or "")
        if isinstance(value, str) and value.startswith(_BEGINS_MORE):
            raise InputError(f"{path}: line {number}: '{shown_name(entry['name'])}' is {shown(value)}, no plain value")
        if value != "" and not (isinstance(value, str) and value.startswith("${")):
            found[entry["name"]] = value
    return found


def _lines_of(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InputError(f"{path}: has more than {_MAX_BYTES} bytes, expected a file of settings")
        return [line.rstrip() for line in content.decode("utf-8").split("\n")]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text, expected a file of settings") from None


def _scalar(text: str) -> Scalar:
    """Return the value that a YAML scalar on one line spells."""
    text = text.strip()
    if quoted := _QUOTED.match(text):
        return quoted["text"]
    text = re.sub(r"(^|\s)#.*$", "", text).strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _NUMBER.match(text) else text
