"""Test the count of floating-point operations against PyTorch's own."""

import dataclasses

import pytest
from networks import ARCHITECTURES, sequences
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import PRESETS
from tools.support.flop import outer_step_flop, training_flop

SMALL = PRESETS["hrm-132k"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_outer_step_and_its_backward_pass_are_counted_as_pytorch_does(architecture):
    """Compare with PyTorch, which also counts the output heads: less than a hundredth of this network."""
    config = dataclasses.replace(ARCHITECTURES[architecture], hidden_size=128, puzzle_emb_ndim=128)
    model, batch = RecursiveModel(config, 1), sequences(1, 36)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    # Attention as two matrix products: PyTorch does not count its fused kernel for CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(*model.initial_states(1, (6, 6)), batch.inputs, vectors, (6, 6))[2]
        forward = counter.get_total_flops()
        output.logits.sum().backward()
    assert outer_step_flop(config, 36) == pytest.approx(forward, rel=0.01)
    assert training_flop(config, 36) == pytest.approx(counter.get_total_flops(), rel=0.01)
