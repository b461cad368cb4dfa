"""The outer loop: states carried from step to step, and sequences that halt and are replaced.

A training batch is a set of slots. A slot whose sequence halted takes the next example offered;
the others keep theirs and go on from their states (deep supervision with adaptive computation
time: arXiv 2506.21734, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hrm_offline.model.hrm import HRM, Output
from hrm_offline.tokens import Canvas


@dataclass
class Examples:
    """A batch on the model's device: inputs and labels [B, S], puzzle identifiers [B, columns]."""

    inputs: torch.Tensor
    labels: torch.Tensor
    puzzle_identifiers: torch.Tensor


@dataclass
class Carry:
    """Slots of one batch between outer steps: states [B, T, D], outer steps taken int32 [B],
    halted bool [B], and the examples the slots hold."""

    canvas: Canvas
    z_H: torch.Tensor
    z_L: torch.Tensor
    steps: torch.Tensor
    halted: torch.Tensor
    examples: Examples


def initial_carry(model: HRM, examples: Examples, canvas: Canvas) -> Carry:
    """All slots halted: the first step fills them."""
    size = len(examples.inputs)
    return Carry(
        canvas,
        *model.initial_states(size, canvas),
        steps=torch.zeros(size, dtype=torch.int32, device=model.device),
        halted=torch.ones(size, dtype=torch.bool, device=model.device),
        examples=examples,
    )


def refill(model: HRM, carry: Carry, offered: Examples) -> Carry:
    """Halted slots take the offered example and start from the initial states."""
    fresh_H, fresh_L = model.initial_states(len(carry.halted), carry.canvas)
    halted = carry.halted

    def pick(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return torch.where(halted.view(-1, *[1] * (old.ndim - 1)), new, old)

    return Carry(
        carry.canvas,
        pick(fresh_H, carry.z_H),
        pick(fresh_L, carry.z_L),
        pick(torch.zeros_like(carry.steps), carry.steps),
        halted,
        Examples(
            pick(offered.inputs, carry.examples.inputs),
            pick(offered.labels, carry.examples.labels),
            pick(offered.puzzle_identifiers, carry.examples.puzzle_identifiers),
        ),
    )


def training_step(model: HRM, carry: Carry, puzzle_vectors: torch.Tensor | None,
                  min_steps: torch.Tensor) -> tuple[Carry, Output, torch.Tensor | None]:
    """One outer step of a refilled carry, with learned halting.

    min_steps int [B] holds sequences back from halting (exploration; 0 where not). Returns the new
    carry, the output and the target of q_continue (float32 [B], or None where the model has none):
    with Q-learning it is the best value one step ahead, so the network runs a second time.
    """
    config = model.config
    examples = carry.examples
    z_H, z_L, output = model(carry.z_H, carry.z_L, examples.inputs, puzzle_vectors, carry.canvas)
    target = None
    with torch.no_grad():
        steps = carry.steps + 1
        last = steps >= config.halt_max_steps
        halted = last
        if config.halt_max_steps > 1:
            wants_to_halt = output.q_halt > (output.q_continue if config.halting == "q-learning" else 0)
            halted = (last | wants_to_halt) & (steps >= min_steps)
            if config.halting == "q-learning":
                ahead = model(z_H, z_L, examples.inputs, puzzle_vectors, carry.canvas)[2]
                best = torch.where(last, ahead.q_halt, torch.maximum(ahead.q_halt, ahead.q_continue))
                target = torch.sigmoid(best)
    return Carry(carry.canvas, z_H, z_L, steps, halted, examples), output, target
