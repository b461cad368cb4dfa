"""A finished pretraining run that several files compare with."""

import pytest
from pretraining import finish, launch


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The folder of a finished pretraining run, not to be changed."""
    out = tmp_path_factory.mktemp("unbroken")
    finish(launch(out))
    return out
