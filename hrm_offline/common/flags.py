"""Make command-line flags from the fields of settings dataclasses (see `hrm_offline.common.settings`).

A field is the only place where a flag is declared: its type, default, help, choices and limits say the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path

from hrm_offline.common.settings import choices_of, help_of, kinds_of, parse_setting

_METAVARS = {int: "N", float: "X", Path: "PATH"}

DefaultText = Callable[[dataclasses.Field], str]


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type,
    default_text: DefaultText | None = None,
    only: tuple[str, ...] | None = None,
) -> None:
    """Add a flag for each field of the settings dataclass `cls`, or for `only` some, under the fields' headings.

    The class' own fields come before those that it inherits. A flag that is not given leaves no trace, so that `given`
    can tell. `default_text` returns a field's default as
    the help shows it; without it, the dataclass' own default is shown.
    """
    groups = {"": parser}
    kinds = kinds_of(cls)
    own = cls.__dict__["__annotations__"]
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.name not in own):
        if not field.metadata["flag"] or (only is not None and field.name not in only):
            continue
        heading = field.metadata["group"]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        default = (default_text or default_in_words)(field)
        text = help_of(field) + (f" (default: {default})" if default else "")
        groups[heading].add_argument(
            flag_of(field), dest=field.name, help=escaped(text), **_argument(field, kinds[field.name])
        )


def given(options: argparse.Namespace, cls: type) -> dict[str, typing.Any]:
    """Return the fields of `cls` whose flags were given, by name, as the dataclass takes them."""
    values = {}
    for field in dataclasses.fields(cls):
        if hasattr(options, field.name):
            value = getattr(options, field.name)
            if field.metadata["overrides"]:
                value = dict(value)
            elif isinstance(value, list):
                value = tuple(value)
            values[field.name] = value
    return values


def flag_of(field: dataclasses.Field) -> str:
    """Return the name of a field's flag, "--save-every" for `save_every`."""
    name = field.metadata["flag"]
    return name if isinstance(name, str) else "--" + field.name.replace("_", "-")


def default_in_words(field: dataclasses.Field) -> str:
    """Return the default of a field as help shows it, or an empty text where it has none."""
    if field.default is dataclasses.MISSING:
        return ""
    if field.default is None:
        return field.metadata["unset"]
    return in_words(field.default)


def in_words(value) -> str:
    """Return a setting's value as help and documentation show it: "yes", "0.001", "arc1-eval arc2-eval", "none"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "none"


def escaped(text: str) -> str:
    """Return a text as argparse's help takes it, where a per cent sign begins a format."""
    return text.replace("%", "%%")


def _argument(field: dataclasses.Field, kind) -> dict[str, typing.Any]:
    """Return the arguments of `add_argument` for a field of type `kind`."""
    metadata = field.metadata
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "default": argparse.SUPPRESS}
    common = {"default": argparse.SUPPRESS, "required": _is_required(field)}
    if metadata["overrides"]:
        settings = metadata["overrides"]
        return common | {
            "type": lambda text: parse_setting(settings, text),
            "nargs": "+",
            "action": "extend",
            "metavar": metadata["metavar"] or "NAME=VALUE",
        }
    is_tuple = typing.get_origin(kind) is tuple
    item = typing.get_args(kind)[0] if is_tuple else kind
    common["type"] = item
    if is_tuple:
        common |= {"action": "append"} if metadata["repeat"] else {"action": "extend", "nargs": "*"}
    if choices_of(field):
        common["choices"] = choices_of(field)
    if metadata["metavar"] or not choices_of(field):
        common["metavar"] = metadata["metavar"] or _METAVARS.get(item, "TEXT")
    return common


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
