"""The outer loop: states that are carried from step to step, and sequences that halt and are replaced.

A training batch is a set of slots, each with a sequence. A slot whose sequence halted takes the next sequence offered;
the other slots keep theirs and go on from their states. This is deep supervision with adaptive computation time
(arXiv 2506.21734, section 2).

In shapes, B is slots or sequences, S cells of a canvas, T all tokens of a sequence, D `hidden_size`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hrm_offline.common.tokens import Canvas
from hrm_offline.model.recursive import Output, RecursiveModel


@dataclass
class Sequences:
    """A batch on the model's device."""

    inputs: torch.Tensor  # tokens int32 [B, canvases x S]
    labels: torch.Tensor | None  # int64 [B, S]; None where no answer is known
    puzzle_identifiers: torch.Tensor  # int64 [B, ids], rows of the puzzle embedding table
    cells: torch.Tensor | None = None  # int32 [B], how many cells of the input's canvas exist; None: all of them

    def rows(self, part: slice | torch.Tensor) -> Sequences:
        """Return some of the sequences, by slice or index."""
        return Sequences(*(None if tensor is None else tensor[part] for tensor in vars(self).values()))

    def turned(self, turn: int) -> Sequences:
        """Return the same sequences in other rows, one number of rows further for each `turn`."""
        return Sequences(*(None if tensor is None else tensor.roll(turn, 0) for tensor in vars(self).values()))


@dataclass
class Carry:
    """The slots of a batch between outer steps."""

    canvas: Canvas
    z_H: torch.Tensor  # [B, T, D]
    z_L: torch.Tensor  # [B, T, D]; [B, 0, D] where the network has no L
    steps: torch.Tensor  # int32 [B], outer steps that each sequence has taken
    halted: torch.Tensor  # bool [B]
    sequences: Sequences  # in the slots


@dataclass
class Continuation:
    """What q_continue has to learn at a step."""

    predicted: torch.Tensor  # [B], its logits
    target: torch.Tensor  # [B], 0 to 1
    known: torch.Tensor  # bool [B], whether a sequence has a target


@dataclass
class Step:
    """The result of an outer step. States, `steps` and `halted` are as in `Carry`."""

    z_H: torch.Tensor
    z_L: torch.Tensor
    output: Output
    steps: torch.Tensor
    halted: torch.Tensor
    continuation: Continuation | None  # None where the model does not learn q_continue


def initial_carry(model: RecursiveModel, offered: Sequences, canvas: Canvas) -> Carry:
    """Return slots that have all halted, so that the first step fills them. The carry owns its tensors."""
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
    """Give halted slots the sequences offered in their rows and the initial states, in place."""

    def replace_(old: torch.Tensor, new: torch.Tensor) -> None:
        halted = carry.halted.view(-1, *[1] * (old.ndim - 1))  # [B, 1, ...]
        torch.where(halted, new, old, out=old)

    fresh_H, fresh_L = model.initial_states(len(carry.halted), carry.canvas)
    replace_(carry.z_H, fresh_H)
    replace_(carry.z_L, fresh_L)
    carry.steps.masked_fill_(carry.halted, 0)
    for old, new in zip(vars(carry.sequences).values(), vars(offered).values()):
        if old is not None:
            replace_(old, new)


@torch.no_grad()
def advance_(carry: Carry, step: Step) -> None:
    """Move the slots to where the step left them, in place."""
    for name in ("z_H", "z_L", "steps", "halted"):
        getattr(carry, name).copy_(getattr(step, name))


def training_step(
    model: RecursiveModel, carry: Carry, puzzle_vectors: torch.Tensor | None, min_steps: torch.Tensor, look_ahead: bool
) -> Step:
    """Take one outer step of a refilled carry, with learned halting. The carry stays as it is.

    puzzle_vectors: [B, ids, ndim] (see `RecursiveModel.puzzle_vectors`).
    min_steps: int [B], outer steps before which a sequence must not halt; 0 for sequences that do not explore.

    With Q-learning q_continue learns the best value one step ahead (arXiv 2506.21734, section 2). With `look_ahead`, as
    published, the network runs a second time to see that value. Without `look_ahead`, the values of this step are the
    targets of the q_continue that the step before predicted. These targets are the same numbers one weight update
    later, with two differences: the gradient reaches the halting head alone, and the last step counts with q_halt,
    since a sequence can only halt there.
    """
    config, sequences = model.config, carry.sequences
    # States [B, T, D], logits [B, S, vocabulary].
    z_H, z_L, output = model(carry.z_H, carry.z_L, sequences.inputs, puzzle_vectors, carry.canvas, sequences.cells)
    with torch.no_grad():
        steps = carry.steps + 1  # [B]
        last = steps >= config.halt_max_steps  # [B], sequences that have to halt
        halted = last
        if config.halt_max_steps > 1:
            halted = (last | wants_to_halt(model, output)) & (steps >= min_steps)  # [B]
    continuation = None
    if config.halting == "q-learning" and config.halt_max_steps > 1:
        if look_ahead:
            continuation = _look_ahead(model, carry, z_H, z_L, puzzle_vectors, output, last)
        else:
            continuation = _look_back(model, carry, output, last)
    return Step(z_H, z_L, output, steps, halted, continuation)


def wants_to_halt(model: RecursiveModel, output: Output) -> torch.Tensor:
    """Return whether each sequence would rather halt than go on, bool [B]."""
    # Values are logits. Without Q-learning q_halt alone is learned, and above 0 it says "more likely right than wrong".
    threshold = output.q_continue if model.config.halting == "q-learning" else 0
    return output.q_halt > threshold


@torch.no_grad()
def _best_value(output: Output, last: torch.Tensor) -> torch.Tensor:
    """Return the larger of the two values [B], but q_halt where `last`: there a sequence can only halt."""
    return torch.where(last, output.q_halt, torch.maximum(output.q_halt, output.q_continue))


def _look_ahead(model: RecursiveModel, carry: Carry, z_H, z_L, puzzle_vectors, output: Output, last) -> Continuation:
    """Return this step's q_continue, with the next step's best value as target.

    The next step is computed for that alone.
    """
    with torch.no_grad():
        ahead = model(z_H, z_L, carry.sequences.inputs, puzzle_vectors, carry.canvas, carry.sequences.cells)[2]
        target = torch.sigmoid(_best_value(ahead, last))
    return Continuation(output.q_continue, target, torch.ones_like(last))


def _look_back(model: RecursiveModel, carry: Carry, output: Output, last: torch.Tensor) -> Continuation:
    """Return the q_continue of the step before, with this step's best value as target.

    Sequences that are at their first step have no step before.
    """
    target = torch.sigmoid(_best_value(output, last))
    _, q_continue = model.q_values(carry.z_H)  # the states are detached: only the halting head gets a gradient
    return Continuation(q_continue, target, known=carry.steps > 0)
