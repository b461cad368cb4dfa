"""Test how values are shown in an error's single line."""

from hrm_offline.common.errors import shown


def test_values_are_shown_on_one_short_line():
    for value, text in (
        (11, "11"),
        (-1, "-1"),
        (True, "True"),
        (None, "None"),
        (2.5, "2.5"),
        (float("nan"), "nan"),
        ("3", "'3'"),
        ([], "[]"),
        ({}, "{}"),
        ([1], "a list of 1 item"),
        ([[]] * 10**6, "a list of 1000000 items"),
        ({"a": 1, "b": 2}, "an object of 2 keys"),
        (2**128 - 1, str(2**128 - 1)),
        (2**128, "an integer of 129 bits"),
        (-(10**4400), "an integer of 14617 bits"),
        ("x" * 10**8, "'" + "x" * 36 + "..."),
        ("\n" * 100, "'" + "\\n" * 18 + "..."),
        ("a\ud800", r"'a\ud800'"),
    ):
        assert shown(value) == text
