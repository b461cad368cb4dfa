"""Test the flags that are made from the fields of a settings dataclass."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.flags import add_flags, given
from hrm_offline.common.settings import setting
from hrm_offline.config import AdaptConfig


@dataclass(frozen=True)
class Base:
    share: float = setting(0.25, "how much, 100% at most", group="numbers")


@dataclass(frozen=True)
class Sample(Base):
    out: Path = setting(Path(), "where", metavar="DIR")
    count: int | None = setting(None, "how many", group="numbers", unset="as many as there are")
    kind: str = setting("a", "which", ("a", "b"), flag="--which")
    is_on: bool = setting(True, "whether")
    names: tuple[str, ...] = setting((), "some")
    files: tuple[str, ...] = setting((), "some more", repeat=True)
    changes: Mapping[str, object] = setting({}, "change", flag="--set", overrides=AdaptConfig)
    hidden: int = setting(0, "no flag", flag=False)


@dataclass(frozen=True)
class Required:
    path: Path = setting(help="must be given")


def parsed(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    add_flags(parser, Sample)
    return given(parser.parse_args(list(arguments)), Sample)


def test_a_flag_that_is_not_given_leaves_no_trace():
    assert parsed() == {}


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("--out x", {"out": Path("x")}),
        ("--count 3 --share 1e-1", {"count": 3, "share": 0.1}),
        ("--which b", {"kind": "b"}),
        ("--is-on", {"is_on": True}),
        ("--no-is-on", {"is_on": False}),
        ("--names x y", {"names": ("x", "y")}),
        ("--names x --names y z", {"names": ("x", "y", "z")}),
        ("--names", {"names": ()}),
        ("--files x --files y", {"files": ("x", "y")}),
        ("--set lr=3e-4 visits=2 --set visits=3", {"changes": {"lr": 3e-4, "visits": 3}}),
    ],
)
def test_values_have_the_types_of_their_fields(arguments, values):
    assert parsed(*arguments.split()) == values


@pytest.mark.parametrize("arguments", ["--which c", "--count x", "--hidden 1"])
def test_what_no_field_takes_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        parsed(*arguments.split())
    assert arguments.split()[0] in capsys.readouterr().err


def test_an_override_is_checked_against_its_own_field():
    with pytest.raises(InputError, match="canvas is 'round', expected one of tight, full"):
        parsed("--set", "canvas=round")


def test_a_field_without_a_default_must_be_given(capsys):
    parser = argparse.ArgumentParser()
    add_flags(parser, Required)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "--path" in capsys.readouterr().err


def test_help_has_defaults_headings_and_per_cent_signs():
    parser = argparse.ArgumentParser()
    add_flags(parser, Sample)
    text = " ".join(parser.format_help().split())
    for part in (
        "numbers: --count N how many (default: as many as there are) --share X how much, 100% at most (default: 0.25)",
        "--which {a,b} which (default: a)",
        "--out DIR where",
        "whether (default: yes)",
    ):
        assert part in text
    assert "no flag" not in text


def test_some_fields_only():
    parser = argparse.ArgumentParser()
    add_flags(parser, Sample, only=("count",))
    assert parser.parse_args(["--count", "2"]) == argparse.Namespace(count=2)
