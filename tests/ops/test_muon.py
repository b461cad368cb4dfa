"""Test Muon's step: its kernel against its twin, shapes in one call, and the rounding to bfloat16."""

import pytest
import torch
from kernels import DEVICE, normal

from hrm_offline.ops.dispatch import override
from hrm_offline.ops.muon import muon_, muon_reference_, muon_smooth

SHAPES = [(12, 20), (24, 10), (16, 16), (12, 20), (2, 33)]


def drawn(scale: float = 1.0) -> list[torch.Tensor]:
    return [normal(*shape, dtype=torch.float32, scale=scale) for shape in SHAPES]


def moved(mode: str, params, grads, momenta, rounded: bool = True):
    """Return the matrices and momenta after a step of all of them together."""
    params, momenta = ([tensor.clone() for tensor in tensors] for tensors in (params, momenta))
    with override(mode):
        muon_(params, grads, momenta, lr=0.02, weight_decay=0.1, rounded=rounded)
    return params, momenta


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("rounded", [True, False])
def test_matrices_of_all_shapes_move_as_the_twin_moves_each(rounded):
    params, grads, momenta = drawn(), drawn(0.01), drawn(0.1)
    found, found_momenta = moved("triton", params, grads, momenta, rounded)
    for i, (param, grad, momentum) in enumerate(zip(params, grads, momenta)):
        muon_reference_(param, grad, momentum, lr=0.02, weight_decay=0.1, rounded=rounded)
        # A gradient that rounds to the other bfloat16 on a GPU moves the direction by more than a rounding.
        tolerance = 1e-3 if rounded and DEVICE.type == "cuda" else 1e-5
        assert torch.allclose(found[i], param, atol=tolerance)
        assert torch.allclose(found_momenta[i], momentum, atol=1e-6)


@pytest.mark.usefixtures("poisoned_memory")
def test_a_step_is_the_same_twice_and_as_long_as_one_of_adam():
    params, grads, momenta = drawn(), drawn(0.01), drawn(0.1)
    once, again = (moved("triton", params, grads, momenta)[0] for _ in range(2))
    for param, first, second in zip(params, once, again):
        assert torch.equal(first, second)
        step = (param * (1 - 0.02 * 0.1) - first) / 0.02
        values = torch.linalg.svdvals(step / (0.2 * max(param.shape) ** 0.5))
        assert bool(((values > 0.3) & (values < 2.0)).all())  # of matrices whose own differ by much more


@pytest.mark.usefixtures("poisoned_memory")
def test_what_is_made_orthogonal_is_rounded_to_the_nearest_bfloat16():
    """Take numbers around a middle between two, an exact middle, and a NaN, which must show."""
    grad = torch.tensor([[1.00390625, 1.00390637, 1.01171875, -1.00390613], [0.0, 1e-30, 3e38, 7.0]], device=DEVICE)
    with override("triton"):
        out, momentum = torch.empty_like(grad), torch.zeros_like(grad)
        muon_smooth(grad, momentum, out, True)
        assert torch.equal(out, (grad + 0.95 * momentum).bfloat16().float())
        grad[1, 0] = float("nan")
        muon_smooth(grad, torch.zeros_like(grad), out, True)
    assert out.isnan().nonzero().tolist() == [[1, 0]]


def test_gradients_of_nothing_and_of_almost_nothing_move_finitely():
    params, momenta = [torch.ones(4, 6), torch.ones(3, 3)], [torch.zeros(4, 6), torch.zeros(3, 3)]
    muon_(params, [torch.zeros(4, 6), torch.full((3, 3), 1e-12)], momenta, lr=0.1, weight_decay=0.0)
    assert torch.equal(params[0], torch.ones(4, 6))
    assert bool(params[1].isfinite().all())


def test_what_is_no_matrix_is_refused():
    for wrong in (torch.ones(3), torch.ones(2, 1, 2)):
        with pytest.raises(ValueError, match="muon"):
            muon_([wrong], [wrong], [wrong], lr=0.1, weight_decay=0.0)
    with pytest.raises(ValueError, match="muon"):
        muon_([torch.ones(2, 3)], [torch.ones(3, 2)], [torch.ones(2, 3)], lr=0.1, weight_decay=0.0)
