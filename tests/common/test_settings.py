"""Test declared settings: limits, choices, and reading them from JSON and from NAME=VALUE."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.settings import (
    check,
    choices_of,
    from_dict,
    help_of,
    identity_of,
    kinds_of,
    limits_of,
    parse_setting,
    setting,
)
from hrm_offline.config import AdaptConfig, ModelConfig, PretrainConfig, PretrainOptions, Recipe
from hrm_offline.solve.options import SolveOptions

ALL = (ModelConfig, Recipe, AdaptConfig, PretrainConfig, PretrainOptions, SolveOptions)


@dataclass(frozen=True)
class Sample:
    name: str = setting("a", "which", ("a", "b"))
    share: float = setting(0.5, "how much", least=0, most=1)
    count: int | None = setting(None, "how many", above=0, unset="as many as there are")
    many: int = setting(1, "how many at most", most=1000)
    on: bool = setting(False, "whether")
    names: tuple[str, ...] = setting(("a",), "which of them", ("a", "b"))
    path: Path | None = setting(None, "where")

    def __post_init__(self):
        check(self)


FIELDS = {field.name: field for field in dataclasses.fields(Sample)}


@pytest.mark.parametrize("cls", ALL)
def test_every_setting_has_a_line_of_help(cls):
    for field in dataclasses.fields(cls):
        text = help_of(field)
        assert text and "\n" not in text and not text.endswith("."), field.name


@pytest.mark.parametrize("cls", (ModelConfig, Recipe, AdaptConfig, PretrainConfig))
def test_defaults_are_within_their_limits(cls):
    cls()


def test_metadata_of_a_field():
    assert help_of(FIELDS["name"]) == "which"
    assert choices_of(FIELDS["name"]) == ("a", "b")
    assert [limits_of(FIELDS[name]) for name in ("share", "count", "many", "on")] == [
        "0 to 1",
        "more than 0",
        "at most 1000",
        "",
    ]
    assert kinds_of(Sample)["count"] is int
    assert kinds_of(Sample)["path"] is Path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "c"}, "name is 'c', expected one of a, b"),
        ({"share": 1.5}, "share is 1.5, expected 0 to 1"),
        ({"share": float("nan")}, "share is nan, expected 0 to 1"),
        ({"count": 0}, "count is 0, expected more than 0"),
        ({"many": 1001}, "many is 1001, expected at most 1000"),
        ({"count": 10**20}, "count is 100000000000000000000, expected at most 9223372036854775807"),
        ({"names": ("a", "c")}, "names has 'c', expected some of a, b"),
    ],
)
def test_what_is_beyond_its_limits_is_named(values, message):
    with pytest.raises(InputError) as raised:
        Sample(**values)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name=b", ("name", "b")),
        ("share=1e-1", ("share", 0.1)),
        ("count=3", ("count", 3)),
        ("on=yes", ("on", True)),
        ("on=False", ("on", False)),
        ("names=a,b", ("names", ("a", "b"))),
        ("names=", ("names", ())),
        ("path=a=b", ("path", Path("a=b"))),
    ],
)
def test_a_setting_from_text(text, value):
    assert parse_setting(Sample, text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share", "'share' sets nothing, expected NAME=VALUE"),
        ("shares=1", "unknown setting 'shares', expected one of count, many, name, names, on, path, share"),
        ("share=x", "share is 'x', expected a finite number"),
        ("share=inf", "'share' is inf, expected a finite number"),
        ("share=2", "share is 2.0, expected 0 to 1"),
        ("count=1.5", "count is '1.5', expected an integer"),
        ("on=perhaps", "on is 'perhaps', expected true or false"),
        ("name=c", "name is 'c', expected one of a, b"),
        ("names=a,c", "names has 'c', expected some of a, b"),
    ],
)
def test_a_wrong_setting_from_text_is_named(text, message):
    with pytest.raises(InputError) as raised:
        parse_setting(Sample, text)
    assert str(raised.value) == message


def test_settings_from_json():
    assert from_dict(PretrainConfig, {"data": ["a", "b"], "lr": 1}, "x").data == ("a", "b")
    assert from_dict(Recipe, {"lr": 1}, "x").lr == 1.0


def test_a_setting_that_was_a_boolean_is_read_as_yes_or_no():
    assert from_dict(Recipe, {"cuda_graphs": False}, "x").cuda_graphs == "no"
    assert parse_setting(Recipe, "cuda_graphs=true") == ("cuda_graphs", "yes")
    with pytest.raises(InputError, match="expected str"):
        from_dict(Recipe, {"loss": True}, "x")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"learning": 1}, "learning"),
        ({"lr": "1"}, "lr"),
        ({"lr": True}, "lr"),
        ({"lr": -1}, "lr"),
        ({"rotations": 1}, "rotations"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
        (3, "object"),
        ({"canvas": "round"}, "canvas"),
        ({"ema": 2}, "ema"),
        ({"loss": "l2"}, "loss"),
        ({"beta1": 1}, "beta1"),
    ],
)
def test_wrong_json_is_named(values, word):
    with pytest.raises(InputError, match=f"^file.json: .*{word}"):
        from_dict(Recipe, values, "file.json")


def test_a_later_setting_is_no_part_of_a_runs_identity_until_it_is_set():
    @dataclasses.dataclass
    class Settings:
        old: int = setting(1)
        new: int = setting(2, later=True)
        speed: str = setting("measured", recorded=False)

    assert identity_of(Settings()) == {"old": 1, "speed": False}
    assert identity_of(Settings(old=3, new=4, speed="no")) == {"old": 3, "new": 4, "speed": False}
