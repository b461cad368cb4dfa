"""Try whether training steps that are recorded as CUDA graphs learn what plain steps learn, in less time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from hrm_offline.model.batching import OfferedBatch
from hrm_offline.model.graphs import WARM_UP, Outcome, compare_outcomes
from hrm_offline.model.halting import Carry

if TYPE_CHECKING:
    from hrm_offline.train.learner import Learner

TRIED_STEPS = 10  # recorded, and as many plain


class Snapshot:
    """A learner's state before some steps on one batch, kept on the CPU: a trial must fit where the steps fit.

    The bucket of the batch must have its carries. Only those rows of the puzzle embeddings are kept that the steps
    can move, since the whole table may be large.
    """

    def __init__(self, learner: Learner, batch: OfferedBatch):
        self.learner = learner
        self.step = learner.step
        self.scaler = learner.scaler.state_dict()
        self.updates = {param: state["step"] for param, state in learner.optimizer.state.items() if state}
        carries = [carry for (bucket, _), carry in learner.carries.items() if bucket == batch.bucket]
        optimizer = learner.optimizer
        moments = [optimizer.state[param][name] for param in self.updates for name in optimizer.moment_shapes(param)]
        averages = learner.ema.average if learner.ema else []
        kept = [*learner.params, *moments, *averages, *(tensor for carry in carries for tensor in _tensors_of(carry))]
        self.kept = [(tensor, _on_cpu(tensor)) for tensor in kept]
        self.table, self.ids = None, None
        if learner.model.config.puzzle_columns and not learner.model.config.is_decoder:  # there they are parameters
            shown = [batch.sequences(slice(0, batch.size)), *(carry.sequences for carry in carries)]
            self.table = learner.model.puzzle_emb.weights
            self.ids = torch.cat([sequences.puzzle_identifiers.flatten() for sequences in shown]).unique()
            self.rows = _on_cpu(self.table[self.ids])

    @torch.no_grad()
    def restore(self) -> None:
        """Put the learner back, in the same memory, since recordings read there."""
        learner = self.learner
        learner.step = self.step
        learner.scaler.load_state_dict(self.scaler)
        for param in list(learner.optimizer.state):
            if param in self.updates:
                learner.optimizer.state[param]["step"] = self.updates[param]
            elif learner.optimizer.state[param]:  # its moments were made since; recordings have them where they are
                learner.optimizer.state[param]["step"] = 0
                for name in learner.optimizer.moment_shapes(param):
                    learner.optimizer.state[param][name].zero_()
        for tensor, value in self.kept:
            tensor.copy_(value)
        if self.table is not None:
            self.table[self.ids] = self.rows.to(self.table)

    def learned(self) -> tuple[torch.Tensor, ...]:
        """Return copies of the weights, their last gradients, and the embeddings, on the CPU."""
        gradients = [param.grad for param in self.learner.params if param.grad is not None]
        rows = [] if self.table is None else [self.table[self.ids]]
        return tuple(_on_cpu(tensor) for tensor in (*self.learner.params, *gradients, *rows))


def try_recording(learner: Learner, batch: OfferedBatch, start: Snapshot) -> tuple[bool, str]:
    """Take steps on a batch from one state, plain and recorded. Return whether to record from now on, and why.

    The learner is left somewhere on the way; `start` knows the way back. Raises what a step raises.
    """
    recorder = learner.recorder

    def take(steps: int, recorded: bool) -> Outcome:
        start.restore()
        recorder.on = recorded
        losses = []

        def run() -> None:
            for turn in range(steps):
                parts = learner.take_step(_turned(batch, turn))
                losses.append(sum(part.metrics["loss"] for part in parts))  # a new tensor, which no replay overwrites

        seconds = recorder.choice.cuda.seconds(run)
        return Outcome(seconds, (torch.stack(losses).cpu(), *start.learned()))

    plain = take(TRIED_STEPS, recorded=False)
    take(WARM_UP + 1, recorded=True)
    if not recorder.on:
        return False, recorder.choice.reason
    return compare_outcomes(plain, take(TRIED_STEPS, recorded=True), lambda: take(TRIED_STEPS, recorded=False))


def _turned(batch: OfferedBatch, turn: int) -> OfferedBatch:
    """Return the batch with its sequences changed, so that a recording with old inputs is found out."""
    return dataclasses.replace(batch, sequences=lambda part: batch.sequences(part).turned(turn))


def _tensors_of(carry: Carry) -> list[torch.Tensor]:
    sequences = [tensor for tensor in vars(carry.sequences).values() if tensor is not None]
    return [carry.z_H, carry.z_L, carry.steps, carry.halted, *sequences]


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
