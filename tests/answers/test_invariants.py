"""Test what demonstrations have in common, and which candidates are doubted for lacking it."""

import math

import numpy as np
import pytest

from hrm_offline.answers.invariants import BROKEN, Invariants, properties
from hrm_offline.data.tasks import Pair


def grid(*rows):
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


def shared(*pairs):
    return Invariants.of(Pair(grid(*inputs), grid(*output)) for inputs, output in pairs)


INPUT = ("012", "300")
CASES = [  # two demonstrations, a candidate for INPUT that keeps their invariants, one that breaks some, and which
    pytest.param(
        [(("0102", "3000"), ("2010", "0003")), (("300", "011"), ("003", "110"))],
        ("210", "003"),
        ("210", "000"),
        {
            "new colours": 0,
            "lost colours": 1,
            "colours of the input": 1,
            "no lost colour": 1,
            "cells of each colour": 1,
        },
        id="colours-of-a-mirrored-input",
    ),
    pytest.param(
        [(("01", "23", "00"), ("0101", "2323", "0000")), (("111", "000"), ("111111", "000000"))],
        ("012012", "300300"),
        ("012", "300"),
        {"sides by the input's": 1, "another grid than the input": 1, "rows of the input": 0},
        id="sides-of-an-input-twice",
    ),
    pytest.param(
        [(("012", "000"), ("121", "010")), (("500", "000"), ("505", "050"))],
        ("010", "323"),
        ("010", "321"),
        {"left and right mirrored": 1, "rows of the input": 0},
        id="mirrored-output",
    ),
    pytest.param(
        [(("0110", "2000"), ("01", "20")), (("300", "045"), ("30", "04"))],
        ("01", "30"),
        ("01", "31"),
        {"part of the input": 1, "sides": 0, "no new colour": 0},
        id="part-of-the-input",
    ),
]


@pytest.mark.parametrize(("demonstrations", "kept", "broken", "names"), CASES)
def test_a_candidate_is_doubted_for_the_invariants_that_it_breaks(demonstrations, kept, broken, names):
    invariants = shared(*demonstrations)
    assert invariants.broken_by(grid(*INPUT), grid(*kept)) == []
    assert invariants.doubt(grid(*INPUT), grid(*kept)) == 0
    found = invariants.broken_by(grid(*INPUT), grid(*broken))
    assert {name: found.count(name) for name in names} == names
    assert invariants.doubt(grid(*INPUT), grid(*broken)) == pytest.approx(-sum(math.log(BROKEN[n]) for n in found))


def test_a_colours_invariant_says_nothing_where_the_colour_is_not_in_the_input():
    invariants = shared((("01",), ("10",)), (("011",), ("110",)))
    assert invariants.broken_by(grid("02"), grid("20")).count("as many cells of a colour") == 0
    assert invariants.broken_by(grid("010"), grid("000")).count("as many cells of a colour") == 2


def test_what_one_demonstration_alone_shows_is_no_invariant():
    assert Invariants.of([Pair(grid("01"), grid("10"))]).values == {}
    assert Invariants.of([]).values == {}


def test_every_property_has_its_share_of_broken_invariants():
    names = {name[0] for name in properties(grid(*INPUT), grid(*INPUT))}
    assert names == set(BROKEN)
    assert all(0 < share < 0.1 for share in BROKEN.values())
