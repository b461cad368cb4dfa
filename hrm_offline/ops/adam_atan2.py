"""AdamATan2: Adam without an epsilon (Everett et al. 2024, arXiv 2407.05872, section 4.3)."""

from __future__ import annotations

import math

import torch


def adam_atan2_(param: torch.Tensor, grad: torch.Tensor, m: torch.Tensor, v: torch.Tensor, *, step: int,
                lr: float, beta1: float, beta2: float, weight_decay: float) -> None:
    """One update in place; `step` counts from 1, m and v are the two moments.

    As the reference's compiled extension has it: the first moment's bias is corrected through
    the step size, outside the arc tangent.
    """
    param.mul_(1 - lr * weight_decay)
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = v.sqrt().div_(math.sqrt(1 - beta2**step))
    param.add_(torch.atan2(m, root), alpha=-lr / (1 - beta1**step))
