"""Add a layer's result to the residual stream, and normalise the sum for the next layer (pre-norm blocks)."""

from __future__ import annotations

import torch

# --- public function ---


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum x + delta and weight x sum / sqrt(mean(sum^2) + eps), both [..., D] in the dtype of `x`.

    `delta` has the shape of `x`; with None the sum is `x` itself. `weight` is float32 [D]. The mean square is computed
    in float32. Raises `ValueError` for shapes that do not fit.
    """
    if weight.shape != x.shape[-1:] or (delta is not None and delta.shape != x.shape):
        given = None if delta is None else tuple(delta.shape)
        raise ValueError(f"x {tuple(x.shape)}, delta {given}, weight {tuple(weight.shape)}: do not fit")
    return add_rms_norm_reference(x, delta, weight, eps)


# --- plain PyTorch twin ---


def add_rms_norm_reference(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `add_rms_norm` in plain PyTorch."""
    total = x if delta is None else x + delta
    if total.dtype in (torch.float32, torch.float64):
        normed = torch.nn.functional.rms_norm(total, weight.shape, weight.to(total.dtype), eps)
    else:
        normed = torch.nn.functional.rms_norm(total.float(), weight.shape, weight, eps).to(x.dtype)
    return total, normed
