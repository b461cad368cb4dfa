"""The gate of a SwiGLU feed-forward layer (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def swiglu_gate(gate_up: torch.Tensor) -> torch.Tensor:
    """[..., 2 x width] -> silu(first half) * second half, [..., width]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
