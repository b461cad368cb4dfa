"""Test lookups of rows whose gradients repeat, against PyTorch's own indexing in float64."""

import pytest
import torch
from kernels import DEVICE

from hrm_offline.ops import take_rows as module
from hrm_offline.ops.take_rows import sum_rows, take_each_once, take_rows


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype).to(DEVICE)


@pytest.fixture(params=["as here", "as a GPU adds"])
def how(request, monkeypatch):
    """Sum as the device at hand does, then as a GPU does: there a product with zeros and ones makes the sum."""
    if request.param == "as a GPU adds":
        monkeypatch.setattr(module, "_adds_in_order", lambda values: False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (1,), (0,)])
def test_rows_and_gradients_are_those_of_indexing(how, shape, dtype):
    """Some rows are taken often and others never."""
    table = normal(4, 6, dtype=dtype).requires_grad_()
    index = torch.arange(torch.Size(shape).numel(), device=DEVICE).square().remainder(3).view(shape)
    grad = normal(*shape, 6, dtype=dtype)
    ours, expected = take_rows(table, index), table[index]
    assert torch.equal(ours, expected)
    found, wanted = (torch.autograd.grad(rows, table, grad)[0] for rows in (ours, expected))
    assert (found - wanted).abs().max() <= (1e-12 if dtype is torch.float64 else 1e-5)


@pytest.mark.parametrize("shape", [(9,), (9, 6), (9, 2, 3)])
def test_rows_that_are_taken_once_have_the_gradient_of_indexing(shape):
    x = normal(*shape).requires_grad_()
    index = torch.tensor([8, 0, 3, 4], device=DEVICE)
    grad = normal(4, *shape[1:])
    ours, expected = take_each_once(x, index), x[index]
    assert torch.equal(ours, expected)
    assert torch.equal(*(torch.autograd.grad(rows, x, grad)[0] for rows in (ours, expected)))


def test_both_ways_to_sum_agree(monkeypatch):
    values, index = normal(50, 3), torch.arange(50, device=DEVICE).remainder(4)
    before = sum_rows(values, index, 6)
    monkeypatch.setattr(module, "_adds_in_order", lambda values: not values.is_cpu)
    assert (sum_rows(values, index, 6) - before).abs().max() < 1e-12
    assert torch.equal(before[4:], torch.zeros(2, 3, dtype=torch.float64, device=DEVICE))


def test_nothing_is_kept_where_nobody_learns():
    table = normal(4, 6).requires_grad_()
    with torch.no_grad():
        assert take_rows(table, torch.tensor([1], device=DEVICE)).grad_fn is None
