"""Cross-entropy of tokens with stablemax in place of softmax (Prieto et al. 2025, arXiv 2501.04697, section 4.1)."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from hrm_offline.common.tokens import IGNORE
from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import describe, jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


# --- public function ---


def stablemax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -log(s(x_label) / sum of s(x)) per token, with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below.

    logits [..., vocabulary], labels int64 [...] -> float32 [...], 0 where the label is IGNORE.
    The kernel computes in float32. It keeps the label's s(x) apart from the sum of the others, so that the loss and the
    gradient of a nearly certain token keep all their digits. For a label that is no token the kernel returns NaN, where
    plain PyTorch raises. Raises `ValueError` for labels of another shape.
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(f"stablemax_cross_entropy: these do not fit: {describe(logits=logits, labels=labels)}")
    if not uses_triton("stablemax_cross_entropy", logits):
        return stablemax_cross_entropy_reference(logits, labels)
    logits, labels = logits.contiguous(), labels.contiguous()
    return _StablemaxCrossEntropy.apply(logits, labels) if tracked(logits) else _forward(logits, labels)


# --- plain PyTorch twin ---


def stablemax_cross_entropy_reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute `stablemax_cross_entropy` in plain PyTorch, in float64 as the published HRM code does."""
    x = logits.double()  # [..., vocabulary]
    # Each branch sees only arguments of its own side. Otherwise the branch that is not taken could divide by zero,
    # and the NaN would reach the gradient.
    s_below, s_above = 1 / (1 - x.clamp(max=0)), x.clamp(min=0) + 1
    s = torch.where(x < 0, s_below, s_above)
    known = labels != IGNORE
    label = torch.where(known, labels, 0).unsqueeze(-1)  # IGNORE is no index
    s_label = s.gather(-1, label).squeeze(-1)
    loss = torch.where(known, torch.log(s.sum(-1)) - torch.log(s_label), 0.0)
    return loss if logits.dtype is torch.float64 else loss.float()


# --- autograd function ---


class _StablemaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        ctx.save_for_backward(logits, labels)
        return _forward(logits, labels)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, labels = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        stablemax_cross_entropy_backward(grad.contiguous(), logits, labels, grad_logits)
        return grad_logits, None


def _forward(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = logits.new_empty(labels.shape, dtype=torch.float32)
    stablemax_cross_entropy_forward(logits, labels, loss)
    return loss


# --- launchers ---


@launcher("(Tensor logits, Tensor labels, Tensor(a!) loss) -> ()")
def stablemax_cross_entropy_forward(logits, labels, loss):
    """Fill `loss` float32 [...]."""
    _launch(_stablemax_cross_entropy_forward_kernel, logits, labels, loss)


@launcher("(Tensor grad, Tensor logits, Tensor labels, Tensor(a!) grad_logits) -> ()")
def stablemax_cross_entropy_backward(grad, logits, labels, grad_logits):
    """Fill `grad_logits` from `grad` float32 [...], the gradient of the losses."""
    _launch(_stablemax_cross_entropy_backward_kernel, logits, labels, grad, grad_logits)


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


# --- kernels ---


@jit
def _load_tokens(logits_ptr, labels_ptr, count, vocabulary, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Return what both kernels need of BLOCK tokens.

    That is: token numbers, addresses of the logits and which of them exist, logits x in float32 and s(x), labels, and
    which column is the label's.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)
    inside = (token < count)[:, None] & (column < vocabulary)[None, :]
    at = token[:, None] * vocabulary + column[None, :]
    x = tl.load(logits_ptr + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.where(x < 0, 1 / (1 - tl.minimum(x, 0.0)), tl.maximum(x, 0.0) + 1)
    label = tl.load(labels_ptr + token, mask=token < count, other=0)
    return token, at, inside, x, tl.where(inside, s, 0.0), label, label[:, None] == column[None, :]


@jit
def _stablemax_cross_entropy_forward_kernel(
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
    # The loss is log(1 + ratio). For a small ratio the sum loses digits, and the factor ratio / (rounded - 1) makes
    # up for them (Goldberg 1991, "What every computer scientist should know about floating-point", theorem 4).
    rounded = 1 + ratio
    near = tl.where(rounded == 1, ratio, tl.log(rounded) * (ratio / tl.where(rounded == 1, 1.0, rounded - 1)))
    far = tl.log(others + at_label) - tl.log(at_label)
    loss = tl.where(ratio < 1, near, far)
    tl.store(loss_ptr + token, tl.where(label == IGNORE, 0.0, loss), mask=token < count)


@jit
def _stablemax_cross_entropy_backward_kernel(
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
    total = tl.maximum(others + tl.sum(tl.where(is_label, s, 0.0), 1), 1e-37)  # the sum is 0 beyond the last token
    # loss = log(total) - log(s_label), and ds/dx is 1 for x >= 0 and s^2 below.
    # The label's column: (1 / total - 1 / s) ds/dx = -(others / total) (1 / s) ds/dx. Other columns: (1 / total) ds/dx.
    pull = -(others / total)[:, None] * tl.where(x < 0, s, 1 / tl.where(inside, s, 1.0))
    push = tl.where(x < 0, s * s, 1.0) / total[:, None]
    grad = tl.load(grad_ptr + token, mask=(token < count) & (label != IGNORE), other=0.0)
    grad_x = grad[:, None] * tl.where(is_label, pull, push)
    tl.store(grad_logits_ptr + at, tl.where((label == IGNORE)[:, None], 0.0, grad_x), mask=inside)
