"""Muon: moves a matrix by its momentum, made orthogonal (Jordan et al. 2024).

This is the form in which the Universal Reasoning Model (arXiv 2512.14693) was trained for ARC-AGI-2. Each iteration has
coefficients of its own, and a step is as long as one of Adam (Liu et al. 2025, arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hrm_offline.ops.dispatch import run_or_demote, uses_triton
from hrm_offline.ops.launch import describe, jit, launch, launcher, triton
from hrm_offline.ops.newton_schulz import newton_schulz

if triton:
    import triton.language as tl

Tensors = Sequence[torch.Tensor]

_MOMENTUM = 0.95
_LENGTH = 0.2  # root mean square of a step, times lr: that of Adam's
_LEAST_NORM = 1e-7
_COEFFICIENTS = (
    (7.2086, -15.5131, 9.0178),
    (3.9623, -2.5813, 0.4542),
    (3.9466, -2.5765, 0.4544),
    (3.8991, -2.5671, 0.4566),
    (3.7186, -2.5308, 0.4653),
)


# --- public function ---


def muon_(
    params: Tensors, grads: Tensors, momenta: Tensors, *, lr: float, weight_decay: float, rounded: bool = True
) -> None:
    """Update matrices and their momenta in place. Matrices of one shape are made orthogonal together.

        B = 0.95 B + g
        O = orthogonal(g + 0.95 B)          singular values near 1
        W = W (1 - lr weight_decay) - 0.2 lr sqrt(max(rows, columns)) O

    params, grads and momenta: float32 [rows, columns] each. With `rounded`, as published, g + 0.95 B is rounded to
    bfloat16 before it is made orthogonal; all else is computed in float32. Raises `ValueError` where a tensor is no
    matrix, or a gradient or a momentum has not its parameter's shape.
    """
    groups: dict[torch.Size, list[Tensors]] = {}
    for param, grad, momentum in zip(params, grads, momenta, strict=True):
        if param.ndim != 2 or not param.shape == grad.shape == momentum.shape:
            raise ValueError(f"muon: these do not fit: {describe(param=param, grad=grad, momentum=momentum)}")
        groups.setdefault(param.shape, []).append((param, grad, momentum))
    for shape, alike in groups.items():
        smoothed = alike[0][0].new_empty(len(alike), *shape)  # [L, rows, columns]
        for (_, grad, momentum), out in zip(alike, smoothed):
            _smooth(grad, momentum, out, rounded)
        directions = _orthogonal(smoothed)
        for (param, _, _), direction in zip(alike, directions):
            _apply(param, direction, 1 - lr * weight_decay, _step_size(lr, shape))


# --- plain PyTorch twin ---


def muon_reference_(
    param: torch.Tensor,
    grad: torch.Tensor,
    momentum: torch.Tensor,
    *,
    lr: float,
    weight_decay: float,
    rounded: bool = True,
) -> None:
    """Update one matrix as `muon_` does, in plain PyTorch."""
    smoothed = torch.empty_like(param)
    _smooth_plainly(grad, momentum, smoothed, rounded)
    direction = _orthogonal(smoothed[None])[0]
    param.mul_(1 - lr * weight_decay).sub_(direction, alpha=_step_size(lr, param.shape))


def _smooth_plainly(grad: torch.Tensor, momentum: torch.Tensor, out: torch.Tensor, rounded: bool) -> None:
    momentum.mul_(_MOMENTUM).add_(grad)
    ahead = grad + _MOMENTUM * momentum  # Nesterov's
    out.copy_(ahead.bfloat16() if rounded else ahead)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices [L, rows, columns] with their singular vectors and singular values near 1."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(_LEAST_NORM)
    x = newton_schulz(x, _COEFFICIENTS)
    return x.mT if is_tall else x


def _step_size(lr: float, shape: torch.Size) -> float:
    return lr * _LENGTH * math.sqrt(max(shape))


# --- launchers ---


def _smooth(grad: torch.Tensor, momentum: torch.Tensor, out: torch.Tensor, rounded: bool) -> None:
    """Take a gradient into the momentum, and write the momentum after the next gradient alike into `out`."""

    def plain() -> None:
        _smooth_plainly(grad, momentum, out, rounded)

    if uses_triton("muon", momentum, _problem(grad, momentum)):
        run_or_demote(lambda: muon_smooth(grad, momentum, out, rounded), plain)
    else:
        plain()


def _apply(param: torch.Tensor, direction: torch.Tensor, decay: float, step_size: float) -> None:
    """Let a matrix decay, and move it against a direction."""

    def plain() -> None:
        param.mul_(decay).sub_(direction, alpha=step_size)

    if uses_triton("muon", param, _problem(param)):
        run_or_demote(lambda: muon_apply(param, direction.contiguous(), decay, step_size), plain)
    else:
        plain()


def _problem(*tensors: torch.Tensor) -> str | None:
    fits = all(tensor.dtype is torch.float32 and tensor.is_contiguous() for tensor in tensors)
    return None if fits else "tensors are not all float32 and contiguous"


_BLOCK = 1024  # elements that one program updates


@launcher("(Tensor grad, Tensor(a!) momentum, Tensor(b!) out, bool rounded) -> ()")
def muon_smooth(grad, momentum, out, rounded):
    """Set `momentum` to B = 0.95 B + g and `out` to g + 0.95 B, rounded to bfloat16 with `rounded`."""
    count = grad.numel()
    launch(
        _muon_smooth_kernel,
        triton.cdiv(count, _BLOCK),
        *(grad, momentum, out, count, _MOMENTUM),
        ROUNDED=rounded,
        BLOCK=_BLOCK,
        num_warps=4,
    )


@launcher("(Tensor(a!) param, Tensor direction, float decay, float step_size) -> ()")
def muon_apply(param, direction, decay, step_size):
    """Set `param` to decay W - step_size O."""
    count = param.numel()
    launch(
        _muon_apply_kernel,
        triton.cdiv(count, _BLOCK),
        *(param, direction, count, decay, step_size),
        BLOCK=_BLOCK,
        num_warps=4,
    )


# --- kernels ---


@jit
def _to_bfloat16(x):
    """Round float32 numbers to the nearest that bfloat16 has, to even ones in the middle.

    The rounding works on the bits, since chips before 8.0 have no bfloat16.
    """
    bits = x.to(tl.int32, bitcast=True)
    nearest = ((bits + 32767 + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return tl.where(x == x, nearest, x)  # NaN stays NaN


@jit
def _muon_smooth_kernel(grad_ptr, momentum_ptr, out_ptr, count, beta, ROUNDED: tl.constexpr, BLOCK: tl.constexpr):
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    grad = tl.load(grad_ptr + element, mask=inside, other=0.0)
    momentum = beta * tl.load(momentum_ptr + element, mask=inside, other=0.0) + grad
    ahead = grad + beta * momentum
    if ROUNDED:
        ahead = _to_bfloat16(ahead)
    tl.store(momentum_ptr + element, momentum, mask=inside)
    tl.store(out_ptr + element, ahead, mask=inside)


@jit
def _muon_apply_kernel(param_ptr, direction_ptr, count, decay, step_size, BLOCK: tl.constexpr):
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    param = tl.load(param_ptr + element, mask=inside, other=0.0)
    direction = tl.load(direction_ptr + element, mask=inside, other=0.0)
    tl.store(param_ptr + element, decay * param - step_size * direction, mask=inside)
