"""Test that several processes pretrain what one does."""

import pytest
import torch
from pretraining import finish, launch, metrics

from hrm_offline.model.artifact import load_artifact


def test_two_processes_equal_one_at_the_same_global_batch(unbroken, tmp_path):
    """Split batches of 150 // 16 = 9 examples unevenly, into 4 and 5.

    The weights equal those of one process that computes the same two parts, bit for bit. The loss equals that of one
    process that computes the whole batch at once.
    """
    finish(launch(tmp_path / "two", processes=2))
    finish(launch(tmp_path / "parts", "--micro-batches", "2"))
    for two, one in zip(metrics(tmp_path / "two"), metrics(unbroken), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    ours, expected = (load_artifact(tmp_path / name).weights for name in ("two", "parts"))
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_a_batch_smaller_than_the_processes_is_shared_too(tmp_path):
    settings = ["--tokens-per-step", "20", "--steps", "10"]  # one example a step
    finish(launch(tmp_path / "two", *settings, processes=2))
    finish(launch(tmp_path / "one", *settings))
    for two, one in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
