"""The one exception for bad input: a single clear line for the user, exit code 2, no traceback."""

_LONGEST = 40  # characters of a value that an error message quotes
_LONGEST_INTEGER = 128  # bits, which have at most as many digits; Python refuses to print very long ones


class InputError(Exception):
    """Something the user gave cannot be used. The message names the file, the task and the reason."""


def shown(value) -> str:
    """A value of parsed JSON on one short line, however large or deeply nested it is."""
    if isinstance(value, (list, dict)) and value:
        kind, item = ("a list", "item") if isinstance(value, list) else ("an object", "key")
        return f"{kind} of {len(value)} {item}{'s' if len(value) > 1 else ''}"
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    # A slice first: only what is shown needs to be escaped.
    text = repr(value[: _LONGEST + 1] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def shown_name(name: str) -> str:
    """A task's or tensor's name in a message: as it is where it fits on the line, else quoted."""
    return name if name.isprintable() and 0 < len(name) <= 2 * _LONGEST else shown(name)
