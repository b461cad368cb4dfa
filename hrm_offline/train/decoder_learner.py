"""One training step of a decoder: the mean loss of the output tokens of a batch of packed sequences."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from hrm_offline.config import Recipe
from hrm_offline.model.batching import OfferedBatch, to_device
from hrm_offline.model.graphs import Choice
from hrm_offline.model.network import Network
from hrm_offline.model.pairs import PackedPairs
from hrm_offline.train.distributed import World
from hrm_offline.train.learner import Learner, Part

_DROPOUT = 2  # keeps the random numbers of dropout apart from those of the data and of exploration


def new_learner(
    network: Network,
    recipe: Recipe,
    total_steps: int,
    seed: int,
    world: World | None = None,
    graphs: Choice | None = None,
) -> Learner:
    """Return the learner that suits the kind of network. `graphs` says whether its steps may be recorded.

    A decoder's steps are not: each batch has another shape.
    """
    if network.config.is_decoder:
        if graphs is not None and graphs.serves is None:
            graphs.decide(False, "each batch of a decoder has another shape")
        return DecoderLearner(network, recipe, total_steps, seed, world, Choice.of("no", network.device))
    return Learner(network, recipe, total_steps, seed, world, graphs)


class DecoderLearner(Learner):
    """Learns a decoder. No state is carried from step to step."""

    def _learn_part(self, key: tuple[int, int], batch: OfferedBatch, share: slice, min_steps: torch.Tensor) -> Part:
        """Compute some sequences of a global batch, forward and backward. Adds to the gradients."""
        if share.start == share.stop:
            return self._nothing(batch.size)
        pairs = batch.sequences(share)  # N tokens
        where = (
            torch.arange(len(pairs.tokens), device=self.model.device) if self.recipe.loss_on_input else pairs.answers
        )
        if self.recipe.dropout:
            torch.manual_seed(int(np.random.default_rng([self.seed, self.step, *key, _DROPOUT]).integers(2**63)))
        logits = self.model(pairs, where, self.recipe.dropout)  # [M, vocabulary]
        losses = F.cross_entropy(logits.float(), pairs.targets[where], reduction="none")  # [M]
        # With the input, the loss is still counted per token of the output, so that the rates mean the same.
        self.scaler.scale(losses.sum() / batch.answer_tokens).backward()
        metrics = self._metrics(pairs, logits.detach(), losses.detach(), batch)
        return Part(metrics, None, pairs.identifiers, None, batch.size)

    def _metrics(self, pairs: PackedPairs, logits, losses, batch: OfferedBatch) -> dict[str, torch.Tensor]:
        """Return sums over sequences. `lm_loss` is the mean over all tokens of the batch, once per sequence."""
        if self.recipe.loss_on_input:
            logits, losses = logits[pairs.answers], losses[pairs.answers]
        right = (logits.argmax(-1) == pairs.targets[pairs.answers]).float()  # [M]
        owners = pairs.owners[pairs.answers]
        by_sequence = torch.zeros(len(pairs), device=right.device).index_add(0, owners, right)  # [B]
        counts = to_device(torch.from_numpy(pairs.counts), right.device)
        loss = losses.sum() * (batch.size / batch.answer_tokens)
        return {
            "count": torch.full((), len(pairs), device=right.device),
            "accuracy": (by_sequence / counts).sum(),
            "exact_accuracy": (by_sequence == counts).sum(),
            "lm_loss": loss,
            "loss": loss,
        }

    def _nothing(self, batch_size: int) -> Part:
        """Return the part of a process that has no sequence of a batch; it sums gradients with the others."""
        for param in self.params:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        zero = torch.zeros((), device=self.model.device)
        names = ("count", "accuracy", "exact_accuracy", "lm_loss", "loss")
        return Part(dict.fromkeys(names, zero), None, torch.empty(0, dtype=torch.int64), None, batch_size)

    def _update(self, parts: list[Part]) -> None:
        if not self.embeddings_only:
            super()._update(parts)
            return
        # Here the embeddings are parameters too. All other parameters sit out.
        for name, param in self.model.named_parameters():
            if not name.startswith("puzzle_emb."):
                param.grad = None
        self.embeddings_only = False
        try:
            super()._update(parts)
        finally:
            self.embeddings_only = True
