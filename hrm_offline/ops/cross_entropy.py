"""Token losses: softmax and stablemax cross-entropy, without reduction."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hrm_offline.tokens import IGNORE


def softmax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """logits [B, S, V], labels int64 [B, S] -> float32 [B, S], 0 where the label is IGNORE."""
    flat = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)


def stablemax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log of s(x_label) / sum s(x), with s(x) = x + 1 for x >= 0, else 1 / (1 - x).

    Stablemax: Prieto et al. 2025, arXiv 2501.04697, section 4.1. Computed in float64 as in the
    reference. Each branch sees only arguments of its own side, so that neither divides by zero
    in the backward pass. Shapes as `softmax_cross_entropy`; float64 [B, S].
    """
    x = logits.double()
    s = torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x.clamp(min=0) + 1)
    known = labels != IGNORE
    at_label = s.gather(-1, torch.where(known, labels, 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(known, torch.log(s.sum(-1)) - torch.log(at_label), 0.0)
