"""Every Triton kernel against its plain twin: outputs and gradients, odd shapes, poisoned memory.

On a CPU the kernels run in Triton's interpreter. Memory they are given starts as NaN (PyTorch's
deterministic mode fills it), so what is not written shows.
"""

import math

import pytest
import torch

from hrm_offline.common.tokens import IGNORE
from hrm_offline.ops.adam_atan2 import adam_atan2_
from hrm_offline.ops.attention import attention, attention_backward, attention_forward, attention_reference
from hrm_offline.ops.dispatch import override
from hrm_offline.ops.embedding import embedding, embedding_reference
from hrm_offline.ops.linear_rms_norm import linear_rms_norm, linear_rms_norm_reference
from hrm_offline.ops.linear_swiglu import linear_swiglu, linear_swiglu_reference
from hrm_offline.ops.rms_norm import rms_norm, rms_norm_reference
from hrm_offline.ops.rope import rope_table
from hrm_offline.ops.sign_sgd import sparse_sign_sgd_
from hrm_offline.ops.stablemax import stablemax_cross_entropy, stablemax_cross_entropy_reference
from hrm_offline.ops.swiglu import swiglu, swiglu_reference

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
if DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
    DTYPES = DTYPES[:2]
# Relative root-mean-square difference: float32 from a float64 twin, 16 bits from a float32 one.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
WIDER = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}


@pytest.fixture(autouse=True)
def _poisoned_memory():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(shape)).to(DEVICE, dtype)


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    assert ours.shape == expected.shape
    ours, expected = ours.detach(), expected.detach()
    return float((ours.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def run(function, tensors, grad):
    """Output and gradients of the tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def check(function, reference, tensors, tolerance=None, repeat=True):
    """The kernel's output and gradients against the twin's in wider numbers; the forward-only path
    and a second run against the first, bit for bit."""
    dtype = tensors[0].dtype
    with override("triton"):
        with torch.no_grad():
            alone = function(*tensors)
        grad = torch.randn(alone.shape).to(DEVICE, dtype)
        ours = run(function, tensors, grad)
        again = run(function, tensors, grad) if repeat else ours
    assert torch.equal(ours[0], alone)
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    expected = run(reference, [t.to(WIDER[dtype]) for t in tensors], grad.to(WIDER[dtype]))
    for name, mine, theirs in zip(["output", *(f"gradient {i}" for i in range(len(tensors)))], ours, expected):
        assert difference(mine, theirs) < (tolerance or TOLERANCE[dtype]), name
    return ours


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [((1,), 64), ((3, 21), 96), ((901,), 64), ((5,), 512)])
def test_rms_norm(dtype, rows, width):
    x, residual = normal(*rows, width, dtype=dtype), normal(*rows, width, dtype=dtype, scale=3)
    check(lambda x, r: rms_norm(x, 1e-5, r), lambda x, r: rms_norm_reference(x, 1e-5, r), [x, residual])
    check(lambda x: rms_norm(x, 1e-5), lambda x: rms_norm_reference(x, 1e-5), [x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [((1,), 256), ((3, 21), 40), ((901,), 16)])
def test_swiglu(dtype, rows, width):
    check(swiglu, swiglu_reference, [normal(*rows, 2 * width, dtype=dtype, scale=3)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "inner"), [((1,), 64, 48), ((3, 21), 96, 256), ((901,), 32, 32)])
def test_linear_swiglu(dtype, rows, width, inner):
    x, weight = normal(*rows, width, dtype=dtype), normal(2 * inner, width, dtype=dtype, scale=width**-0.5)
    check(linear_swiglu, linear_swiglu_reference, [x, weight])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "inner", "width"),
    [
        ((1,), 96, 64),
        ((3, 21), 40, 96),
        ((901,), 32, 32),
        ((7,), 64, 512),
    ],
)
def test_linear_rms_norm(dtype, rows, inner, width):
    x, weight = normal(*rows, inner, dtype=dtype), normal(width, inner, dtype=dtype, scale=inner**-0.5)
    check(
        lambda x, w, r: linear_rms_norm(x, w, r, 1e-5),
        lambda x, w, r: linear_rms_norm_reference(x, w, r, 1e-5),
        [x, weight, normal(*rows, width, dtype=dtype)],
    )


def table_for(tokens: int, head_dim: int, dtype: torch.dtype):
    table_dtype = torch.float32 if dtype is torch.float32 else torch.float16
    return rope_table("rope-1d", (1, tokens), 0, tokens, head_dim, 100.0, DEVICE, table_dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "head_dim", "rotate"),
    [
        (1, 1, 1, 16, True),
        (2, 63, 2, 32, True),
        (1, 901, 1, 16, True),
        (2, 130, 1, 64, True),
        (2, 17, 3, 16, False),
    ],
)
def test_attention(dtype, batch, tokens, heads, head_dim, rotate):
    qkv = normal(batch, tokens, 3 * heads * head_dim, dtype=dtype)
    table = table_for(tokens, head_dim, dtype) if rotate else None
    check(
        lambda x: attention(x, heads, table), lambda x: attention_reference(x, heads, table), [qkv], repeat=tokens < 900
    )  # which takes ten seconds in the interpreter


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_of_ragged_sequences_on_their_own_canvases(dtype):
    lengths = torch.tensor([5, 0, 300, 64, 1], device=DEVICE)  # 300 is more than there are
    qkv = normal(5, 201, 3 * 32, dtype=dtype)
    table = torch.stack([table_for(201 + i, 16, dtype)[i:] for i in range(5)])
    out, grad = check(
        lambda x: attention(x, 2, table, lengths), lambda x: attention_reference(x, 2, table, lengths), [qkv]
    )
    beyond = torch.arange(201, device=DEVICE) >= lengths[:, None]
    assert (out[beyond] == 0).all()
    assert (grad[beyond] == 0).all()
    with override("triton"):  # a sequence's answer does not depend on the others or on what follows it
        alone = attention(qkv[3:4, :64], 2, table[3:4, :64])
    assert difference(out[3:4, :64], alone) < TOLERANCE[dtype]


def test_attention_neither_reads_nor_writes_beyond_a_sequences_end():
    lengths = torch.tensor([5, 0, 70], dtype=torch.int32, device=DEVICE)
    exists = torch.arange(81, device=DEVICE) < lengths[:, None]
    table = table_for(81, 16, torch.float32)
    qkv, grad = normal(3, 81, 48, dtype=torch.float32), normal(3, 81, 16, dtype=torch.float32)
    for tensor in (qkv, grad):
        tensor[~exists] = math.nan
    out, grad_qkv = torch.full((3, 81, 16), math.nan, device=DEVICE), torch.full((3, 81, 48), math.nan, device=DEVICE)
    lse, delta = (torch.full((3, 1, 81), math.nan, device=DEVICE) for _ in range(2))
    attention_forward(qkv, table, lengths, 1, out, lse)
    attention_backward(grad, qkv, table, lengths, 1, out, lse, delta, grad_qkv)
    for tensor, written in ((out, exists), (lse[:, 0], exists), (delta[:, 0], exists), (grad_qkv, exists)):
        assert tensor[written].isfinite().all()
        assert tensor[~written].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [30.0, -30.0])
def test_attention_of_large_scores(dtype, scale):
    """Scores of some +-1,000, of which float32 keeps four digits behind the point: a softmax that
    does not take off its peak overflows, and so does exp2 of keys that are not there."""
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


def test_stablemax_keeps_the_digits_of_nearly_certain_tokens():
    """Loss and gradient of a label that has all but 1e-9 of the sum, where 1 - p has none in float32."""
    logits = torch.full((1, 12), -1e5, device=DEVICE)
    logits[0, 3] = 1e5
    label = torch.tensor([3], device=DEVICE)
    with override("triton"):
        loss, grad = run(lambda x: stablemax_cross_entropy(x, label), [logits], torch.ones(1, device=DEVICE))
    s_label, s_other = 1e5 + 1, 1 / (1e5 + 1)
    assert loss.item() == pytest.approx(11 * s_other / s_label, rel=1e-5)
    assert grad[0, 3].item() == pytest.approx(-11 * s_other / s_label**2, rel=1e-5)


def test_stablemax_of_a_label_that_is_no_token_is_nan():
    with override("triton"):
        loss = stablemax_cross_entropy(normal(2, 12, dtype=torch.float32), torch.tensor([12, 3], device=DEVICE))
    assert loss.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "cells", "width", "numbers", "puzzle_tokens", "positions"),
    [
        (1, 1, 64, 64, 1, False),
        (3, 21, 96, 130, 2, False),
        (2, 901, 32, 0, 0, True),
        (4, 300, 64, 128, 2, True),
    ],
)
def test_embedding(dtype, batch, cells, width, numbers, puzzle_tokens, positions):
    tokens = torch.randint(0, 12, (batch, cells), device=DEVICE, dtype=torch.int32)
    leaves = [normal(12, width, dtype=torch.float32)]
    if numbers:
        leaves.append(normal(batch, numbers, dtype=torch.float32))
    if positions:
        leaves.append(normal(puzzle_tokens + cells, width, dtype=torch.float32))

    def arguments(leaves):
        leaves = list(leaves)
        table, puzzle = leaves.pop(0), leaves.pop(0) if numbers else None
        return tokens, table, puzzle, puzzle_tokens, leaves.pop(0) if positions else None, 7.5

    with override("triton"):
        with torch.no_grad():
            alone = embedding(*arguments(leaves), dtype)
        grad = torch.randn(alone.shape).to(DEVICE, dtype)
        ours = run(lambda *x: embedding(*arguments(x), dtype), leaves, grad)
    assert ours[0].dtype is dtype
    assert torch.equal(ours[0], alone)
    expected = run(lambda *x: embedding_reference(*arguments(x), torch.float64), [x.double() for x in leaves], grad)
    for mine, theirs in zip(ours, expected):
        assert difference(mine, theirs) < TOLERANCE[dtype]


def test_embedding_of_what_is_no_token_is_nan():
    table = normal(12, 16, dtype=torch.float32)
    with override("triton"):
        out = embedding(torch.tensor([[3, 12, -1]], device=DEVICE), table, None, 0, None, 1.0, torch.float32)
    assert out.isnan().all(-1).tolist() == [[False, True, True]]


def test_adam_atan2_updates_all_parameters_as_the_twin_does():
    sizes = [(5, 7), (1,), (4100,), (64, 33)]
    states = {mode: [[], [], []] for mode in ("triton", "reference")}
    for size in sizes:
        param = normal(*size, dtype=torch.float32)
        for params, m, v in states.values():
            params.append(param.clone())
            m.append(torch.zeros_like(param))
            v.append(torch.zeros_like(param))
    for step in range(1, 6):
        # Down to gradients whose square underflows.
        grads = [normal(*size, dtype=torch.float32, scale=10.0 ** (-6 * step)) for size in sizes]
        grads[0][0] = 0
        for mode, (params, m, v) in states.items():
            with override(mode):
                adam_atan2_(params, grads, m, v, step=step, lr=1e-2, beta1=0.9, beta2=0.95, weight_decay=0.1)
        for ours, expected in zip(states["triton"], states["reference"]):
            for a, b in zip(ours, expected):
                assert difference(a, b) < 1e-6


@pytest.mark.parametrize(("ids", "width"), [([3], 64), ([1, 3, 1, 1, 0, 3] + [5] * 70, 33), (list(range(40)), 130)])
def test_sign_sgd_with_duplicate_ids(ids, width):
    table, ids = normal(50, width, dtype=torch.float32), torch.tensor(ids, device=DEVICE)
    grads = normal(len(ids), width, dtype=torch.float32)
    grads[:, 0] = 0
    ours, expected = table.clone(), table.clone()
    with override("triton"):
        sparse_sign_sgd_(ours, ids, grads, lr=0.01, weight_decay=0.1)
    with override("reference"):
        sparse_sign_sgd_(expected, ids, grads, lr=0.01, weight_decay=0.1)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-7)
    untouched = torch.ones(50, dtype=torch.bool, device=DEVICE)
    untouched[ids] = False
    assert torch.equal(ours[untouched], table[untouched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_arguments_and_gradients(dtype):
    """Every second column of wider tensors, and a gradient that is a stride-0 expansion."""

    def strided(*shape):
        return normal(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]

    weight = strided(64, 32)
    cases = [
        (lambda x, r: rms_norm(x, 1e-5, r), [strided(3, 5, 32), strided(3, 5, 32)]),
        (swiglu, [strided(3, 5, 64)]),
        (linear_swiglu, [strided(3, 5, 32), weight]),
        (lambda x, w, r: linear_rms_norm(x, w, r, 1e-5), [strided(3, 5, 32), weight, strided(3, 5, 64)]),
        (lambda x: attention(x, 2), [strided(3, 5, 96)]),
    ]
    for function, tensors in cases:
        results = {}
        for mode in ("triton", "reference"):
            leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
            with override(mode):
                out = function(*[leaf[...] for leaf in leaves])
                out.sum().backward()
            results[mode] = [out, *(leaf.grad for leaf in leaves)]
        for ours, expected in zip(results["triton"], results["reference"]):
            assert difference(ours, expected) < (1e-5 if dtype is torch.float32 else 1e-2)


def test_empty_batches():
    with override("triton"):
        assert rms_norm(torch.empty(0, 32, device=DEVICE), 1e-5).shape == (0, 32)
        assert swiglu(torch.empty(0, 32, device=DEVICE)).shape == (0, 16)
        assert attention(torch.empty(0, 9, 48, device=DEVICE), 1).shape == (0, 9, 16)
        assert linear_swiglu(torch.empty(0, 32, device=DEVICE), torch.ones(64, 32, device=DEVICE)).shape == (0, 32)
