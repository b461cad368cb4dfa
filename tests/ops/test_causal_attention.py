"""Test causal attention over packed sequences: kernels against the twin, the twin against each sequence alone."""

import math

import pytest
import torch
from kernels import DEVICE, DTYPES, TOLERANCE, check, difference, normal

from hrm_offline.ops.causal_attention import (
    causal_attention,
    causal_attention_backward,
    causal_attention_forward,
    causal_attention_reference,
)
from hrm_offline.ops.dispatch import override

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def bounds_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=torch.int32, device=DEVICE)


def angles(tokens: int, head_dim: int) -> torch.Tensor:
    """Return cosines and sines [tokens, head_dim] of random angles: neighbours have unrelated positions."""
    turn = 6.28 * torch.rand(tokens, head_dim // 2)
    return torch.cat([turn.cos(), turn.sin()], dim=1).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("lengths", "heads", "head_dim", "rotate"),
    [
        ([1], 1, 16, True),
        ([0, 63, 2, 0, 1], 2, 32, True),
        ([64, 65], 1, 16, True),
        ([130, 7], 1, 64, False),
        ([20, 3], 2, 128, True),
    ],
)
def test_causal_attention(dtype, lengths, heads, head_dim, rotate):
    qkv, cos_sin = normal(sum(lengths), 3 * heads * head_dim, dtype=dtype), angles(sum(lengths), head_dim)
    sequences = (heads, cos_sin if rotate else None, bounds_of(lengths), max(lengths) + 3)
    check(
        lambda x: causal_attention(x, *sequences),
        lambda x: causal_attention_reference(x, *sequences),
        [qkv],
        repeat=len(lengths) > 2,  # once is enough, and the interpreter is slow
    )


def test_the_twin_is_softmax_over_each_sequence_alone():
    lengths, heads, head_dim = [3, 0, 5, 1], 2, 8
    qkv, cos_sin = normal(9, 48, dtype=torch.float64), angles(9, head_dim).double()
    ours = causal_attention_reference(qkv, heads, cos_sin, bounds_of(lengths), 6)
    cos, sin = (half[:, None] for half in cos_sin.chunk(2, dim=1))
    turned = []
    for part in qkv.view(9, 6, head_dim)[:, :4].split(2, dim=1):  # queries, then keys
        first, second = part.chunk(2, dim=2)
        turned.append(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=2))
    values = qkv.view(9, 6, head_dim)[:, 4:]
    begin = 0
    for length in lengths:
        own = slice(begin, begin + length)
        scores = torch.einsum("qhd,khd->hqk", turned[0][own], turned[1][own]) / head_dim**0.5
        later = torch.ones(length, length, dtype=torch.bool, device=DEVICE).triu(1)
        weights = scores.masked_fill(later, -math.inf).softmax(-1)
        assert difference(ours[own], torch.einsum("hqk,khd->qhd", weights, values[own]).flatten(1)) < 1e-12
        begin += length


@pytest.mark.parametrize("mode", ["triton", "reference"])
def test_packed_sequences_equal_single_ones_and_see_no_others(mode):
    lengths = [33, 0, 20]
    qkv, cos_sin = normal(53, 48, dtype=torch.float32), angles(53, 16)
    grad = normal(53, 16, dtype=torch.float32)

    def learned(own, bounds, longest, numbers):
        leaf = numbers[own].clone().requires_grad_()
        out = causal_attention(leaf, 1, cos_sin[own], bounds, longest)
        out.backward(grad[own])
        return out.detach(), leaf.grad

    with override(mode):
        packed = learned(slice(0, 53), bounds_of(lengths), 33, qkv)
        single = learned(slice(33, 53), bounds_of([20]), 20, qkv)
        poisoned = qkv.clone()
        poisoned[:33] = math.nan
        beside_nan = learned(slice(0, 53), bounds_of(lengths), 33, poisoned)
    for ours, alone, beside in zip(packed, single, beside_nan):
        assert difference(ours[33:], alone) < TOLERANCE[torch.float32]
        assert torch.equal(ours[33:], beside[33:])


@pytest.mark.parametrize("mode", ["triton", "reference"])
def test_a_token_does_not_see_later_ones(mode):
    qkv, bounds = normal(70, 96, dtype=torch.float32), bounds_of([3, 67])
    changed = qkv.clone()
    changed[40:] = normal(30, 96, dtype=torch.float32)
    with override(mode), torch.no_grad():
        before, after = (causal_attention(x, 2, None, bounds, 67) for x in (qkv, changed))
    assert torch.equal(before[:40], after[:40])
    assert ((before - after)[40:].abs().amax(1) > 0).all()


def test_equal_lengths_need_no_padding_and_no_tokens_give_none():
    qkv, cos_sin, bounds = normal(12, 48, dtype=torch.float32), angles(12, 16), bounds_of([4, 4, 4])
    exact, padded = (causal_attention_reference(qkv, 1, cos_sin, bounds, longest) for longest in (4, 9))
    assert difference(exact, padded) < TOLERANCE[torch.float32]
    for mode in ("triton", "reference"):
        with override(mode):
            for bounds, longest in ((bounds_of([]), 0), (bounds_of([0, 0]), 5)):
                nothing = torch.empty(0, 48, device=DEVICE, requires_grad=True)
                out = causal_attention(nothing, 1, cos_sin[:0], bounds, longest)
                out.sum().backward()
                assert (out.shape, nothing.grad.shape) == ((0, 16), (0, 48))


def test_kernels_write_between_the_bounds_alone():
    bounds = torch.tensor([4, 4, 74, 81], dtype=torch.int32, device=DEVICE)
    inside = torch.arange(90, device=DEVICE)
    inside = (inside >= 4) & (inside < 81)
    qkv, grad = normal(90, 48, dtype=torch.float32), normal(90, 16, dtype=torch.float32)
    for tensor in (qkv, grad):
        tensor[~inside] = math.nan
    out, grad_qkv = torch.full((90, 16), math.nan, device=DEVICE), torch.full((90, 48), math.nan, device=DEVICE)
    lse, delta = (torch.full((1, 90), math.nan, device=DEVICE) for _ in range(2))
    causal_attention_forward(qkv, bounds, 1, 70, out, lse)
    causal_attention_backward(grad, qkv, bounds, 1, 70, out, lse, delta, grad_qkv)
    for tensor in (out, lse[0], delta[0], grad_qkv):
        assert tensor[inside].isfinite().all()
        assert tensor[~inside].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [30.0, -30.0])
def test_large_scores(dtype, scale):
    """Test scores near +-1,000: a softmax without the maximum subtracted, or exp2 of an unseen key, overflows."""
    qkv = normal(70, 48, dtype=dtype)
    qkv[:, :16] *= scale
    qkv[:, 16:32] = qkv[:, :16] * math.copysign(1, scale)
    check(
        lambda x: causal_attention(x, 1, None, bounds_of([70]), 70),
        lambda x: causal_attention_reference(x, 1, None, bounds_of([70]), 70),
        [qkv],
        tolerance=5e-4 if dtype is torch.float32 else 2e-2,
    )
