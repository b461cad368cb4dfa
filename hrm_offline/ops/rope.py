"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated."""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=128)
@torch.inference_mode(False)  # a cached table serves training too, whoever asks first
def rope_table(
    kind: str,
    canvas: tuple[int, int],
    prefix: int,
    stride: int,
    head_dim: int,
    theta: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """[prefix + rows x cols, head_dim]: for each token of a canvas with tokens in front, head_dim / 2
    cosines and as many sines.

    "rope-1d": token t of the prefix is at position t and cell (r, c) at prefix + r x stride + c;
    with stride the canvas' width these are the positions of the flattened sequence, as published.
    "rope-2d": the first half of the frequencies turns with the row and the second with the column;
    token t of the prefix stands at (t - prefix, t - prefix), off the canvas.
    """
    row = torch.arange(canvas[0], dtype=torch.float32, device=device).repeat_interleave(canvas[1])
    col = torch.arange(canvas[1], dtype=torch.float32, device=device).repeat(canvas[0])
    front = torch.arange(prefix, dtype=torch.float32, device=device)
    if kind == "rope-1d":
        angles = torch.outer(torch.cat([front, prefix + row * stride + col]), _frequencies(head_dim, theta, device))
    else:
        frequencies = _frequencies(head_dim // 2, theta, device)
        angles = torch.cat([torch.outer(torch.cat([front - prefix, axis]), frequencies) for axis in (row, col)], dim=1)
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)


def rope(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate x [B, T, heads, head_dim] by a table [T, head_dim] or one a sequence, [B, T, head_dim].

    Element d turns with element d + head_dim / 2. Computed in float32, returned in x's dtype.
    """
    cos, sin = table.unsqueeze(-2).chunk(2, dim=-1)
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _frequencies(dim: int, theta: float, device: torch.device) -> torch.Tensor:
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim))
