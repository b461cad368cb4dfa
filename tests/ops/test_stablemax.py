"""Test the stablemax cross-entropy: its kernel against the plain reference, and its finite gradient."""

import pytest
import torch
from kernels import DEVICE, DTYPES, TOLERANCE, difference, normal, run

from hrm_offline.common.tokens import IGNORE
from hrm_offline.ops.dispatch import override
from hrm_offline.ops.stablemax import stablemax_cross_entropy, stablemax_cross_entropy_reference


def test_stablemax_gradient_is_finite_at_the_logits_that_break_a_naive_one():
    logits = torch.tensor([[[1.0, 0.0, -1.0, 1e4, -1e4, 1.0]]], requires_grad=True)
    loss = stablemax_cross_entropy(logits, torch.tensor([[4]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    ignored = stablemax_cross_entropy(logits, torch.tensor([[IGNORE]]))
    assert ignored.item() == 0


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 21), (901,)])
def test_stablemax(dtype, shape):
    logits = normal(*shape, 12, dtype=dtype, scale=5)
    labels = torch.randint(0, 12, shape, device=DEVICE)
    if labels.numel() > 1:
        labels.view(-1)[::3] = IGNORE
        logits.view(-1)[:6] = torch.tensor([1.0, 0.0, -1.0, 3e4, -3e4, 1.0]).to(logits)
    with override("triton"):
        ours = run(lambda x: stablemax_cross_entropy(x, labels), [logits], torch.ones(shape, device=DEVICE))
        with torch.no_grad():
            assert torch.equal(stablemax_cross_entropy(logits, labels), ours[0])
    expected = run(
        lambda x: stablemax_cross_entropy_reference(x, labels), [logits.double()], torch.ones(shape, device=DEVICE)
    )
    assert ours[0].dtype is torch.float32
    assert difference(ours[0], expected[0]) < 1e-6
    assert difference(ours[1], expected[1]) < TOLERANCE[dtype]
    assert (ours[0][labels == IGNORE] == 0).all()
    assert (ours[1][labels == IGNORE] == 0).all()


@pytest.mark.usefixtures("poisoned_memory")
def test_stablemax_keeps_the_digits_of_nearly_certain_tokens():
    """Test a label with all but 1e-9 of the probability, where 1 - p is 0 in float32."""
    logits = torch.full((1, 12), -1e5, device=DEVICE)
    logits[0, 3] = 1e5
    label = torch.tensor([3], device=DEVICE)
    with override("triton"):
        loss, grad = run(lambda x: stablemax_cross_entropy(x, label), [logits], torch.ones(1, device=DEVICE))
    s_label, s_other = 1e5 + 1, 1 / (1e5 + 1)
    assert loss.item() == pytest.approx(11 * s_other / s_label, rel=1e-5)
    assert grad[0, 3].item() == pytest.approx(-11 * s_other / s_label**2, rel=1e-5)


@pytest.mark.usefixtures("poisoned_memory")
def test_stablemax_of_a_label_that_is_no_token_is_nan():
    with override("triton"):
        loss = stablemax_cross_entropy(normal(2, 12, dtype=torch.float32), torch.tensor([12, 3], device=DEVICE))
    assert loss.isnan().tolist() == [True, False]
