"""Make the cases of the self-test: for each operation inputs at a run's shapes, and calls of kernel and plain twin.

Each operation has one function here, and `CASES` lists these functions in the order in which a self-test goes through
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hrm_offline.common.tokens import COLOURS
from hrm_offline.ops.adam_atan2 import adam_atan2_, adam_atan2_reference_
from hrm_offline.ops.add_rms_norm import add_rms_norm, add_rms_norm_reference
from hrm_offline.ops.attention import attention, attention_reference
from hrm_offline.ops.cached_attention import cached_attention, cached_attention_reference
from hrm_offline.ops.causal_attention import causal_attention, causal_attention_reference
from hrm_offline.ops.conv_silu import conv_silu, conv_silu_reference
from hrm_offline.ops.embedding import embedding, embedding_reference
from hrm_offline.ops.encode_views import Grids, encode_views, encode_views_reference
from hrm_offline.ops.linear_rms_norm import linear_rms_norm, linear_rms_norm_reference
from hrm_offline.ops.linear_swiglu import linear_swiglu, linear_swiglu_reference
from hrm_offline.ops.muon import muon_, muon_reference_
from hrm_offline.ops.rms_norm import rms_norm, rms_norm_reference
from hrm_offline.ops.rotate import rotate, rotate_reference
from hrm_offline.ops.sign_sgd import sign_sgd_, sign_sgd_reference_
from hrm_offline.ops.stablemax_cross_entropy import stablemax_cross_entropy, stablemax_cross_entropy_reference
from hrm_offline.ops.swiglu import swiglu, swiglu_reference

_EPS = 1e-5
_ADAM = dict(step=3, lr=1e-3, beta1=0.9, beta2=0.95, weight_decay=0.1)
# A rate so small that a gradient which rounds to another bfloat16 moves no weight by more than its own rounding.
_MUON = dict(lr=1e-4, weight_decay=0.1)
_SIGN_SGD = dict(lr=0.01, weight_decay=0.1)

Tensors = tuple[torch.Tensor, ...]
Draw = Callable[[torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """The shapes of a run: B sequences of T tokens, of which `puzzle_tokens` stand in front of the canvas.

    `dtype` is that of the activations. `ops` are the operations to test; None stands for all.
    """

    batch: int
    tokens: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    puzzle_tokens: int
    dtype: torch.dtype
    ops: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Case:
    """One operation at one shape.

    `make(generator)` draws inputs on the CPU in float32. `run` computes the operation by its public function, and
    `twin` in plain PyTorch; both take the inputs and return tensors. Inputs in `learned` (indices) get gradients.
    Inputs in `exact` keep their dtype.
    """

    op: str
    make: Callable[[torch.Generator], Tensors]
    run: Callable[..., Tensors]
    twin: Callable[..., Tensors]
    learned: tuple[int, ...] = ()
    exact: tuple[int, ...] = ()


def make_cases(w: Workload) -> list[Case]:
    """Return a case for each operation of a workload, at its shapes. The dearest operations come first."""
    return [case_of(w) for op, case_of in CASES.items() if w.ops is None or op in w.ops]


# --- drawing inputs ---


def _all_of(*draws: Draw) -> Callable[[torch.Generator], Tensors]:
    return lambda generator: tuple(draw(generator) for draw in draws)


def _normal(*shape: int, std: float = 1.0) -> Draw:
    return lambda generator: std * torch.randn(*shape, generator=generator)


def _uniform(*shape: int) -> Draw:
    return lambda generator: torch.rand(*shape, generator=generator)


def _activations(w: Workload, width: int) -> Draw:
    return _normal(w.batch, w.tokens, width)


def _integers(high: int, *shape: int) -> Draw:
    return lambda generator: torch.randint(high, shape, generator=generator)


def _angles(w: Workload, count: int) -> Draw:
    """Return a function that draws the cosines and sines of `count` positions, [count, head_dim]."""

    def draw(generator: torch.Generator) -> torch.Tensor:
        turn = torch.rand(count, w.hidden // w.heads // 2, generator=generator) * 6.28
        return torch.cat([turn.cos(), turn.sin()], dim=1)

    return draw


def _lengths(w: Workload) -> Draw:
    """Return a function that draws the length of each sequence, at least half of `tokens`."""
    return lambda generator: torch.randint(w.tokens // 2, w.tokens + 1, (w.batch,), generator=generator).to(torch.int32)


def _bounds(w: Workload) -> Draw:
    """Return a function that draws the bounds of packed sequences, [B + 1].

    A sequence's length differs from `tokens` by a quarter at most.
    """

    def draw(generator: torch.Generator) -> torch.Tensor:
        early = torch.randint(w.tokens // 4 + 1, (w.batch + 1,), generator=generator)
        early[0] = early[-1] = 0
        return (torch.arange(w.batch + 1) * w.tokens - early).to(torch.int32)

    return draw


# --- calling operations ---


def _one(function: Callable[..., torch.Tensor]) -> Callable[..., Tensors]:
    return lambda *inputs: (function(*inputs),)


def _in_place(function: Callable, changed: tuple[int, ...]) -> Callable[..., Tensors]:
    """Return a function whose results are the inputs `changed` (indices) as `function` has changed them.

    `function` takes copies of these inputs first, then the others.
    """

    def run(*inputs: torch.Tensor) -> Tensors:
        copies = [inputs[i].clone() for i in changed]
        function(*copies, *[tensor for i, tensor in enumerate(inputs) if i not in changed])
        return tuple(copies)

    return run


# --- one function per operation ---


def _attention_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        return lambda x, cos_sin, ends: (function(x, w.heads, cos_sin, ends),)

    make = _all_of(_activations(w, 3 * w.hidden), _angles(w, w.tokens), _lengths(w))
    return Case("attention", make, call(attention), call(attention_reference), learned=(0,), exact=(1,))


def _causal_attention_case(w: Workload) -> Case:
    packed, longest = w.batch * w.tokens, w.tokens + w.tokens // 4  # tokens of all sequences, and of one

    def call(function: Callable) -> Callable[..., Tensors]:
        return lambda x, cos_sin, starts: (function(x, w.heads, cos_sin, starts, longest),)

    make = _all_of(_normal(packed, 3 * w.hidden), _angles(w, packed), _bounds(w))
    run, twin = call(causal_attention), call(causal_attention_reference)
    return Case("causal_attention", make, run, twin, learned=(0,), exact=(1,))


def _cached_attention_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        def step(x, cos_sin, keys, values, ends) -> Tensors:
            return function(x, w.heads, cos_sin, keys, values, ends), keys, values  # a step writes into both caches

        return step

    cache = _normal(w.batch, w.heads, w.tokens + 1, w.hidden // w.heads)
    make = _all_of(_normal(w.batch, 3 * w.hidden), _angles(w, w.batch), cache, cache, _lengths(w))
    return Case("cached_attention", make, call(cached_attention), call(cached_attention_reference), exact=(1,))


def _linear_swiglu_case(w: Workload) -> Case:
    make = _all_of(_activations(w, w.hidden), _normal(2 * w.intermediate, w.hidden, std=w.hidden**-0.5))
    return Case("linear_swiglu", make, _one(linear_swiglu), _one(linear_swiglu_reference), learned=(0, 1))


def _linear_rms_norm_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        return lambda x, weight, residual: (function(x, weight, residual, _EPS),)

    weight = _normal(w.hidden, w.intermediate, std=w.intermediate**-0.5)
    make = _all_of(_activations(w, w.intermediate), weight, _activations(w, w.hidden))
    return Case("linear_rms_norm", make, call(linear_rms_norm), call(linear_rms_norm_reference), learned=(0, 1, 2))


def _rotate_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        return lambda x, cos_sin: (function(x, w.heads, cos_sin),)

    make = _all_of(_activations(w, 3 * w.hidden), _angles(w, w.tokens))
    return Case("rotate", make, call(rotate), call(rotate_reference), learned=(0,), exact=(1,))


def _swiglu_case(w: Workload) -> Case:
    make = _all_of(_activations(w, 2 * w.intermediate))
    return Case("swiglu", make, _one(swiglu), _one(swiglu_reference), learned=(0,))


def _conv_silu_case(w: Workload) -> Case:
    make = _all_of(_activations(w, w.intermediate), _normal(w.intermediate, 2), _normal(w.intermediate))
    return Case("conv_silu", make, _one(conv_silu), _one(conv_silu_reference), learned=(0, 1, 2), exact=(1, 2))


def _rms_norm_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        return lambda x, residual: (function(x, _EPS, residual),)

    make = _all_of(_activations(w, w.hidden), _activations(w, w.hidden))
    return Case("rms_norm", make, call(rms_norm), call(rms_norm_reference), learned=(0, 1))


def _add_rms_norm_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        return lambda x, delta, weight: function(x, delta, weight, _EPS)

    make = _all_of(_activations(w, w.hidden), _activations(w, w.hidden), _normal(w.hidden))
    return Case("add_rms_norm", make, call(add_rms_norm), call(add_rms_norm_reference), learned=(0, 1, 2), exact=(2,))


def _embedding_case(w: Workload) -> Case:
    def run(tokens, table, puzzle) -> Tensors:
        return (embedding(tokens, table, puzzle, w.puzzle_tokens, None, 2.0, w.dtype),)

    def twin(tokens, table, puzzle) -> Tensors:
        return (embedding_reference(tokens, table, puzzle, w.puzzle_tokens, None, 2.0, table.dtype),)

    tokens = _integers(w.vocabulary, w.batch, w.tokens - w.puzzle_tokens)
    make = _all_of(tokens, _normal(w.vocabulary, w.hidden), _normal(w.batch, w.puzzle_tokens * w.hidden))
    return Case("embedding", make, run, twin, learned=(1, 2), exact=(1, 2))


def _stablemax_cross_entropy_case(w: Workload) -> Case:
    cells = (w.batch, w.tokens - w.puzzle_tokens)
    make = _all_of(_normal(*cells, w.vocabulary, std=3.0), _integers(w.vocabulary, *cells))
    run, twin = _one(stablemax_cross_entropy), _one(stablemax_cross_entropy_reference)
    return Case("stablemax_cross_entropy", make, run, twin, learned=(0,))


def _adam_atan2_case(w: Workload) -> Case:
    def run(param, m, v, grad) -> None:
        adam_atan2_([param], [grad], [m], [v], **_ADAM)

    def twin(param, m, v, grad) -> None:
        adam_atan2_reference_(param, grad, m, v, **_ADAM)

    shape, changed = (w.hidden, w.hidden), (0, 2, 3)
    # param, grad, m, v; the second moment v is never negative
    make = _all_of(_normal(*shape), _normal(*shape), _normal(*shape), _uniform(*shape))
    return Case("adam_atan2", make, _in_place(run, changed), _in_place(twin, changed), exact=(0, 1, 2, 3))


def _muon_case(w: Workload) -> Case:
    def run(param, momentum, grad) -> None:
        muon_([param], [grad], [momentum], **_MUON)

    def twin(param, momentum, grad) -> None:
        muon_reference_(param, grad, momentum, **_MUON)

    shape, changed = (w.hidden, w.hidden), (0, 2)
    make = _all_of(_normal(*shape), _normal(*shape), _normal(*shape))  # param, grad, momentum
    return Case("muon", make, _in_place(run, changed), _in_place(twin, changed), exact=(0, 1, 2))


def _sign_sgd_case(w: Workload) -> Case:
    def call(function: Callable) -> Callable[..., Tensors]:
        return _in_place(lambda table, ids, grads: function(table, ids, grads, **_SIGN_SGD), (0,))

    rows = 4 * w.batch
    make = _all_of(_normal(rows, w.hidden), _integers(rows, w.batch), _normal(w.batch, w.hidden))
    return Case("sign_sgd", make, call(sign_sgd_), call(sign_sgd_reference_), exact=(0, 1, 2))


def _encode_views_case(w: Workload) -> Case:
    """Return the case of `batch` views: grids of up to 20 x 20 cells, on a canvas of 30 x 30."""
    count, side = max(1, w.batch), 20

    def make(generator: torch.Generator) -> Tensors:
        rows = torch.randint(1, side + 1, (count,), generator=generator).to(torch.int32)
        cols = torch.randint(1, side + 1, (count,), generator=generator).to(torch.int32)
        start = torch.cat([torch.zeros(1, dtype=torch.int32), (rows * cols).cumsum(0).to(torch.int32)])[:-1]
        cells = torch.randint(COLOURS, (int((rows * cols).sum()),), generator=generator).to(torch.uint8)
        index = torch.randint(count, (w.batch,), generator=generator).to(torch.int32)
        symmetry = torch.rand(w.batch, 3, generator=generator) < 0.5
        colours = torch.stack([torch.randperm(COLOURS, generator=generator) for _ in range(w.batch)]).to(torch.uint8)
        corner = torch.randint(9, (w.batch, 2), generator=generator).to(torch.int32)
        return cells, start, rows, cols, index, symmetry, colours, corner

    def call(function: Callable) -> Callable[..., Tensors]:
        def encoded(cells, start, rows, cols, index, symmetry, colours, corner) -> Tensors:
            return (function(Grids(cells, start, rows, cols), index, symmetry, colours, corner, (30, 30)),)

        return encoded

    return Case("encode_views", make, call(encode_views), call(encode_views_reference))


# The operations that cost a step most come first, since the time for the test is bounded.
CASES: dict[str, Callable[[Workload], Case]] = {
    "attention": _attention_case,
    "causal_attention": _causal_attention_case,
    "cached_attention": _cached_attention_case,
    "linear_swiglu": _linear_swiglu_case,
    "linear_rms_norm": _linear_rms_norm_case,
    "rotate": _rotate_case,
    "swiglu": _swiglu_case,
    "conv_silu": _conv_silu_case,
    "rms_norm": _rms_norm_case,
    "add_rms_norm": _add_rms_norm_case,
    "embedding": _embedding_case,
    "stablemax_cross_entropy": _stablemax_cross_entropy_case,
    "adam_atan2": _adam_atan2_case,
    "muon": _muon_case,
    "sign_sgd": _sign_sgd_case,
    "encode_views": _encode_views_case,
}
