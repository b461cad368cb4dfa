"""Test that the shares of broken invariants are those that are counted."""

import pytest

from hrm_offline.answers.invariants import BROKEN
from hrm_offline.data.sets import load_set
from tools.study.invariants import count, shares


def test_the_shares_are_counted_on_the_training_tasks():
    found = shares(*count(load_set("arc1-train").require_good()))
    assert found == pytest.approx(BROKEN, abs=6e-5)
