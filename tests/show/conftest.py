"""A finished run whose pictures are drawn."""

import json
import shutil

import numpy as np
import pytest
from runs import shorten_probes

from hrm_offline.cli import main
from hrm_offline.data.tasks import Pair, Task, to_challenges, to_solutions


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Run two tasks, one of which is learned. Return the folder with the run and the solutions."""
    folder = tmp_path_factory.mktemp("run")
    grids = [np.full((2, 2), colour, np.uint8) for colour in range(4)]
    same = Task("same", tuple(Pair(grid, grids[1]) for grid in grids[:3]), (Pair(grids[0], grids[1]),))
    odd = Task("$odd_$", same.train[:2], (Pair(grids[3], grids[2]), Pair(grids[1], grids[1])))
    (folder / "challenges.json").write_text(json.dumps(to_challenges([same, odd])))
    (folder / "solutions.json").write_text(json.dumps(to_solutions([same, odd])))
    words = ["solve", "--challenges", str(folder / "challenges.json"), "--out", str(folder / "out"), "--budget", "10m"]
    words += ["--visits", "1000", "--adapt", "per-task", "--preset", "hrm-132k", "--workers", "0", "--induce", "off"]
    with pytest.MonkeyPatch.context() as patch:
        shorten_probes(patch)
        assert main([*words, "--keep-networks"]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """Copy that run's output, for a test to change."""
    return shutil.copytree(run / "out", tmp_path / "out")
