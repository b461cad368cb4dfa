"""Fixtures of runs: challenges, the answers of an undisturbed run, a disk that is full."""

import contextlib
import json
import resource

import pytest
from runs import options_of, solve_quietly

from hrm_offline.data.tasks import to_challenges


@pytest.fixture
def limit_file_size():
    """Return a context in which files cannot grow beyond a size, as on a full disk."""

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def challenges(make_task, write_json):
    """Write five small tasks. Return the file and its content."""
    value = to_challenges([make_task(f"t{i}", [((3, 3), (3, 3))] * 3, seed=i) for i in range(5)])
    return write_json("challenges.json", value), value


@pytest.fixture
def reference(challenges, tmp_path):
    """Return the answers of an undisturbed run."""
    solve_quietly(options_of(challenges, tmp_path, "reference", workers=0))
    return json.loads((tmp_path / "reference" / "submission.json").read_text())
