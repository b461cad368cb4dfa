"""Look up rows of a tensor such that gradients repeat bit for bit (PyTorch only: there is no arithmetic to save).

The gradient of PyTorch's own indexing adds rows up in an order that the library chooses: some of its functions add with
atomics on a GPU, and indexing adds from several threads at once on a CPU.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from hrm_offline.ops.launch import tracked


def take_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows x[index], [..., width], of x [rows, width] for integers of any shape. A row may be taken often.

    The gradient of a row is the sum over its places in `index` (see `sum_rows`).
    """
    return _TakeRows.apply(x, index) if tracked(x) else _rows(x, index)


def take_each_once(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows x[index] of x [rows, ...] for int64 [M] that names no row twice, which is not checked."""
    return _TakeEachOnce.apply(x, index) if tracked(x) else x.index_select(0, index)


def sum_rows(values: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
    """Return [rows, width]: row r is the sum of the values [M, width] whose `index`, int64 [M], is r.

    The order of the sum is fixed. On a GPU it is that of a product with a matrix of zeros and ones [rows, M], in which
    an infinite value makes its whole column NaN.
    """
    if _adds_in_order(values):
        return values.new_zeros(rows, values.shape[1]).index_add_(0, index, values)
    chosen = torch.arange(rows, device=index.device)[:, None] == index  # [rows, M]
    return chosen.to(values.dtype) @ values


def _adds_in_order(values: torch.Tensor) -> bool:
    """Return whether `index_add_` adds the rows of a tensor one after another, as it does on a CPU."""
    return values.device.type == "cpu"


def _rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return x.index_select(0, index.flatten()).view(*index.shape, x.shape[1])


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, index):
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return _rows(x, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (index,) = ctx.saved_tensors
        return sum_rows(grad.flatten(0, -2), index.flatten(), ctx.rows), None


class _TakeEachOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, index):
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, index, grad), None
