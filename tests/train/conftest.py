"""A finished pretraining run that several files compare with."""

import pytest
from pretraining import run


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """Finish a pretraining run, once per session, and return its folder, which tests must not change."""
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out
