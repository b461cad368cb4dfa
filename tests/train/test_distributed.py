"""Test that several processes pretrain what one does."""

import multiprocessing

import pytest
import torch
from pretraining import metrics, run, run_by_torchrun

from hrm_offline.model.artifact import load_artifact
from hrm_offline.train.distributed import World, leave_world, meet

_ROWS = torch.arange(24).view(4, 3, 2)  # of four sequences, three for each


def test_two_processes_equal_one_at_the_same_global_batch(unbroken, tmp_path):
    """Split batches of 150 // 16 = 9 examples unevenly, into 4 and 5.

    The weights equal those of one process that computes the same two parts, bit for bit. The loss equals that of one
    process that computes the whole batch at once.
    """
    run_by_torchrun(tmp_path / "two", processes=2)
    run(tmp_path / "parts", "--micro-batches", "2")
    for two, one in zip(metrics(tmp_path / "two"), metrics(unbroken), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    ours, expected = (load_artifact(tmp_path / name).weights for name in ("two", "parts"))
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_a_batch_smaller_than_the_processes_is_shared_too(tmp_path):
    settings = ["--tokens-per-step", "20", "--steps", "10"]  # one example a step
    run(tmp_path / "two", *settings, processes=2)
    run(tmp_path / "one", *settings)
    for two, one in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def _gather(meeting, rank, size, results):
    world = meet("gloo", meeting, rank, size)
    for batch_size in (4, 1, 3):
        (share,) = world.shares(batch_size, 1)
        ids, grads = world.gather_sequences(
            _ROWS[:batch_size, :, 0][share], _ROWS[:batch_size][share].float(), batch_size
        )
        results.put((rank, batch_size, ids.tolist(), grads.tolist()))
    leave_world()


def test_processes_gather_the_rows_that_one_has(tmp_path):
    """Even shares, uneven shares, and a process without a share."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = [(str(tmp_path / "meeting"), rank, 2, results) for rank in range(2)]
    processes = [context.Process(target=_gather, args=given) for given in arguments]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(6)]
    for process in processes:
        process.join()
    for _, batch_size, ids, grads in found:
        alone = World().gather_sequences(_ROWS[:batch_size, :, 0], _ROWS[:batch_size].float(), batch_size)
        assert (ids, grads) == tuple(rows.tolist() for rows in alone)
