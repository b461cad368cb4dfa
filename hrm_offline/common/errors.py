"""The exception for bad input, and how values look in its message.

The command line prints the message on one line and ends with exit code 2, without a traceback. Ctrl-C ends a command
with one line too.
"""

import contextlib
import os
import sys

INTERRUPTED, INTERRUPTED_CODE = "interrupted (Ctrl-C)", 130  # a shell gives this code to a command that SIGINT ended

_LONGEST = 40  # characters of a value that an error message quotes
_LONGEST_INTEGER = 128  # bits, at most 39 digits; Python refuses to print an integer of thousands of digits


_UNREAD_CODE = 141  # a shell gives this code to a command that SIGPIPE ended


def end_unread() -> int:
    """Return the exit code of a command whose output nobody reads any more, as before `| head`.

    What Python still holds of the output would be an error once more at the process' end, so that goes nowhere.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _UNREAD_CODE


class InputError(Exception):
    """Raised where something that the user gave cannot be used. The message names the file, the task and the reason."""


def shown(value) -> str:
    """Return a value of parsed JSON on one short line, however large or deeply nested the value is."""
    if isinstance(value, (list, dict)) and value:
        kind, item = ("a list", "item") if isinstance(value, list) else ("an object", "key")
        return f"{kind} of {len(value)} {item}{'s' if len(value) > 1 else ''}"
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    # A slice first: only what is shown needs to be escaped.
    text = repr(value[: _LONGEST + 1] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def shown_name(name: str) -> str:
    """Return the name of a task or a tensor for a message: as it is where it fits on the line, else quoted and cut."""
    return name if name.isprintable() and 0 < len(name) <= 2 * _LONGEST else shown(name)
