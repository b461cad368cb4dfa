"""One training step, shared by pretraining and test-time adaptation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hrm_offline.config import Recipe
from hrm_offline.data.puzzles import Batch
from hrm_offline.model.halting import Carry, Examples, initial_carry, refill, training_step
from hrm_offline.model.hrm import HRM, Output
from hrm_offline.ops.sign_sgd import sparse_sign_sgd_
from hrm_offline.train.distributed import World
from hrm_offline.train.losses import outer_step_loss
from hrm_offline.train.optim import AdamATan2, Ema, lr_factor

_EXPLORATION = 1  # tells the exploration draws from the data's, which share (seed, step)


@dataclass
class Part:
    """What one part of a batch computed: summed metrics (with the summed `loss`), the network's
    output, the target of q_continue, its embedding ids [B, columns] and their vectors, which hold
    the gradients."""

    metrics: dict[str, torch.Tensor]
    output: Output
    target_q_continue: torch.Tensor | None
    identifiers: torch.Tensor
    puzzle_vectors: torch.Tensor | None


class Learner:
    """A model, its optimisers, its averaged weights and the carries of its buckets.

    `total_steps` is what the learning-rate schedule spans; it may be changed while running.
    While `embeddings_only` is set the network stays as it is and only puzzle embeddings learn.
    """

    def __init__(self, model: HRM, recipe: Recipe, total_steps: int, seed: int, world: World | None = None):
        self.model = model
        self.recipe = recipe
        self.total_steps = total_steps
        self.seed = seed
        self.world = world or World()
        self.step = 0
        self.embeddings_only = False
        self.params = list(model.parameters())
        self.optimizer = AdamATan2(self.params, recipe.lr, (recipe.beta1, recipe.beta2), recipe.weight_decay)
        self.ema = Ema(self.params, recipe.ema) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype is torch.float16)
        self.carries: dict[tuple[int, int], Carry] = {}  # by bucket and part

    def learn(self, batch: Batch) -> list[Part]:
        """One outer step and one optimiser step on this process' share of a global batch.

        Gradients of the network stay on its parameters until the next step.
        """
        self.step += 1
        self.optimizer.zero_grad()
        size = len(batch.inputs)
        shares = self.world.shares(size, self.recipe.micro_batches)
        min_steps = self._min_halt_steps(size)
        parts = [self._learn_part((batch.bucket, i), batch.rows(share), min_steps[share], size)
                 for i, share in enumerate(shares)]
        self._update(parts)
        return parts

    def _learn_part(self, key: tuple[int, int], batch: Batch, min_steps: torch.Tensor, size: int) -> Part:
        """Forward and backward of some rows of a global batch of `size`; adds to the gradients."""
        device = self.model.device
        offered = to_examples(batch, device)
        if key not in self.carries:
            self.carries[key] = initial_carry(self.model, offered, batch.canvas)
        carry = refill(self.model, self.carries[key], offered)
        identifiers = carry.examples.puzzle_identifiers
        vectors = self.model.puzzle_vectors(identifiers)
        if vectors is not None:
            vectors.requires_grad_()
        carry, output, target = training_step(self.model, carry, vectors, min_steps.to(device))
        loss, metrics = outer_step_loss(carry, output, target, self.recipe.loss)
        self.scaler.scale(loss / size).backward()
        self.carries[key] = carry
        return Part(metrics | {"loss": loss.detach()}, output, target, identifiers, vectors)

    def _update(self, parts: list[Part]) -> None:
        factor = lr_factor(self.recipe, self.step, self.total_steps)
        if parts[0].puzzle_vectors is not None:
            ids = torch.cat([part.identifiers.flatten() for part in parts])
            grads = torch.cat([part.puzzle_vectors.grad.flatten(0, 1) for part in parts])
            self._update_embeddings(*self.world.gather_rows(ids, grads), self.recipe.puzzle_emb_lr * factor)
        if not self.embeddings_only:
            self.world.sum_gradients_(self.params)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.lr * factor
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.ema:
            self.ema.update(self.step)

    def _update_embeddings(self, ids: torch.Tensor, grads: torch.Tensor, lr: float) -> None:
        # Signs ignore the loss scale. An overflowed row (float16 only) counts as no gradient.
        grads = torch.nan_to_num(grads, nan=0.0, posinf=0.0, neginf=0.0) if self.scaler.is_enabled() else grads
        sparse_sign_sgd_(self.model.puzzle_emb.weights, ids, grads, lr=lr,
                         weight_decay=self.recipe.puzzle_emb_weight_decay)

    def _min_halt_steps(self, size: int) -> torch.Tensor:
        """Exploration: a share of the sequences must take 2 to halt_max_steps outer steps."""
        config = self.model.config
        if config.halt_max_steps == 1 or config.halt_exploration_prob == 0:
            return torch.zeros(size, dtype=torch.int32)
        rng = np.random.default_rng([self.seed, self.step, _EXPLORATION])
        explores = rng.random(size) < config.halt_exploration_prob
        drawn = rng.integers(2, config.halt_max_steps + 1, size=size)
        return torch.from_numpy(np.where(explores, drawn, 0).astype(np.int32))


def sum_metrics(parts: list[Part]) -> dict[str, torch.Tensor]:
    """Metrics of a step's parts, summed."""
    return {name: sum(part.metrics[name] for part in parts) for name in parts[0].metrics}


def to_examples(batch: Batch, device: torch.device) -> Examples:
    """A numpy batch as tensors on the device, every field int64 but the tokens, which are int32."""
    return Examples(
        torch.from_numpy(batch.inputs.astype(np.int32)).to(device),
        torch.from_numpy(batch.labels.astype(np.int64)).to(device),
        torch.from_numpy(batch.puzzle_identifiers.astype(np.int64)).to(device),
    )
