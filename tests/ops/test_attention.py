"""Test attention's kernels against their plain reference: outputs and gradients, ragged and large inputs."""

import math

import pytest
import torch
from kernels import DEVICE, DTYPES, TOLERANCE, check, difference, normal

from hrm_offline.ops.attention import attention, attention_backward, attention_forward, attention_reference
from hrm_offline.ops.dispatch import VARIANTS, forced, override
from hrm_offline.ops.rope import rope_cos_sin

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def cos_sin_for(tokens: int, head_dim: int, dtype: torch.dtype):
    angle_dtype = torch.float32 if dtype is torch.float32 else torch.float16
    return rope_cos_sin("rope-1d", (1, tokens), 0, tokens, head_dim, 100.0, DEVICE, angle_dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "head_dim", "rotate"),
    [
        (1, 1, 1, 16, True),
        (2, 63, 2, 32, True),
        (2, 130, 1, 64, True),
        (2, 17, 3, 16, False),
    ],
)
def test_attention(dtype, batch, tokens, heads, head_dim, rotate):
    qkv = normal(batch, tokens, 3 * heads * head_dim, dtype=dtype)
    cos_sin = cos_sin_for(tokens, head_dim, dtype) if rotate else None
    check(
        lambda x: attention(x, heads, cos_sin),
        lambda x: attention_reference(x, heads, cos_sin),
        [qkv],
    )


def test_attention_of_a_full_canvas():
    """In the interpreter 901 tokens take ten seconds, and 321 fill several blocks of either size too."""
    tokens = 901 if DEVICE.type == "cuda" else 321
    qkv, cos_sin = normal(1, tokens, 3 * 16, dtype=torch.bfloat16), cos_sin_for(tokens, 16, torch.bfloat16)
    check(lambda x: attention(x, 1, cos_sin), lambda x: attention_reference(x, 1, cos_sin), [qkv], repeat=False)


@pytest.mark.parametrize("variant", VARIANTS["attention"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant_gives_the_same(dtype, variant):
    qkv, cos_sin = normal(2, 65, 3 * 32, dtype=dtype), cos_sin_for(65, 16, dtype)
    lengths = torch.tensor([40, 65], device=DEVICE)
    with forced("attention", True, variant):
        check(lambda x: attention(x, 2, cos_sin, lengths), lambda x: attention_reference(x, 2, cos_sin, lengths), [qkv])


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_of_ragged_sequences_on_their_own_canvases(dtype):
    lengths = torch.tensor([5, 0, 300, 64, 1], device=DEVICE)  # 300 is more than there are
    qkv = normal(5, 131, 3 * 16, dtype=dtype)
    cos_sin = torch.stack([cos_sin_for(131 + i, 16, dtype)[i:] for i in range(5)])
    out, grad = check(
        lambda x: attention(x, 1, cos_sin, lengths),
        lambda x: attention_reference(x, 1, cos_sin, lengths),
        [qkv],
        repeat=False,  # other tests repeat, and the interpreter takes seconds here
    )
    beyond = torch.arange(131, device=DEVICE) >= lengths[:, None]
    assert (out[beyond] == 0).all()
    assert (grad[beyond] == 0).all()
    with override("triton"):  # a sequence's answer does not depend on the others or on what follows it
        alone = attention(qkv[3:4, :64], 1, cos_sin[3:4, :64])
    assert difference(out[3:4, :64], alone) < TOLERANCE[dtype]


def test_attention_neither_reads_nor_writes_beyond_a_sequences_end():
    lengths = torch.tensor([5, 0, 70], dtype=torch.int32, device=DEVICE)
    exists = torch.arange(81, device=DEVICE) < lengths[:, None]
    cos_sin = cos_sin_for(81, 16, torch.float32)
    qkv, grad = normal(3, 81, 48, dtype=torch.float32), normal(3, 81, 16, dtype=torch.float32)
    for tensor in (qkv, grad):
        tensor[~exists] = math.nan
    out, grad_qkv = torch.full((3, 81, 16), math.nan, device=DEVICE), torch.full((3, 81, 48), math.nan, device=DEVICE)
    lse, delta = (torch.full((3, 1, 81), math.nan, device=DEVICE) for _ in range(2))
    attention_forward(qkv, cos_sin, lengths, 1, out, lse)
    attention_backward(grad, qkv, cos_sin, lengths, 1, out, lse, delta, grad_qkv)
    for tensor, written in ((out, exists), (lse[:, 0], exists), (delta[:, 0], exists), (grad_qkv, exists)):
        assert tensor[written].isfinite().all()
        assert tensor[~written].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [30.0, -30.0])
def test_attention_of_large_scores(dtype, scale):
    """Test scores near +-1,000, where float32 has four digits left behind the decimal point.

    A softmax that does not subtract the maximum overflows here, and so does exp2 of keys that do not exist.
    """
    qkv = normal(1, 70, 3 * 16, dtype=dtype)
    qkv[..., :16] *= scale
    qkv[..., 16:32] = qkv[..., :16]
    if scale < 0:
        qkv[..., 16:32] *= -1
    check(
        lambda x: attention(x, 1),
        lambda x: attention_reference(x, 1),
        [qkv],
        tolerance=5e-4 if dtype is torch.float32 else 2e-2,
    )
