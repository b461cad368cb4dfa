"""Test the options of `solve`: values that are refused, and recipe settings that may be overridden."""

from pathlib import Path

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.solve.options import SolveOptions


@pytest.mark.parametrize(
    "change",
    [
        {"workers": -1},
        {"hang_after": 0.0},
        {"sharing": "shared"},
        {"candidates": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"price_per_hour": float("inf")},
    ],
)
def test_impossible_options_are_refused_by_name(change):
    with pytest.raises(InputError, match=next(iter(change))):
        SolveOptions(Path("tasks.json"), Path("out"), **change)


@pytest.mark.parametrize(
    ("overrides", "word"), [({"visits": -1}, "visits"), ({"visit": 3}, "visit"), ({"lr": "x"}, "lr")]
)
def test_an_override_is_checked_where_the_recipe_is(overrides, word):
    with pytest.raises(InputError, match=word):
        SolveOptions(Path("tasks.json"), Path("out"), overrides=overrides)
