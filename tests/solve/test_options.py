"""Test the options of `solve`: values that are refused, and recipe settings that may be overridden."""

from pathlib import Path

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.solve.options import SolveOptions

NOT_SECONDS = (-1.0, float("nan"), float("inf"), -float("inf"))


@pytest.mark.parametrize(
    "change",
    [
        {"workers": -1},
        {"hang_after": 0.0},
        {"sharing": "shared"},
        {"candidates": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 10**20},
        {"workers": 10**20},
        {"threads": 10**20},
        {"candidates": 10**20},
        *({name: value} for name in ("price_per_hour", "save_every", "hang_after") for value in NOT_SECONDS),
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
