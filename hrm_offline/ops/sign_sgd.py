"""Sign-SGD on the rows of an embedding table that a batch used, as in the published HRM code."""

from __future__ import annotations

import torch

from hrm_offline.ops.dispatch import run_or_demote, uses_triton
from hrm_offline.ops.launch import describe, jit, launch, launcher, triton
from hrm_offline.ops.take_rows import sum_rows

if triton:
    import triton.language as tl


# --- public function ---


def sign_sgd_(table: torch.Tensor, ids: torch.Tensor, grads: torch.Tensor, *, lr: float, weight_decay: float) -> None:
    """Update the rows `ids` of `table` in place: w = w (1 - lr weight_decay) - lr sign(sum of its gradients).

    table [N, D]; ids int64 [R]; grads [R, D], the gradient at each id. Gradients of equal ids are summed first, so a
    row moves once however often it appears. Rows outside `ids` neither move nor decay.
    Plain PyTorch raises for an id outside the table. The kernel passes over it, since an error would have to wait for
    the device. Raises `ValueError` for shapes that do not fit.
    """
    if grads.shape != (len(ids), table.shape[1]) or ids.is_floating_point():
        raise ValueError(f"sign_sgd: these do not fit: {describe(table=table, ids=ids, grads=grads)}")
    problem = None if table.is_contiguous() and grads.dtype is table.dtype else "a strided table or mixed dtypes"

    def plain() -> None:
        sign_sgd_reference_(table, ids, grads, lr=lr, weight_decay=weight_decay)

    def kernel() -> None:
        sign_sgd_step(table, ids.contiguous(), grads.contiguous(), lr, 1 - lr * weight_decay)

    if uses_triton("sign_sgd", table, problem):
        run_or_demote(kernel, plain)
    else:
        plain()


# --- plain PyTorch twin ---


def sign_sgd_reference_(
    table: torch.Tensor, ids: torch.Tensor, grads: torch.Tensor, *, lr: float, weight_decay: float
) -> None:
    """Compute `sign_sgd_` in plain PyTorch. Nothing waits for the device, as `unique` would."""
    in_order, order = ids.sort(stable=True)  # [R]
    is_first = torch.cat([torch.zeros_like(in_order[:1]), (in_order[1:] != in_order[:-1]).to(ids.dtype)])
    group = torch.empty_like(ids).scatter_(0, order, is_first.cumsum(0))  # [R], equal for equal ids
    total = sum_rows(grads, group, len(ids))  # [R, D], by group
    # Equal ids write equal rows.
    table[ids] = table[ids] * (1 - lr * weight_decay) - lr * total.sign()[group]


# --- launchers ---


@launcher("(Tensor(a!) table, Tensor ids, Tensor grads, float lr, float decay) -> ()")
def sign_sgd_step(table, ids, grads, lr, decay):
    """Update the rows `ids` of `table`. decay: 1 - lr weight_decay."""
    columns = min(128, triton.next_power_of_2(table.shape[1]))
    programs = len(ids) * triton.cdiv(table.shape[1], columns)
    launch(
        _sign_sgd_kernel,
        programs,
        table,
        ids,
        grads,
        len(ids),
        len(table),
        table.shape[1],
        lr,
        decay,
        BLOCK=16,
        COLUMNS=columns,
        num_warps=4,
    )


# --- kernels ---


@jit
def _sign_sgd_kernel(
    table_ptr, ids_ptr, grads_ptr, count, table_rows, width, lr, decay, BLOCK: tl.constexpr, COLUMNS: tl.constexpr
):
    """Update some columns of the row that one position of `ids` names.

    The program at the first position of an id sums the gradients of all its positions, in their order. Programs at
    later positions of that id do nothing. A batch has few ids, so reading all of them here is cheaper than a sort.
    """
    blocks = tl.cdiv(width, COLUMNS)
    position = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = column < width
    row = tl.load(ids_ptr + position)
    earlier = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, position, BLOCK):
        other = start + tl.arange(0, BLOCK)
        same = (tl.load(ids_ptr + other, mask=other < position, other=-1) == row) & (other < position)
        earlier += same.to(tl.int32)
    if (tl.sum(earlier) > 0) | (row < 0) | (row >= table_rows):
        return
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, count, BLOCK):
        other = start + tl.arange(0, BLOCK)
        same = (tl.load(ids_ptr + other, mask=other < count, other=-1) == row) & (other < count)
        grad_at = grads_ptr + other.to(tl.int64)[:, None] * width + column[None, :]
        total += tl.sum(tl.load(grad_at, mask=same[:, None] & column_inside[None, :], other=0.0), 0)
    at = table_ptr + row * width + column
    sign = (total > 0).to(tl.float32) - (total < 0).to(tl.float32)
    tl.store(at, tl.load(at, mask=column_inside, other=0.0) * decay - lr * sign, mask=column_inside)
