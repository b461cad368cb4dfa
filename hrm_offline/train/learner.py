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
class StepResult:
    """What a step computed: summed metrics (with the summed `loss`), the network's output, the
    target of q_continue, and the puzzle vectors with their gradients."""

    metrics: dict[str, torch.Tensor]
    output: Output
    target_q_continue: torch.Tensor | None
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
        self.carries: dict[int, Carry] = {}

    def learn(self, batch: Batch) -> StepResult:
        """One outer step and one optimiser step on this process' share of a global batch.

        Metrics are those of `outer_step_loss`, summed over the share. Gradients of the network
        stay on its parameters until the next step.
        """
        self.step += 1
        size = len(batch.inputs)
        share = self.world.share(size)
        offered = to_examples(batch.rows(share), self.model.device)
        if batch.bucket not in self.carries:
            self.carries[batch.bucket] = initial_carry(self.model, offered, batch.canvas)
        carry = refill(self.model, self.carries[batch.bucket], offered)
        vectors = self.model.puzzle_vectors(carry.examples.puzzle_identifiers)
        if vectors is not None:
            vectors.requires_grad_()
        min_steps = self._min_halt_steps(size)[share].to(self.model.device)

        carry, output, target = training_step(self.model, carry, vectors, min_steps)
        loss, metrics = outer_step_loss(carry, output, target, self.recipe.loss)
        self.optimizer.zero_grad()
        self.scaler.scale(loss / size).backward()
        self._update(carry.examples.puzzle_identifiers, vectors, size)
        self.carries[batch.bucket] = carry
        return StepResult(metrics | {"loss": loss.detach()}, output, target, vectors)

    def _update(self, identifiers: torch.Tensor, vectors: torch.Tensor | None, size: int) -> None:
        factor = lr_factor(self.recipe, self.step, self.total_steps)
        if vectors is not None:
            ids, grads = self.world.gather_rows(identifiers.flatten(), vectors.grad.flatten(0, 1), size)
            self._update_embeddings(ids, grads, self.recipe.puzzle_emb_lr * factor)
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


def to_examples(batch: Batch, device: torch.device) -> Examples:
    """A numpy batch as tensors on the device, every field int64 but the tokens, which are int32."""
    return Examples(
        torch.from_numpy(batch.inputs.astype(np.int32)).to(device),
        torch.from_numpy(batch.labels.astype(np.int64)).to(device),
        torch.from_numpy(batch.puzzle_identifiers.astype(np.int64)).to(device),
    )
