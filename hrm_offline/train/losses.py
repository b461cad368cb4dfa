"""Compute the loss of an outer step: tokens plus halting (arXiv 2506.21734, section 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hrm_offline.common.tokens import IGNORE
from hrm_offline.model.halting import Step
from hrm_offline.ops.stablemax_cross_entropy import stablemax_cross_entropy


def softmax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of each token, float32 [B, S], 0 where the label is IGNORE.

    logits [B, S, vocabulary], labels int64 [B, S].
    """
    flat = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)


TOKEN_LOSSES = {"stablemax": stablemax_cross_entropy, "softmax": softmax_cross_entropy}


def outer_step_loss(step: Step, labels: torch.Tensor, loss: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of a batch and its metrics, both summed over sequences.

    A sequence's loss is its mean token loss plus half its halting losses. q_halt learns whether the whole answer is
    right, q_continue its bootstrapped target (see `training_step`). Losses among the metrics are sums over all
    sequences; the other metrics are sums over those that halted and have labels. A sequence without labels counts as
    right for halting, as in the published code.

    labels: int64 [B, S]. loss: a key of `TOKEN_LOSSES`.
    """
    output = step.output
    with torch.no_grad():
        known = labels != IGNORE  # [B, S]
        count = known.sum(-1)  # [B]
        divisor = count.clamp_min(1)  # [B], so that a sequence without labels has loss 0 and not 0 / 0
        right = known & (output.logits.argmax(-1) == labels)  # [B, S]
        solved = right.sum(-1) == count  # [B]
        halted = step.halted & (count > 0)  # [B]
    token_loss = TOKEN_LOSSES[loss](output.logits, labels)  # [B, S]
    lm_loss = (token_loss / divisor[:, None]).sum()
    q_halt_loss = F.binary_cross_entropy_with_logits(output.q_halt, solved.float(), reduction="sum")
    halting_loss = q_halt_loss
    with torch.no_grad():
        accuracy = (right.float() / divisor[:, None]).sum(-1)  # [B]
        metrics = {
            "count": halted.sum(),
            "accuracy": torch.where(halted, accuracy, 0).sum(),
            "exact_accuracy": (halted & solved).sum(),
            "q_halt_accuracy": (halted & ((output.q_halt >= 0) == solved)).sum(),
            "steps": torch.where(halted, step.steps, 0).sum(),
            "lm_loss": lm_loss.detach(),
            "q_halt_loss": q_halt_loss.detach(),
        }
    if step.continuation is not None:
        continuation = step.continuation
        q_continue_loss = F.binary_cross_entropy_with_logits(
            continuation.predicted, continuation.target, continuation.known.float(), reduction="sum"
        )
        halting_loss = halting_loss + q_continue_loss
        metrics["q_continue_loss"] = q_continue_loss.detach()
    return lm_loss + 0.5 * halting_loss, metrics
