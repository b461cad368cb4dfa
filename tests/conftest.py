"""Fixtures for every test: small tasks, files, our wheel, and one thread, so that runs can be repeated.

Without a GPU, kernels run in Triton's interpreter. Triton must know that before a kernel is defined.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import interpreter
import numpy as np
import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):
        interpreter.install()

from hrm_offline.data.tasks import Pair, Task

# Their assertions then say what differed, as those of test files do.
pytest.register_assert_rewrite("kernels", "pretraining", "runs")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_task():
    """Return a function that makes a task of random grids.

    `make_task("a", train=[(in_shape, out_shape), ...], test=[...])`.
    """

    def make(task_id: str = "t", train=(((3, 3), (3, 3)),) * 3, test=(((3, 3), (3, 3)),), seed: int = 0) -> Task:
        rng = np.random.default_rng(seed)

        def pair(shapes) -> Pair:
            return Pair(*(rng.integers(0, 10, size=shape).astype(np.uint8) for shape in shapes))

        return Task(task_id, tuple(pair(s) for s in train), tuple(pair(s) for s in test))

    return make


@pytest.fixture
def write_json(tmp_path):
    """Return a function that writes a value (or raw text) to a file and returns its path."""

    def write(name: str, value) -> Path:
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


@pytest.fixture
def short_probes(monkeypatch):
    """Have runs in this process measure their speed for a moment only. Most tests of runs do not depend on it."""
    import runs

    runs.shorten_probes(monkeypatch)


@pytest.fixture
def warm_workers(monkeypatch):
    """Have workers that are processes start with PyTorch loaded, in tests of what the workers do after their start."""
    import warm

    monkeypatch.setattr("hrm_offline.solve.pool.get_context", lambda _: warm.Context)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Write a dataset of our wheel alone, once per session; tests copy what they change."""
    from tools import vendor_wheels

    folder = tmp_path_factory.mktemp("vendored") / "dataset"
    vendor_wheels.vendor(folder, "somebody", lock=None)
    return folder


@pytest.fixture
def wheel(dataset):
    """Return the path of our wheel inside that dataset."""
    return next(dataset.glob("hrm_offline-*.whl"))
