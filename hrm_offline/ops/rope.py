"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), with halves rotated as in the published HRM code."""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=128)
@torch.inference_mode(False)  # a cached tensor serves training too, whoever asks first
def rope_cos_sin(
    kind: str,
    canvas: tuple[int, int],
    prefix: int,
    stride: int,
    head_dim: int,
    theta: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return the cosines and sines that rotate each token of a canvas with `prefix` tokens in front of it.

    The result is [T, head_dim] with T = prefix + rows x cols: head_dim / 2 cosines, then as many sines.

    "rope-1d": token t of the prefix is at position t, and cell (r, c) at prefix + r x stride + c. With the canvas'
    width as `stride` these are the positions of the flattened sequence, as published.
    "rope-2d": the first half of the frequencies turns with the row, the second with the column. Token t of the prefix
    stands at (t - prefix, t - prefix), off the canvas.
    """
    rows, cols = canvas
    row = torch.arange(rows, dtype=torch.float32, device=device).repeat_interleave(cols)  # [rows x cols]
    col = torch.arange(cols, dtype=torch.float32, device=device).repeat(rows)  # [rows x cols]
    front = torch.arange(prefix, dtype=torch.float32, device=device)
    if kind == "rope-1d":
        position = torch.cat([front, prefix + row * stride + col])  # [T]
        angles = torch.outer(position, _frequencies(head_dim, theta, device))  # [T, head_dim / 2]
    else:
        frequencies = _frequencies(head_dim // 2, theta, device)
        positions = (torch.cat([front - prefix, axis]) for axis in (row, col))  # [T] each
        angles = torch.cat([torch.outer(position, frequencies) for position in positions], dim=1)  # as above
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)


def rope(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [..., heads, head_dim] by `cos_sin` [..., head_dim], which is broadcast.

    Element d turns with element d + head_dim / 2. Computed in float32 (float64 for float64), returned in x's dtype.
    """
    cos, sin = cos_sin.unsqueeze(-2).chunk(2, dim=-1)  # [..., 1, head_dim / 2]
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(x.dtype)


def _frequencies(dim: int, theta: float, device: torch.device) -> torch.Tensor:
    """Return theta^(-2 k / dim) for k = 0 to dim / 2 - 1, in radians per position."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return 1.0 / (theta**exponents)
