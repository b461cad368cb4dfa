"""Test a decoding step with a cache: the kernel against its twin, and both against attention without a cache."""

import math

import pytest
import torch
from kernels import DEVICE, DTYPES, TOLERANCE, WIDER, difference, normal

from hrm_offline.ops.cached_attention import cached_attention, cached_attention_reference
from hrm_offline.ops.causal_attention import causal_attention_reference
from hrm_offline.ops.dispatch import override

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def angles(tokens: int, head_dim: int) -> torch.Tensor:
    turn = 6.28 * torch.rand(tokens, head_dim // 2)
    return torch.cat([turn.cos(), turn.sin()], dim=1).to(DEVICE)


def caches(lengths: list[int], heads: int, room: int, head_dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return keys and values that hold NaN where no token is, and where the new token goes."""
    beyond = torch.arange(room, device=DEVICE) >= torch.tensor(lengths, device=DEVICE)[:, None]
    both = [normal(len(lengths), heads, room, head_dim, dtype=dtype) for _ in range(2)]
    return [cache.masked_fill(beyond[:, None, :, None], math.nan) for cache in both]


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("lengths", "heads", "head_dim"),
    [([0], 1, 16), ([0, 1, 2, 63, 64, 65], 1, 64), ([40, 3], 3, 32), ([33, 64], 1, 128)],
)
def test_cached_attention(index_dtype, dtype, lengths, heads, head_dim):
    batch, room = len(lengths), max(lengths) + 2
    qkv, cos_sin = normal(batch, 3 * heads * head_dim, dtype=dtype), angles(batch, head_dim)
    before = caches(lengths, heads, room, head_dim, dtype)
    counts = torch.tensor(lengths, dtype=index_dtype, device=DEVICE)
    keys, values = (cache.clone() for cache in before)
    with override("triton"), torch.inference_mode():
        out = cached_attention(qkv, heads, cos_sin, keys, values, counts)
    wide = [cache.to(WIDER[dtype]) for cache in before]
    expected = cached_attention_reference(qkv.to(WIDER[dtype]), heads, cos_sin, *wide, counts)
    assert out.dtype is dtype
    assert difference(out, expected) < TOLERANCE[dtype]
    new = torch.arange(room, device=DEVICE) == counts[:, None]  # [B, room]
    for ours, old, theirs in zip((keys, values), before, wide):
        ours, old, theirs = (cache.transpose(1, 2) for cache in (ours, old, theirs))  # [B, room, heads, head_dim]
        assert difference(ours[new], theirs[new]) < TOLERANCE[dtype]
        assert torch.equal(ours[~new].nan_to_num(7), old[~new].nan_to_num(7))  # nothing else is written


@pytest.mark.parametrize("mode", ["triton", "reference"])
def test_decoding_step_by_step_equals_attention_without_a_cache(mode):
    lengths, heads, head_dim = [5, 0, 3, 6], 2, 16
    bounds = [0, 5, 5, 8, 14]
    qkv, cos_sin = normal(14, 96, dtype=torch.float32), angles(14, head_dim)
    whole = causal_attention_reference(qkv, heads, cos_sin, torch.tensor(bounds, dtype=torch.int32, device=DEVICE), 6)
    keys, values = caches([0] * 4, heads, 6, head_dim, torch.float32)
    stepped = torch.full_like(whole, math.nan)
    with override(mode), torch.inference_mode():
        for step in range(6):
            going = [b for b in range(4) if step < lengths[b]]
            tokens = [bounds[b] + step for b in going]
            own = [cache[going] for cache in (keys, values)]
            counts = torch.full((len(going),), step, device=DEVICE)
            stepped[tokens] = cached_attention(qkv[tokens], heads, cos_sin[tokens], *own, counts)
            for cache, changed in zip((keys, values), own):
                cache[going] = changed
    assert difference(stepped, whole) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("mode", ["triton", "reference"])
@pytest.mark.parametrize("junk", [3.0, math.inf, math.nan])
def test_what_lies_beyond_the_length_is_not_seen(mode, junk):
    lengths = torch.tensor([2, 7], device=DEVICE)
    qkv, cos_sin = normal(2, 48, dtype=torch.float32), angles(2, 16)
    clean = [cache.nan_to_num(0) for cache in caches([2, 7], 1, 9, 16, torch.float32)]
    spoiled = [cache.clone() for cache in clean]
    for cache in spoiled:
        cache[0, :, 3:], cache[1, :, 8:] = junk, junk
    with override(mode), torch.inference_mode():
        expected, ours = (cached_attention(qkv, 1, cos_sin, *pair, lengths) for pair in (clean, spoiled))
    assert torch.equal(ours, expected)


def test_no_sequences_and_caches_that_are_not_contiguous():
    empty = [torch.empty(0, 1, 4, 16, device=DEVICE) for _ in range(2)]
    for mode in ("triton", "reference"):
        with override(mode):
            out = cached_attention(
                *(torch.empty(0, 48, device=DEVICE), 1, torch.empty(0, 16, device=DEVICE)),
                *(*empty, torch.empty(0, dtype=torch.int64, device=DEVICE)),
            )
        assert out.shape == (0, 16)
    strided, lengths = torch.zeros(2, 4, 2, 16).transpose(1, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be contiguous"):
        cached_attention(torch.zeros(2, 96), 2, torch.zeros(2, 16), strided, strided, lengths)
