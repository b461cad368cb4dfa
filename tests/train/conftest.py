"""A finished pretraining run that several files compare with."""

import pytest
from pretraining import finish, launch


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """Finish a pretraining run, once per session, and return its folder, which tests must not change."""
    out = tmp_path_factory.mktemp("unbroken")
    finish(launch(out))
    return out
