"""Test when sequences halt, what takes their place, and the targets of the halting head."""

import dataclasses

import pytest
import torch
from networks import TINY, sequences

from hrm_offline.model.halting import advance_, initial_carry, refill_, training_step
from hrm_offline.model.recursive import RecursiveModel


def filled_carry(model, offered):
    carry = initial_carry(model, offered, (3, 3))
    refill_(model, carry, offered)
    return carry


def test_halted_slots_take_the_offered_sequence_and_the_others_go_on():
    torch.manual_seed(0)
    model = RecursiveModel(TINY, 1)
    first, second = sequences(3, 9, seed=1), sequences(3, 9, seed=2)
    carry = filled_carry(model, first)
    assert torch.equal(carry.sequences.inputs, first.inputs)
    carry.halted.copy_(torch.tensor([False, True, False]))
    carry.steps.copy_(torch.tensor([1, 2, 1]))
    carry.z_H += 1
    before = carry.z_H.clone()
    where = [tensor.data_ptr() for tensor in (carry.z_H, carry.sequences.inputs, carry.steps)]
    refill_(model, carry, second)
    assert torch.equal(carry.sequences.inputs[1], second.inputs[1])
    assert torch.equal(carry.sequences.labels[0], first.labels[0])
    assert carry.steps.tolist() == [1, 0, 1]
    assert torch.equal(carry.z_H[1], model.H_init.expand(10, 32))
    assert torch.equal(carry.z_H[0], before[0])
    # In place: a recorded step finds them again.
    assert where == [tensor.data_ptr() for tensor in (carry.z_H, carry.sequences.inputs, carry.steps)]


@pytest.mark.parametrize("halting", ["q-learning", "halt-only"])
def test_halting_obeys_the_head_the_minimum_and_the_last_step(halting):
    model = RecursiveModel(dataclasses.replace(TINY, halting=halting), 1)
    batch = sequences(3, 9)
    carry = filled_carry(model, batch)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([2.0, -2.0]))  # always wants to halt
    min_steps = torch.tensor([0, 3, 2])
    halted = []
    for _ in range(3):
        step = training_step(model, carry, vectors, min_steps, look_ahead=True)
        advance_(carry, step)
        halted.append(carry.halted.tolist())
    assert halted == [[True, False, False], [True, False, True], [True, True, True]]
    assert (step.continuation is None) == (halting == "halt-only")
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([-2.0, 2.0]))  # never does
    carry = filled_carry(model, batch)
    for expected in (False, False, True):
        advance_(carry, training_step(model, carry, vectors, torch.zeros(3), look_ahead=True))
        assert carry.halted.tolist() == [expected] * 3


def test_the_next_steps_own_pass_gives_the_target_that_looking_ahead_gives():
    """Hold the weights still: the second pass of one step then computes the same as the next step."""
    torch.manual_seed(0)
    model = RecursiveModel(dataclasses.replace(TINY, halt_max_steps=8), 1)
    with torch.no_grad():
        model.q_head.weight.normal_(std=0.3)
    batch = sequences(4, 9)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    carry = filled_carry(model, batch)
    looked = training_step(model, carry, vectors, torch.full((4,), 9), look_ahead=True)
    first = training_step(model, carry, vectors, torch.full((4,), 9), look_ahead=False)
    assert not first.continuation.known.any()  # nothing was predicted before the first step
    advance_(carry, first)
    carry.halted[3] = True
    refill_(model, carry, batch)
    second = training_step(model, carry, vectors, torch.full((4,), 9), look_ahead=False).continuation
    assert second.known.tolist() == [True, True, True, False]
    assert torch.allclose(second.target[:3], looked.continuation.target[:3], atol=1e-6)
    assert torch.allclose(second.predicted[:3], looked.continuation.predicted[:3], atol=1e-6)
    second.predicted.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"q_head.weight", "q_head.bias"}


def test_a_last_step_counts_with_the_value_of_halting():
    torch.manual_seed(0)
    model = RecursiveModel(dataclasses.replace(TINY, halt_max_steps=2), 1)
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([-1.0, 3.0]))
    batch = sequences(2, 9)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    carry = filled_carry(model, batch)
    advance_(carry, training_step(model, carry, vectors, torch.zeros(2), look_ahead=False))
    step = training_step(model, carry, vectors, torch.zeros(2), look_ahead=False)
    assert torch.allclose(step.continuation.target, step.output.q_halt.sigmoid())
