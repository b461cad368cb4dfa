"""Declare settings once: the field of a dataclass carries its default, its help and its choices.

Command-line flags, their help and docs/configuration.md are made from these fields.
"""

from __future__ import annotations

import dataclasses
import typing


def setting(default: typing.Any, help: str, choices: tuple[str, ...] = ()) -> typing.Any:
    """Declare a field of a settings dataclass.

    `help` is one line of plain English that says what the setting does and its unit. `choices` are the values that
    the field may have, where they are few.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def help_of(field: dataclasses.Field) -> str:
    """Return the help of a field that `setting` declared, or an empty text."""
    return field.metadata.get("help", "")


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    """Return the choices of a field that `setting` declared, or an empty tuple."""
    return field.metadata.get("choices", ())
