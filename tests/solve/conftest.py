"""Fixtures of runs: challenges, the answers of an undisturbed run, a disk that is full."""

import contextlib
import json
import resource

import pytest
from runs import options_of, shorten_probes, solve_quietly

from hrm_offline.data.tasks import to_challenges


@pytest.fixture(autouse=True)
def _short_probes_unless_real(request):
    if "real_probes" not in request.fixturenames:
        request.getfixturevalue("short_probes")


@pytest.fixture
def real_probes():
    """Have runs of a test measure their speed as they do for users."""


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


@pytest.fixture(scope="session")
def small_tasks(make_task):
    """Return five small tasks as challenges."""
    return to_challenges([make_task(f"t{i}", [((3, 3), (3, 3))] * 3, seed=i) for i in range(5)])


@pytest.fixture
def challenges(small_tasks, write_json):
    """Write these tasks. Return the file and its content."""
    return write_json("challenges.json", small_tasks), small_tasks


@pytest.fixture(scope="session")
def reference(small_tasks, tmp_path_factory):
    """Return the answers of an undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    file = folder / "challenges.json"
    file.write_text(json.dumps(small_tasks))
    with pytest.MonkeyPatch.context() as patch:
        shorten_probes(patch)
        solve_quietly(options_of((file, small_tasks), folder, workers=0))
    return json.loads((folder / "out" / "submission.json").read_text())
