"""Test how many workers, groups and threads a run has by default, and where the user says one of them."""

import dataclasses
from pathlib import Path

import pytest

from hrm_offline.common import machine
from hrm_offline.presets import PRESETS
from hrm_offline.solve.messages import Hello, NetworkChoice
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.sizing import cores_for, group_count, threads_per_worker, worker_count

SMALL = PRESETS["hrm-132k"]
CPU = Hello("cpu in float32", 0, NetworkChoice(SMALL.model, SMALL.adapt, None), None, "", 1.0, 1, "", {}, memory=10**9)
GPU = dataclasses.replace(CPU, device="cuda in bfloat16", gpus=4, threads=8)
_UP_TO_25 = NetworkChoice(SMALL.model, dataclasses.replace(SMALL.adapt, group_tasks=25), None)
LIMITED = dataclasses.replace(CPU, network=_UP_TO_25)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(machine, "physical_cores", lambda: 8)
    monkeypatch.setattr(machine, "free_memory", lambda: 100e9)


def sizes(hello, tasks, **changes):
    """Return the numbers of workers and of groups."""
    options = SolveOptions(Path("tasks"), Path("out"), **changes)
    workers = worker_count(options, hello, tasks)
    return workers, group_count(options, hello, workers, tasks)


@pytest.mark.parametrize(
    ("hello", "tasks", "changes", "expected"),
    [
        (CPU, 120, {}, (8, 8)),
        (CPU, 30, {}, (3, 3)),
        (CPU, 5, {}, (1, 1)),
        (CPU, 120, {"groups": 4}, (4, 4)),
        (CPU, 120, {"groups": 16}, (8, 16)),
        (CPU, 120, {"workers": 1}, (1, 1)),
        (CPU, 120, {"workers": 0}, (1, 1)),
        (CPU, 120, {"workers": 1, "groups": 4}, (1, 4)),
        (CPU, 120, {"workers": 3}, (3, 6)),
        (CPU, 5, {"sharing": "per-task"}, (5, 5)),
        (CPU, 120, {"sharing": "joint"}, (1, 1)),
        (GPU, 120, {}, (4, 8)),
        (GPU, 120, {"device": "cuda:1"}, (1, 1)),
        (dataclasses.replace(CPU, gpus=2), 120, {}, (8, 8)),  # PyTorch does not support them
        (LIMITED, 120, {"workers": 1}, (1, 5)),
        (LIMITED, 120, {}, (8, 8)),
        (LIMITED, 401, {}, (8, 17)),
        (LIMITED, 401, {"groups": 2}, (2, 2)),
        (LIMITED, 401, {"sharing": "joint"}, (1, 1)),
        (dataclasses.replace(GPU, network=_UP_TO_25), 401, {}, (4, 17)),
    ],
)
def test_workers_and_groups(hello, tasks, changes, expected):
    assert sizes(hello, tasks, **changes) == expected


def test_memory_limits_the_workers_that_nobody_asked_for(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 5.5e9)
    assert sizes(CPU, 120)[0] == 3
    assert sizes(CPU, 120, workers=6)[0] == 6
    monkeypatch.setattr(machine, "free_memory", lambda: 0.0)
    assert sizes(CPU, 120)[0] == 1


def test_workers_on_a_cpu_share_its_cores():
    options = SolveOptions(Path("tasks"), Path("out"))
    wide = dataclasses.replace(CPU, threads=8)
    assert [threads_per_worker(options, wide, workers) for workers in (1, 2, 3, 20)] == [8, 4, 2, 1]
    assert threads_per_worker(options, CPU, 2) == 1
    assert threads_per_worker(options, GPU, 4) == 8
    assert threads_per_worker(dataclasses.replace(options, threads=8), wide, 4) == 8


@pytest.mark.parametrize(("tasks", "changes"), [(120, {}), (30, {}), (5, {}), (5, {"sharing": "per-task"})])
def test_the_network_is_chosen_for_as_many_cores_as_learn(tasks, changes):
    """The choice is made before a worker has said anything."""
    options = SolveOptions(Path("tasks"), Path("out"), **changes)
    assert cores_for(options, tasks) == worker_count(options, CPU, tasks)
