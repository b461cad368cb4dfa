"""Stablemax cross-entropy of tokens (Prieto et al. 2025, arXiv 2501.04697, section 4.1)."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from hrm_offline.common.tokens import IGNORE
from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import describe, jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


def stablemax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log of s(x_label) / sum s(x), with s(x) = x + 1 for x >= 0, else 1 / (1 - x).

    logits [..., vocabulary], labels int64 [...] -> float32 [...], 0 where the label is IGNORE.
    The kernel computes in float32, from sums that hold the label apart, so that the loss and the
    gradient of a nearly certain token keep all their digits; it returns NaN for a label that is
    no token, where plain PyTorch raises. Raises `ValueError` for labels of another shape.
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(f"stablemax: these do not fit: {describe(logits=logits, labels=labels)}")
    if not uses_triton("stablemax", logits):
        return stablemax_cross_entropy_reference(logits, labels)
    logits, labels = logits.contiguous(), labels.contiguous()
    return _Stablemax.apply(logits, labels) if tracked(logits) else _forward(logits, labels)


def stablemax_cross_entropy_reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`stablemax_cross_entropy` in plain PyTorch, in float64 as the published reference has it.

    Each branch sees only arguments of its own side, so that neither divides by zero in the
    backward pass.
    """
    x = logits.double()
    s = torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x.clamp(min=0) + 1)
    known = labels != IGNORE
    at_label = s.gather(-1, torch.where(known, labels, 0).unsqueeze(-1)).squeeze(-1)
    loss = torch.where(known, torch.log(s.sum(-1)) - torch.log(at_label), 0.0)
    return loss if logits.dtype is torch.float64 else loss.float()


def _forward(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = logits.new_empty(labels.shape, dtype=torch.float32)
    stablemax_forward(logits, labels, loss)
    return loss


class _Stablemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        ctx.save_for_backward(logits, labels)
        return _forward(logits, labels)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, labels = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        stablemax_backward(grad.contiguous(), logits, labels, grad_logits)
        return grad_logits, None


@launcher("(Tensor logits, Tensor labels, Tensor(a!) loss) -> ()")
def stablemax_forward(logits, labels, loss):
    """Fill loss float32 [...]."""
    _launch(_stablemax_forward_kernel, logits, labels, loss)


@launcher("(Tensor grad, Tensor logits, Tensor labels, Tensor(a!) grad_logits) -> ()")
def stablemax_backward(grad, logits, labels, grad_logits):
    """Fill grad_logits from the losses' gradient float32 [...]."""
    _launch(_stablemax_backward_kernel, logits, labels, grad, grad_logits)


def _launch(kernel, logits, labels, *tensors) -> None:
    vocabulary = logits.shape[-1]
    columns = triton.next_power_of_2(vocabulary)
    block = max(1, 1024 // columns)
    launch(
        kernel,
        triton.cdiv(labels.numel(), block),
        logits,
        labels,
        *tensors,
        labels.numel(),
        vocabulary,
        IGNORE=IGNORE,
        BLOCK=block,
        COLUMNS=columns,
        num_warps=4,
    )


@jit
def _load_tokens(logits_ptr, labels_ptr, count, vocabulary, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Token numbers, logits float32 [BLOCK, COLUMNS], s of them, labels, and what exists."""
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)
    inside = (token < count)[:, None] & (column < vocabulary)[None, :]
    at = token[:, None] * vocabulary + column[None, :]
    x = tl.load(logits_ptr + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.where(x < 0, 1 / (1 - tl.minimum(x, 0.0)), tl.maximum(x, 0.0) + 1)
    label = tl.load(labels_ptr + token, mask=token < count, other=0)
    return token, at, inside, x, tl.where(inside, s, 0.0), label, label[:, None] == column[None, :]


@jit
def _stablemax_forward_kernel(
    logits_ptr,
    labels_ptr,
    loss_ptr,
    count,
    vocabulary,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token, _, _, _, s, label, is_label = _load_tokens(logits_ptr, labels_ptr, count, vocabulary, BLOCK, COLUMNS)
    at_label = tl.sum(tl.where(is_label, s, 0.0), 1)
    at_label = tl.where(at_label > 0, at_label, float("nan"))  # s is never 0: this label is no token
    others = tl.sum(tl.where(is_label, 0.0, s), 1)
    ratio = others / at_label
    # log(1 + ratio): exact for a small ratio, where 1 + ratio is rounded, by the correction's quotient.
    rounded = 1 + ratio
    near = tl.where(rounded == 1, ratio, tl.log(rounded) * (ratio / tl.where(rounded == 1, 1.0, rounded - 1)))
    far = tl.log(others + at_label) - tl.log(at_label)
    loss = tl.where(ratio < 1, near, far)
    tl.store(loss_ptr + token, tl.where(label == IGNORE, 0.0, loss), mask=token < count)


@jit
def _stablemax_backward_kernel(
    logits_ptr,
    labels_ptr,
    grad_ptr,
    grad_logits_ptr,
    count,
    vocabulary,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token, at, inside, x, s, label, is_label = _load_tokens(logits_ptr, labels_ptr, count, vocabulary, BLOCK, COLUMNS)
    others = tl.sum(tl.where(is_label, 0.0, s), 1)
    total = tl.maximum(others + tl.sum(tl.where(is_label, s, 0.0), 1), 1e-37)  # 0 beyond the last token
    # ds/dx is 1 for x >= 0 and s^2 below; the label's -1/s cancels one factor.
    pull = -(others / total)[:, None] * tl.where(x < 0, s, 1 / tl.where(inside, s, 1.0))
    push = tl.where(x < 0, s * s, 1.0) / total[:, None]
    grad = tl.load(grad_ptr + token, mask=(token < count) & (label != IGNORE), other=0.0)
    grad_x = grad[:, None] * tl.where(is_label, pull, push)
    tl.store(grad_logits_ptr + at, tl.where((label == IGNORE)[:, None], 0.0, grad_x), mask=inside)
