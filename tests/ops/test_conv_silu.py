"""Test the short convolution's kernel against its plain reference: outputs, gradients, odd shapes, what is seen."""

import pytest
import torch
import torch.nn.functional as F
from kernels import DEVICE, DTYPES, TOLERANCE, WIDER, difference, normal, run

from hrm_offline.ops.conv_silu import conv_silu, conv_silu_reference
from hrm_offline.ops.dispatch import override


def inputs(batch: int, tokens: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    weight, bias = normal(width, 2, dtype=torch.float32), normal(width, dtype=torch.float32)
    return [normal(batch, tokens, width, dtype=dtype, scale=2), weight, bias]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "width"), [(1, 1, 40), (3, 21, 130), (2, 131, 16)])
def test_conv_silu(dtype, batch, tokens, width):
    tensors = inputs(batch, tokens, width, dtype)
    grad = normal(batch, tokens, width, dtype=dtype)
    with override("triton"):
        with torch.no_grad():
            alone = conv_silu(*tensors)
        ours, again = (run(conv_silu, tensors, grad) for _ in range(2))
    assert alone.dtype is dtype
    assert torch.equal(ours[0], alone)
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    expected = run(conv_silu_reference, [t.to(WIDER[dtype]) for t in tensors], grad.to(WIDER[dtype]))
    for mine, theirs in zip(ours, expected, strict=True):
        assert difference(mine, theirs) < TOLERANCE[dtype]


def test_the_twin_is_a_causal_depthwise_convolution():
    """Compare with PyTorch's own, padded on both sides and cut to length."""
    torch.manual_seed(0)
    x, weight, bias = inputs(2, 7, 5, torch.float32)
    expected = F.conv1d(x.mT, weight[:, None], bias, padding=1, groups=5)[..., :7].mT
    assert torch.allclose(conv_silu_reference(x, weight, bias), F.silu(expected), atol=1e-6)


@pytest.mark.usefixtures("poisoned_memory")
def test_a_token_sees_itself_and_the_one_before_it_in_its_own_sequence():
    x, weight, bias = inputs(2, 4, 3, torch.float32)
    changed = x.clone()
    changed[0, 3] += 1  # the last token of the first sequence
    changed[1, 1] += 1
    with override("triton"), torch.no_grad():
        moved = (conv_silu(x, weight, bias) != conv_silu(changed, weight, bias)).any(-1)
    assert moved.tolist() == [[False, False, False, True], [False, True, True, False]]


@pytest.mark.usefixtures("poisoned_memory")
def test_what_does_not_fit_is_refused_and_an_empty_batch_is_not():
    x, weight, bias = inputs(2, 4, 3, torch.float32)
    for wrong in ((x[0], weight, bias), (x, weight[:2], bias), (x, weight.half(), bias), (x, weight, bias[:1])):
        with pytest.raises(ValueError, match="conv_silu"):
            conv_silu(*wrong)
    with override("triton"):
        assert conv_silu(torch.empty(0, 4, 3, device=DEVICE), weight, bias).shape == (0, 4, 3)
