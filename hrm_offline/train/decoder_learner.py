"""Take training steps of a decoder. The loss is the mean over the output tokens of a batch of packed sequences."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from hrm_offline.common.tokens import IGNORE
from hrm_offline.config import Recipe
from hrm_offline.model.batching import OfferedBatch, to_device
from hrm_offline.model.graphs import GraphChoice
from hrm_offline.model.network import Network
from hrm_offline.model.pairs import PackedPairs
from hrm_offline.ops.causal_attention import HEAD_DIMS
from hrm_offline.ops.dispatch import decide
from hrm_offline.train.distributed import World
from hrm_offline.train.learner import Learner, Part

_DROPOUT = 2  # keeps the random numbers of dropout apart from those of the data and of exploration


def new_learner(
    network: Network,
    recipe: Recipe,
    total_steps: int,
    seed: int,
    world: World | None = None,
    graphs: GraphChoice | None = None,
) -> Learner:
    """Return the learner that suits the kind of network. `graphs` says whether its steps may be recorded."""
    if not network.config.is_decoder:
        return Learner(network, recipe, total_steps, seed, world, graphs)
    if recipe.dropout or recipe.loss_on_input:
        if graphs is not None and graphs.serves is not False:
            graphs.decide(False, "a decoder's steps with dropout or a loss on the input are not recorded")
        graphs = GraphChoice.of("no", network.device)
    return DecoderLearner(network, recipe, total_steps, seed, world, graphs)


class DecoderLearner(Learner):
    """Learns a decoder. No state is carried from step to step.

    Where the gradients of a step may be recorded, batches are padded, so that many of them have one shape.
    """

    @property
    def pads(self) -> bool:
        """Return whether batches are padded: where steps are recorded, or will be if a trial says so.

        Plain PyTorch's attention computes as many rows per sequence as the longest has, so padding would cost more
        there than launches do.
        """
        if not (self.graphs.serves or self.in_trial or self._awaits_trial()):
            return False
        has_kernel = self.model.config.head_dim in HEAD_DIMS
        return has_kernel and decide("causal_attention", self.model.device, self.model.dtype).triton

    def _has_seen(self, batch: OfferedBatch) -> bool:
        return True  # no state is kept per shape

    def _learn_part(self, key: tuple[int, int], batch: OfferedBatch, share: slice, min_steps: torch.Tensor) -> Part:
        """Compute some sequences of a global batch, forward and backward. Adds to the gradients."""
        if share.start == share.stop:
            return self._nothing()
        if self.recipe.dropout:
            bucket, part = key
            piece = self.world.rank * self.micro_batches + part  # of the global batch, as `World.shares` cuts it
            seeds = [self.seed, self.step, bucket, piece, _DROPOUT]
            torch.manual_seed(int(np.random.default_rng(seeds).integers(2**63)))
        pairs = batch.sequences(share)
        # One copy to the device for both numbers, float32 [] each.
        numbers = torch.tensor([batch.answer_tokens, batch.size / batch.answer_tokens])
        answer_tokens, per_token = to_device(numbers, self.model.device).unbind()
        if self.pads:
            return self._replayed(pairs, answer_tokens, per_token)
        where = None if self.recipe.loss_on_input else pairs.answers
        labels = pairs.targets if where is None else pairs.targets[where]
        return self._add_gradients(pairs, where, labels, self._counts(pairs), answer_tokens, per_token)

    def _replayed(self, pairs: PackedPairs, answer_tokens: torch.Tensor, per_token: torch.Tensor) -> Part:
        """Compute a part by a recording of its padded shape, where there is one. All tokens have logits then."""
        pairs = pairs.padded()
        labels = torch.full_like(pairs.targets, IGNORE).index_copy_(0, pairs.answers, pairs.targets[pairs.answers])

        def compute(tokens, positions, owners, bounds, identifiers, *rest) -> Part:
            # A replay serves other batches of the shape. All that differs between them comes as an argument; the last
            # three columns are those of the recorded batch, and are not read.
            own = (tokens, positions, owners, bounds, pairs.longest, identifiers)
            unread = (pairs.answers, pairs.targets, pairs.counts)
            return self._add_gradients(PackedPairs(*own, *unread), None, *rest)

        columns = (pairs.tokens, pairs.positions, pairs.owners, pairs.bounds, pairs.identifiers)
        rest = (labels, self._counts(pairs), answer_tokens, per_token)
        key = ("gradients", len(pairs.tokens), len(pairs), pairs.longest)
        return self.recorder.run(key, (*columns, *rest), compute)

    def _counts(self, pairs: PackedPairs) -> torch.Tensor:
        """Put the numbers of answers on the device, int64 [B]."""
        return to_device(torch.from_numpy(pairs.counts), self.model.device)

    def _add_gradients(
        self,
        pairs: PackedPairs,
        where: torch.Tensor | None,
        labels: torch.Tensor,
        counts: torch.Tensor,
        answer_tokens: torch.Tensor,
        per_token: torch.Tensor,
    ) -> Part:
        """Add the gradients of the loss of the tokens `where`, int64 [M], or of all tokens where that is None.

        labels int64 [M]: the token after each, or `IGNORE`. counts int64 [B]: the answers of each sequence.
        answer_tokens float32 []: those of the global batch. per_token float32 []: its sequences per such token.
        """
        logits = self.model(pairs, where, self.recipe.dropout)  # [M, vocabulary]
        losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")  # [M]
        # With the input, the loss is still counted per token of the output, so that the rates mean the same.
        self.scaler.scale(losses.sum() / answer_tokens).backward()
        owners = pairs.owners if where is None else pairs.owners[where]
        results = (logits.detach(), losses.detach(), labels, owners)
        if self.recipe.loss_on_input:
            results = (result[pairs.answers] for result in results)
        return Part(_metrics(*results, counts, per_token), None, pairs.identifiers, None)

    def _nothing(self) -> Part:
        """Return the part of a process that has no sequence of a batch; it sums gradients with the others."""
        for param in self.params:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        zero = torch.zeros((), device=self.model.device)
        names = ("count", "accuracy", "exact_accuracy", "lm_loss", "loss")
        return Part(dict.fromkeys(names, zero), None, torch.empty(0, dtype=torch.int64), None)

    def _update(self, parts: list[Part]) -> None:
        if not self.embeddings_only:
            super()._update(parts)
            return
        # Here the embeddings are parameters too. All other parameters sit out, and keep their gradients, since
        # recordings add to these where they are.
        others = [param for name, param in self.model.named_parameters() if not name.startswith("puzzle_emb.")]
        kept = [param.grad for param in others]
        self._set_gradients(others, [None] * len(others))
        self.embeddings_only = False
        try:
            super()._update(parts)
        finally:
            self.embeddings_only = True
            self._set_gradients(others, kept)

    @staticmethod
    def _set_gradients(params: list[torch.nn.Parameter], grads: list[torch.Tensor | None]) -> None:
        for param, grad in zip(params, grads):
            param.grad = grad


def _metrics(
    logits: torch.Tensor,
    losses: torch.Tensor,
    labels: torch.Tensor,
    owners: torch.Tensor,
    counts: torch.Tensor,
    per_token: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return sums over sequences. `lm_loss` is the mean over all tokens of the batch, once per sequence.

    The first four are by token, `counts` is by sequence, and `per_token` as above. Tokens whose label is `IGNORE`
    count as wrong.
    """
    right = (logits.argmax(-1) == labels).float()  # [M]
    by_sequence = torch.zeros(len(counts), device=right.device).index_add(0, owners, right)  # [B]
    loss = losses.sum() * per_token
    return {
        "count": (counts > 0).sum(),
        "accuracy": (by_sequence / counts.clamp_min(1)).sum(),
        "exact_accuracy": ((by_sequence == counts) & (counts > 0)).sum(),
        "lm_loss": loss,
        "loss": loss,
    }
