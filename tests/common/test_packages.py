"""Test that missing packages are named in one line, with the command that installs them."""

from __future__ import annotations

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.packages import require_packages


def test_packages_that_are_there_pass():
    require_packages("json", "numpy")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("numpy", "no_such_package"), "no_such_package is not installed (pip install no_such_package)"),
        (("no_such_a", "no_such_b"), "no_such_a, no_such_b are not installed (pip install no_such_a no_such_b)"),
    ],
)
def test_missing_packages_are_named(names, message):
    with pytest.raises(InputError) as raised:
        require_packages(*names)
    assert str(raised.value) == message
