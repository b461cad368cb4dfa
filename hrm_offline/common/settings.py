"""Declare settings once: the field of a dataclass carries its default, its help, its choices and its limits.

Command-line flags, their help and docs/configuration.md are made from these fields (see `hrm_offline.common.flags`).
A module that declares settings for a command imports the standard library only, so that `--help` and the error for a
missing package work on a bare Python.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing

from hrm_offline.common.errors import InputError, shown, shown_name

T = typing.TypeVar("T")
_MAX_INTEGER = 2**63 - 1  # what PyTorch and numpy take; a larger number is a slip of the hand
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def setting(
    default: typing.Any = dataclasses.MISSING,
    help: str = "",
    choices: tuple[str, ...] = (),
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    group: str = "",
    metavar: str = "",
    flag: str | bool = True,
    repeat: bool = False,
    unset: str = "",
    overrides: type | None = None,
    later: bool = False,
    recorded: typing.Any = None,
) -> typing.Any:
    """Declare a field of a settings dataclass. Without a `default` it must be given.

    `help` is one line of plain English that says what the setting does and its unit. `choices` are the values that
    the field may have, where they are few; for a tuple, the values that its items may have. `above`, `least` and
    `most` are the limits of a number. `check` enforces choices and limits.

    The rest concerns the command line. `group` is the heading that the flag stands under, `metavar` names its value.
    `flag` is the flag's name where it differs from the field's, or False where the field has none. With `repeat`, a
    tuple's flag adds one item each time it is given. `unset` says in words what None means. `overrides` is the settings
    dataclass whose fields a mapping may name; the flag then takes NAME=VALUE.

    The last two concern what makes a run the same run (see `identity_of`). `later` marks a setting that came after
    runs had been recorded. A setting that changes no result is always `recorded` as one value.
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def help_of(field: dataclasses.Field) -> str:
    """Return the help of a field that `setting` declared, or an empty text."""
    return field.metadata.get("help", "")


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    """Return the choices of a field that `setting` declared, or an empty tuple."""
    return field.metadata.get("choices", ())


def identity_of(settings) -> dict:
    """Return the settings by name, as what makes a run the same run.

    A `later` setting is left out while it has its default: runs that were recorded before there was such a setting
    stay the same runs. A setting with a `recorded` value has that value.
    """
    identity = {}
    for field in dataclasses.fields(settings):
        value, recorded = getattr(settings, field.name), field.metadata.get("recorded")
        if not (field.metadata.get("later") and value == field.default):
            identity[field.name] = value if recorded is None else recorded
    return identity


def kinds_of(cls: type) -> dict[str, typing.Any]:
    """Return the type of each field of a settings dataclass, by name; `X` where the type is `X | None`."""
    hints = typing.get_type_hints(cls)
    return {field.name: _without_none(hints[field.name]) for field in dataclasses.fields(cls)}


def check(settings) -> None:
    """Raise `InputError` naming the first field that is not one of its choices or is beyond its limits.

    `settings` is an instance of a settings dataclass. None passes everywhere.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            _check_choices(field, value)
            _check_limits(field, value)


def _check_choices(field: dataclasses.Field, value) -> None:
    choices = choices_of(field)
    if not choices:
        return
    if isinstance(value, tuple):
        for item in value:
            if item not in choices:
                raise InputError(f"{field.name} has '{shown_name(item)}', expected some of {', '.join(choices)}")
    elif value not in choices:
        raise InputError(f"{field.name} is '{shown_name(value)}', expected one of {', '.join(choices)}")


def _check_limits(field: dataclasses.Field, value) -> None:
    above, least, most = (field.metadata.get(name) for name in ("above", "least", "most"))
    # Written so that a number that is not a number is refused too: all its comparisons are false.
    is_low = (above is not None and not value > above) or (least is not None and not value >= least)
    is_high = most is not None and not value <= most
    if is_low or is_high:
        raise InputError(f"{field.name} is {shown(value)}, expected {limits_of(field)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{field.name} is {value}, expected a finite number")
    if isinstance(value, int) and value > _MAX_INTEGER:
        raise InputError(f"{field.name} is {shown(value)}, expected at most {_MAX_INTEGER}")


def limits_of(field: dataclasses.Field) -> str:
    """Return the limits of a number in words: "more than 0", "0 or more", "0 to 1", or an empty text."""
    above, least, most = (field.metadata.get(name) for name in ("above", "least", "most"))
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    if least is not None:
        return f"{_number(least)} or more"
    low = "" if above is None else f"more than {_number(above)}"
    high = "" if most is None else f"at most {_number(most)}"
    return " and ".join(filter(None, (low, high)))


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def from_dict(cls: type[T], values: dict, where: str) -> T:
    """Build the dataclass `cls` from parsed JSON.

    `where` names the source in errors. Raises `InputError` for an unknown key, a wrong type or a value that the
    dataclass refuses, so that a typo in a file is an error and not a silent default.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object of settings, found {type(values).__name__}")
    kinds, choices = kinds_of(cls), {field.name: choices_of(field) for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise InputError(
            f"{where}: unknown setting '{shown_name(unknown[0])}', expected one of {', '.join(sorted(kinds))}"
        )
    try:
        return cls(
            **{name: _typed(_widened(value, choices[name]), kinds[name], name) for name, value in values.items()}
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def parse_setting(cls: type, text: str) -> tuple[str, typing.Any]:
    """Return the name and the value in NAME=VALUE, for a field of the settings dataclass `cls`.

    Items of a tuple are separated by commas. Raises `InputError` for an unknown name or a text that is not of the
    field's type, one of its choices and within its limits.
    """
    name, is_assignment, value = text.partition("=")
    if not is_assignment:
        raise InputError(f"'{shown_name(text)}' sets nothing, expected NAME=VALUE")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if name not in fields:
        raise InputError(f"unknown setting '{shown_name(name)}', expected one of {', '.join(sorted(fields))}")
    kind, choices = kinds_of(cls)[name], choices_of(fields[name])
    if _was_boolean(choices) and value.lower() in _TRUE + _FALSE:
        value = "yes" if value.lower() in _TRUE else "no"
    parsed = _parsed(value, kind, name)
    _check_choices(fields[name], parsed)
    _check_limits(fields[name], parsed)
    return name, parsed


def _parsed(text: str, kind, name: str):
    """Return the value of type `kind` that a text spells. Raises `InputError` naming the setting."""
    if kind is bool:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise InputError(f"{name} is {shown(text)}, expected true or false")
    if kind in (int, float):
        try:
            return _typed(kind(text), kind, name)
        except ValueError:
            raise InputError(f"{name} is {shown(text)}, expected {_in_words(kind)}") from None
    if typing.get_origin(kind) is tuple:
        return tuple(text.split(",")) if text else ()
    return kind(text)


def _typed(value, kind, name: str):
    """Return a value of parsed JSON as `kind`: a list as a tuple, an integer as a float. Raises `InputError`."""
    if typing.get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise InputError(f"'{name}' is {shown(value)}, expected a list of strings")
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is float or type(value) is not kind:
        raise InputError(f"'{name}' is {shown(value)}, expected {_in_words(kind)}")
    return value


def _was_boolean(choices: tuple[str, ...]) -> bool:
    """Return whether a setting has choices between yes and no. Files may hold it as a boolean, from before it had."""
    return "yes" in choices and "no" in choices


def _widened(value, choices: tuple[str, ...]):
    """Return the choice that a boolean stood for; any other value as it is."""
    return {True: "yes", False: "no"}[value] if type(value) is bool and _was_boolean(choices) else value


def _in_words(kind: type) -> str:
    return {float: "a finite number", int: "an integer"}.get(kind, kind.__name__)


def _without_none(kind):
    """Return `X` for `X | None`, and any other type as it is."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    return kind
