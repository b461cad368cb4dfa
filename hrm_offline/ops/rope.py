"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated."""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=128)
@torch.inference_mode(False)  # cached tables serve training too, whoever asks first
def rope_tables(kind: str, canvas: tuple[int, int], prefix: int, stride: int, head_dim: int, theta: float,
                device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [prefix + rows x cols, head_dim], float32, of a canvas with tokens in front.

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
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [B, S, heads, head_dim] by tables [S, head_dim], in float32; returns x's dtype."""
    cos, sin = cos[:, None], sin[:, None]
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def _frequencies(dim: int, theta: float, device: torch.device) -> torch.Tensor:
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim))
