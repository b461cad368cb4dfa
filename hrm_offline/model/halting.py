"""The outer loop: states carried from step to step, and sequences that halt and are replaced.

A training batch is a set of slots. A slot whose sequence halted takes the next one offered;
the others keep theirs and go on from their states (deep supervision with adaptive computation
time: arXiv 2506.21734, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hrm_offline.common.tokens import Canvas
from hrm_offline.model.recursive import Output, RecursiveModel


@dataclass
class Sequences:
    """A batch on the model's device: inputs int32 [B, canvases x S] and labels int64 [B, S], puzzle identifiers
    int64 [B, ids], and how many of the input canvas' cells exist for each, int32 [B]. Labels are None where no
    answer is known, `cells` where all exist."""

    inputs: torch.Tensor
    labels: torch.Tensor | None
    puzzle_identifiers: torch.Tensor
    cells: torch.Tensor | None = None

    def rows(self, part: slice | torch.Tensor) -> Sequences:
        """The same for some of the sequences, by slice or index."""
        return Sequences(*(None if tensor is None else tensor[part] for tensor in vars(self).values()))


@dataclass
class Carry:
    """Slots of one batch between outer steps: states [B, T, D] (z_L without a token where there is no L), outer
    steps taken int32 [B], halted bool [B], and the sequences the slots hold."""

    canvas: Canvas
    z_H: torch.Tensor
    z_L: torch.Tensor
    steps: torch.Tensor
    halted: torch.Tensor
    sequences: Sequences


@dataclass
class Continuation:
    """What q_continue has to learn at a step: its value predicted before, the target, and which of the
    sequences have one, each [B]."""

    predicted: torch.Tensor
    target: torch.Tensor
    known: torch.Tensor


@dataclass
class Step:
    """What an outer step came to: new states, output, steps taken and halted as in `Carry`, and the
    continuation, None where the model does not learn it."""

    z_H: torch.Tensor
    z_L: torch.Tensor
    output: Output
    steps: torch.Tensor
    halted: torch.Tensor
    continuation: Continuation | None


def initial_carry(model: RecursiveModel, offered: Sequences, canvas: Canvas) -> Carry:
    """All slots halted: the first step fills them. The tensors are the carry's own."""
    size = len(offered.inputs)
    own = [None if tensor is None else tensor.clone() for tensor in vars(offered).values()]
    return Carry(
        canvas,
        *(state.clone(memory_format=torch.contiguous_format) for state in model.initial_states(size, canvas)),
        steps=torch.zeros(size, dtype=torch.int32, device=model.device),
        halted=torch.ones(size, dtype=torch.bool, device=model.device),
        sequences=Sequences(*own),
    )


@torch.no_grad()
def refill_(model: RecursiveModel, carry: Carry, offered: Sequences) -> None:
    """In place: halted slots take the offered sequence and start from the initial states."""

    def replace_(old: torch.Tensor, new: torch.Tensor) -> None:
        torch.where(carry.halted.view(-1, *[1] * (old.ndim - 1)), new, old, out=old)

    fresh_H, fresh_L = model.initial_states(len(carry.halted), carry.canvas)
    replace_(carry.z_H, fresh_H)
    replace_(carry.z_L, fresh_L)
    carry.steps.masked_fill_(carry.halted, 0)
    for old, new in zip(vars(carry.sequences).values(), vars(offered).values()):
        if old is not None:
            replace_(old, new)


@torch.no_grad()
def advance_(carry: Carry, step: Step) -> None:
    """In place: the slots after the step."""
    for name in ("z_H", "z_L", "steps", "halted"):
        getattr(carry, name).copy_(getattr(step, name))


def training_step(
    model: RecursiveModel, carry: Carry, puzzle_vectors: torch.Tensor | None, min_steps: torch.Tensor, look_ahead: bool
) -> Step:
    """One outer step of a refilled carry, with learned halting; the carry stays as it is.

    min_steps int [B] holds sequences back from halting (exploration; 0 where not). With Q-learning
    q_continue learns the best value one step ahead. With `look_ahead`, as published, the network
    runs a second time to see it. Otherwise this step's values are the target of what the step before
    predicted, for the sequences that went on: the same numbers, one weight update later, except
    that the prediction's gradient reaches the halting head alone and that the last step, which can
    only halt, counts with q_halt.
    """
    config, sequences = model.config, carry.sequences
    z_H, z_L, output = model(carry.z_H, carry.z_L, sequences.inputs, puzzle_vectors, carry.canvas, sequences.cells)
    with torch.no_grad():
        steps = carry.steps + 1
        last = steps >= config.halt_max_steps
        halted = last
        if config.halt_max_steps > 1:
            halted = (last | wants_to_halt(model, output)) & (steps >= min_steps)
    continuation = None
    if config.halting == "q-learning" and config.halt_max_steps > 1:
        if look_ahead:
            continuation = _look_ahead(model, carry, z_H, z_L, puzzle_vectors, output, last)
        else:
            target = torch.sigmoid(_best_value(output, last))
            continuation = Continuation(model.q_values(carry.z_H)[1], target, carry.steps > 0)
    return Step(z_H, z_L, output, steps, halted, continuation)


def wants_to_halt(model: RecursiveModel, output: Output) -> torch.Tensor:
    """Whether each sequence would rather halt than go on, bool [B]."""
    return output.q_halt > (output.q_continue if model.config.halting == "q-learning" else 0)


@torch.no_grad()
def _best_value(output: Output, last: torch.Tensor) -> torch.Tensor:
    return torch.where(last, output.q_halt, torch.maximum(output.q_halt, output.q_continue))


def _look_ahead(model: RecursiveModel, carry: Carry, z_H, z_L, puzzle_vectors, output: Output, last) -> Continuation:
    with torch.no_grad():
        ahead = model(z_H, z_L, carry.sequences.inputs, puzzle_vectors, carry.canvas, carry.sequences.cells)[2]
        target = torch.sigmoid(_best_value(ahead, last))
    return Continuation(output.q_continue, target, torch.ones_like(last))
