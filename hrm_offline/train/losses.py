"""The loss of an outer step: tokens plus halting (arXiv 2506.21734, section 2, "loss")."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hrm_offline.common.tokens import IGNORE
from hrm_offline.model.halting import Step
from hrm_offline.ops.stablemax import stablemax_cross_entropy


def softmax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """logits [B, S, V], labels int64 [B, S] -> float32 [B, S], 0 where the label is IGNORE."""
    flat = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)


TOKEN_LOSSES = {"stablemax": stablemax_cross_entropy, "softmax": softmax_cross_entropy}


def outer_step_loss(step: Step, labels: torch.Tensor, loss: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Sum over the batch of (mean token loss + half the halting losses), and summed metrics.

    q_halt learns whether the whole answer is right, q_continue its bootstrapped target. Metrics count
    the sequences that halted and have labels; losses are sums over all. A sequence without labels
    counts as right for halting, as in the reference.
    """
    output = step.output
    with torch.no_grad():
        known = labels != IGNORE
        count = known.sum(-1)
        divisor = count.clamp_min(1)
        right = known & (output.logits.argmax(-1) == labels)
        solved = right.sum(-1) == count
        halted = step.halted & (count > 0)
    lm_loss = (TOKEN_LOSSES[loss](output.logits, labels) / divisor[:, None]).sum()
    q_halt_loss = F.binary_cross_entropy_with_logits(output.q_halt, solved.float(), reduction="sum")
    halting_loss = q_halt_loss
    with torch.no_grad():
        metrics = {
            "count": halted.sum(),
            "accuracy": torch.where(halted, (right.float() / divisor[:, None]).sum(-1), 0).sum(),
            "exact_accuracy": (halted & solved).sum(),
            "q_halt_accuracy": (halted & ((output.q_halt >= 0) == solved)).sum(),
            "steps": torch.where(halted, step.steps, 0).sum(),
            "lm_loss": lm_loss.detach(),
            "q_halt_loss": q_halt_loss.detach(),
        }
    if step.continuation is not None:
        ahead = step.continuation
        q_continue_loss = F.binary_cross_entropy_with_logits(
            ahead.predicted, ahead.target, ahead.known.float(), reduction="sum"
        )
        halting_loss = halting_loss + q_continue_loss
        metrics["q_continue_loss"] = q_continue_loss.detach()
    return lm_loss + 0.5 * halting_loss, metrics
