"""Fixtures of runs: challenges, the answers of an undisturbed run, a disk that is full."""

import contextlib
import json
import resource

import pytest
from runs import options_of, solve_quietly

from hrm_offline.data.tasks import to_challenges


@pytest.fixture
def limit_file_size():
    """A context in which files cannot grow beyond a size: what a full disk is to a writer."""

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
    """Five small tasks: the file they are in, and its content."""
    value = to_challenges([make_task(f"t{i}", [((3, 3), (3, 3))] * 3, seed=i) for i in range(5)])
    return write_json("challenges.json", value), value


@pytest.fixture
def reference(challenges, tmp_path):
    """The answers of a run in which nothing happens."""
    solve_quietly(options_of(challenges, tmp_path, "reference", workers=0))
    return json.loads((tmp_path / "reference" / "submission.json").read_text())
