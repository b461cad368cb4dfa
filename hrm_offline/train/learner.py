"""Take one training step, shared by pretraining and test-time adaptation.

In shapes, B is the sequences of one part of a batch, S cells of a canvas, T all tokens of a sequence, D `hidden_size`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from hrm_offline.config import Recipe
from hrm_offline.model.batching import OfferedBatch, to_device
from hrm_offline.model.device import free_cache
from hrm_offline.model.graphs import WARM_UP, GraphChoice, Recorder
from hrm_offline.model.halting import Carry, Sequences, Step, advance_, initial_carry, refill_, training_step
from hrm_offline.model.network import Network
from hrm_offline.ops import dispatch
from hrm_offline.ops.faults import KernelFault, first_line, is_context_lost, is_out_of_memory
from hrm_offline.ops.sign_sgd import sign_sgd_
from hrm_offline.train.distributed import World
from hrm_offline.train.graphs import Snapshot, try_recording
from hrm_offline.train.losses import outer_step_loss
from hrm_offline.train.memory import MemoryPlan
from hrm_offline.train.optim import Ema, MatrixOptimizer, lr_factor, make_optimizer

_MIN_STEPS_AHEAD = 250  # a trial of CUDA graphs takes some 24 steps, which shorter runs do not win back
_MAX_TRIALS = 3
_EXPLORATION = 1  # keeps the random numbers of exploration apart from the data's, which are drawn by (seed, step) too

T = TypeVar("T")


@dataclass
class Part:
    """The results of one part of a batch."""

    metrics: dict[str, torch.Tensor]  # sums over the sequences, the loss among them as "loss"
    step: Step | None  # None for a decoder
    identifiers: torch.Tensor  # int64 [B, ids], rows of the puzzle embedding table
    puzzle_vectors: torch.Tensor | None  # float32 [B, ids, ndim], those rows, with their gradients
    batch_size: int = 0  # sequences of the global batch; needed only with puzzle vectors


class Learner:
    """A model, its optimisers, its averaged weights and the carries of its buckets.

    `total_steps` is the length of the learning-rate schedule. It may be changed while running.
    While `embeddings_only` is set, the network stays as it is and only puzzle embeddings learn.
    `lr_scale` multiplies every learning rate.
    `graphs` says whether steps are recorded as CUDA graphs. Learners of one process share it, so that it is measured
    once; by default the recipe's setting holds. Where `memory` is set, the bytes of batches to come are counted.
    Nothing here waits for the device, except for the loss scaler of float16, which asks it once per step.
    """

    def __init__(
        self,
        model: Network,
        recipe: Recipe,
        total_steps: int,
        seed: int,
        world: World | None = None,
        graphs: GraphChoice | None = None,
    ):
        self.model = model
        self.recipe = recipe
        self.total_steps = total_steps
        self.seed = seed
        self.world = world or World()
        self.step = 0
        self.embeddings_only = False
        self.lr_scale = 1.0
        self.micro_batches = recipe.micro_batches
        self.params = list(model.parameters())
        self.optimizer = make_optimizer(model, recipe)
        self.ema = Ema(self.params, recipe.ema, recipe.ema_rises) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype is torch.float16)
        self.carries: dict[tuple[int, int], Carry] = {}  # by bucket and part
        self.graphs = graphs or GraphChoice.of(recipe.cuda_graphs, model.device)
        self.recorder = Recorder(self.graphs)
        if isinstance(self.optimizer, MatrixOptimizer):
            # A step must not be taken again once its update has begun.
            self.optimizer.record = self.recorder.run_within_memory  # no method of the learner, which would be a cycle
        self.trials = 0  # of CUDA graphs
        self.in_trial = False
        self.memory: MemoryPlan | None = None

    def learn(self, batch: OfferedBatch) -> list[Part]:
        """Take one outer step and one optimiser step on this process' share of a global batch.

        Returns the results of the share's parts. Gradients of the network stay on its parameters until the next step.
        A lone process that runs out of memory computes its batches in twice as many parts from then on, each with
        fresh slots. An operation whose kernel fails is demoted to plain PyTorch, and the gradients are computed again.
        """
        self._make_room(batch)
        if self._may_try_graphs(batch):
            self._try_graphs(batch)
        while (parts := self._or_adjust(self._measured_gradients, batch)) is None:
            pass
        self._update(parts)
        return parts

    def take_step(self, batch: OfferedBatch) -> list[Part]:
        """Take a step as `learn` does, but raise the error where it fails."""
        parts = self._compute_gradients(batch)
        self._update(parts)
        return parts

    def carry_bytes(self, bucket: int | None = None) -> int:
        """Return the bytes of the states in the carries of a bucket, or of all buckets."""
        carries = [carry for (index, _), carry in self.carries.items() if bucket in (None, index)]
        states = [state for carry in carries for state in (carry.z_H, carry.z_L)]
        return sum(state.numel() * state.element_size() for state in states)

    def restart_sequences(self) -> None:
        """Have every slot take a new sequence at the next step, so that the carries hold nothing worth keeping."""
        for carry in self.carries.values():
            carry.halted.fill_(True)

    def _or_adjust(self, compute: Callable[[OfferedBatch], T], batch: OfferedBatch) -> T | None:
        """Return what `compute` returns for a batch, None where it failed and another try may succeed."""
        try:
            return compute(batch)
        except KernelFault as fault:
            dispatch.demote_after(fault)
            adjust = self._after_a_fault
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.world.size > 1 or self.micro_batches >= batch.size:
                raise
            adjust = self._halve_parts
        adjust()  # outside of `except`, which keeps the failed step's tensors alive
        return None

    def _halve_parts(self) -> None:
        """Compute batches in twice as many parts from now on, and give up all slots and recordings."""
        self.micro_batches *= 2
        self.carries.clear()
        self.recorder.clear()
        free_cache(self.model.device)

    def _after_a_fault(self) -> None:
        """Forget recordings with the failed kernel. Parts that were computed already would move their slots twice."""
        self.recorder.clear()
        if self.micro_batches > 1:
            self.restart_sequences()

    def _make_room(self, batch: OfferedBatch) -> None:
        """Compute batches in more parts where those to come would run out of memory. Asked before a bucket is new."""
        plan, seen = self.memory, {bucket for bucket, _ in self.carries}
        if plan is None or not plan.step_bytes or not (plan.is_new or batch.bucket not in seen):
            return
        pending = self.optimizer.pending_bytes()
        while self.micro_batches < batch.size and plan.is_short(self.micro_batches, seen, pending):
            self._halve_parts()
            seen = set()

    def _measured_gradients(self, batch: OfferedBatch) -> list[Part]:
        """Compute a step's gradients, and note the bytes that this took."""
        plan = self.memory
        if plan is None or batch.bucket not in plan.tokens:
            return self._compute_gradients(batch)
        kept = self._kept_bytes()
        before = plan.device.used()
        plan.device.forget_peak()
        parts = self._compute_gradients(batch)
        step = plan.device.peak() - before - (self._kept_bytes() - kept)
        plan.measured(batch.bucket, self.micro_batches, step, self.carry_bytes(batch.bucket))
        return parts

    def _kept_bytes(self) -> int:
        """Return the bytes of what a first step makes and leaves: carries and gradients."""
        return self.carry_bytes() + sum(4 * param.numel() for param in self.params if param.grad is not None)

    def _may_try_graphs(self, batch: OfferedBatch) -> bool:
        """Return whether a trial is due: nothing is decided, the bucket has been seen, and enough steps follow."""
        return self._awaits_trial() and self.step >= WARM_UP and self._has_seen(batch)

    def _awaits_trial(self) -> bool:
        """Return whether a trial decides about recordings later in this run."""
        return (
            self.graphs.serves is None
            and self.world.size == 1  # the processes could decide differently, and wait for each other
            and self.total_steps - self.step >= _MIN_STEPS_AHEAD
        )

    def _has_seen(self, batch: OfferedBatch) -> bool:
        """Return whether a step on a batch of this shape makes nothing that stays."""
        return (batch.bucket, 0) in self.carries

    def _try_graphs(self, batch: OfferedBatch) -> None:
        """Decide whether steps are recorded from now on, and go back to the state before.

        Where a kernel or the memory fails on the way, that is adjusted, and a later step tries again.
        """
        self.trials += 1
        start, self.in_trial = Snapshot(self, batch), True
        try:
            found = self._or_adjust(lambda offered: try_recording(self, offered, start), batch)
        except (RuntimeError, MemoryError) as error:
            if is_context_lost(error):
                raise
            found = False, f"the trial failed: {first_line(error)}"
        finally:
            self.in_trial = False
        start.restore()
        if found is None and self.trials == _MAX_TRIALS:
            found = False, "each trial ran out of memory, or its kernels failed"
        if found is not None:
            self.graphs.decide(*found)
        self.recorder.on = self.graphs.serves is True
        # Plain steps of the trial have freed the gradients that its recordings add to.
        self.recorder.clear()
        free_cache(self.model.device)

    def _compute_gradients(self, batch: OfferedBatch) -> list[Part]:
        """Sum the gradients of this process' share. Nothing but the carries has moved when this fails."""
        # A recorded graph adds to gradients at fixed addresses, so with graphs the gradients stay allocated.
        self.optimizer.zero_grad(set_to_none=not self.recorder.on)
        min_steps = self._min_halt_steps(batch.size)
        shares = self.world.shares(batch.size, self.micro_batches)
        parts = []
        for i, share in enumerate(shares):
            part = self._learn_part((batch.bucket, i), batch, share, min_steps[share])
            parts.append(self._with_kept_metrics(part) if self.recorder.on else part)
        return parts

    @staticmethod
    def _with_kept_metrics(part: Part) -> Part:
        """Return a part whose metrics no later replay overwrites: recordings share memory."""
        kept = torch.stack([value.float() for value in part.metrics.values()])
        return dataclasses.replace(part, metrics=dict(zip(part.metrics, kept)))

    def _learn_part(self, key: tuple[int, int], batch: OfferedBatch, share: slice, min_steps: torch.Tensor) -> Part:
        """Compute some rows of a global batch, forward and backward. Adds to the gradients."""
        offered, min_steps = batch.sequences(share), to_device(min_steps, self.model.device)
        if key not in self.carries:
            self.carries[key] = initial_carry(self.model, offered, batch.canvas)
        carry = self.carries[key]

        def compute(*given: torch.Tensor | None) -> Part:
            return self._forward_backward(carry, Sequences(*given[:-1]), given[-1], batch.size)

        return self.recorder.run(key, (*vars(offered).values(), min_steps), compute)

    def _forward_backward(self, carry: Carry, offered: Sequences, min_steps: torch.Tensor, size: int) -> Part:
        """Refill the slots, take an outer step, and add the gradients of its loss over `size`, the global batch."""
        refill_(self.model, carry, offered)
        identifiers = carry.sequences.puzzle_identifiers  # [B, ids]
        vectors = self.model.puzzle_vectors(identifiers)  # [B, ids, ndim]
        if vectors is not None:
            # The looked-up rows are the leaves: their gradients go to sign-SGD, and the table itself has none.
            vectors.requires_grad_()
        look_ahead = self.recipe.halting_target == "look-ahead"
        step = training_step(self.model, carry, vectors, min_steps, look_ahead)  # states [B, T, D], logits [B, S, V]
        loss, metrics = outer_step_loss(step, carry.sequences.labels, self.recipe.loss)
        self.scaler.scale(loss / size).backward()  # sums over parts and processes make the mean over the global batch
        advance_(carry, step)
        return Part(metrics | {"loss": loss.detach()}, step, identifiers, vectors, size)

    def _update(self, parts: list[Part]) -> None:
        """End a step: move the puzzle embeddings, then the network and its average, by the gradients of its parts."""
        self.step += 1
        factor = self.lr_scale * lr_factor(self.recipe, self.step, self.total_steps)
        if parts[0].puzzle_vectors is not None:
            ids = torch.cat([part.identifiers for part in parts])  # [B, ids] of this process' share
            grads = torch.cat([part.puzzle_vectors.grad for part in parts])  # [B, ids, ndim]
            ids, grads = self.world.gather_sequences(ids, grads, parts[0].batch_size)  # of the global batch
            ids, grads = ids.flatten(), grads.flatten(0, 1)  # [rows], [rows, ndim]
            self._within_memory(lambda: self._update_embeddings(ids, grads, self.recipe.puzzle_emb_lr * factor))
        if not self.embeddings_only:
            self.world.sum_gradients_(self.params)
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            if self.recipe.max_gradient_norm:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.params, self.recipe.max_gradient_norm)
            # A step that runs out of memory half way must not be taken again: the worker goes on from its saved state.
            self._within_memory(self.optimizer.take_memory)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update(self.step)
        elif self.scaler.is_enabled():
            # The network's gradients are not used, but they tell whether the loss scale is right. All processes are to
            # find the same.
            self.world.sum_gradients_(self.params)
            self.scaler.unscale_(self.optimizer)
            self.scaler.update()

    def _within_memory(self, update: Callable[[], object]) -> None:
        """Run what takes all its memory before anything moves. If memory runs out, free the cache and run it again."""
        try:
            update()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_cache(self.model.device)
        update()

    def _update_embeddings(self, ids: torch.Tensor, grads: torch.Tensor, lr: float) -> None:
        # Gradients keep the loss scale, since only their sign counts. Where float16 overflowed they count as 0.
        if self.scaler.is_enabled():
            grads = torch.nan_to_num(grads, nan=0.0, posinf=0.0, neginf=0.0)
        sign_sgd_(self.model.puzzle_emb.weights, ids, grads, lr=lr, weight_decay=self.recipe.puzzle_emb_weight_decay)

    def _min_halt_steps(self, size: int) -> torch.Tensor:
        """Draw the outer steps int32 [size] that each sequence of a global batch must take at least.

        With learned halting a share of the sequences explores: they draw from 2 to `halt_max_steps`, the others have 0
        (arXiv 2506.21734, section 2). Without, all sequences must take `halt_max_steps`.
        """
        config = self.model.config
        if not self.recipe.learned_halting:
            return torch.full((size,), config.halt_max_steps, dtype=torch.int32)
        if config.halt_max_steps == 1 or config.halt_exploration_prob == 0:
            return torch.zeros(size, dtype=torch.int32)
        rng = np.random.default_rng([self.seed, self.step + 1, _EXPLORATION])
        explores = rng.random(size) < config.halt_exploration_prob
        drawn = rng.integers(2, config.halt_max_steps + 1, size=size)
        return torch.from_numpy(np.where(explores, drawn, 0).astype(np.int32))


def sum_metrics(parts: list[Part]) -> dict[str, torch.Tensor]:
    """Return the metrics of a step, summed over its parts."""
    return {name: sum(part.metrics[name] for part in parts) for name in parts[0].metrics}
