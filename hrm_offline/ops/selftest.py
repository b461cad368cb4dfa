"""Let a device prove our kernels before a run relies on them: right results first, then speed.

Each operation runs at a shape of the coming run, forward and backward, in memory that was filled with NaN before. The
result is compared with the plain twin in float32. What is wrong is not used, and of what is right the fastest is used.
Operations that cost most come first, since the time for the test is bounded.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from hrm_offline.common.tokens import COLOURS
from hrm_offline.config import ModelConfig
from hrm_offline.ops import dispatch, launch
from hrm_offline.ops.adam_atan2 import adam_atan2_, adam_atan2_reference_
from hrm_offline.ops.add_rms_norm import add_rms_norm, add_rms_norm_reference
from hrm_offline.ops.attention import attention, attention_reference
from hrm_offline.ops.cached_attention import cached_attention, cached_attention_reference
from hrm_offline.ops.causal_attention import causal_attention, causal_attention_reference
from hrm_offline.ops.conv_silu import conv_silu, conv_silu_reference
from hrm_offline.ops.embedding import embedding, embedding_reference
from hrm_offline.ops.encode_views import Grids, encode_views, encode_views_reference
from hrm_offline.ops.faults import first_line, is_context_lost
from hrm_offline.ops.linear_rms_norm import linear_rms_norm, linear_rms_norm_reference
from hrm_offline.ops.linear_swiglu import linear_swiglu, linear_swiglu_reference
from hrm_offline.ops.muon import muon_, muon_reference_
from hrm_offline.ops.rms_norm import rms_norm, rms_norm_reference
from hrm_offline.ops.rotate import rotate, rotate_reference
from hrm_offline.ops.sign_sgd import sign_sgd_, sign_sgd_reference_
from hrm_offline.ops.stablemax_cross_entropy import stablemax_cross_entropy, stablemax_cross_entropy_reference
from hrm_offline.ops.swiglu import swiglu, swiglu_reference

PLAIN = "PyTorch"
_EPS = 1e-5
# A result may be this many times as far from the float32 twin as the twin in the same dtype, plus some roundings.
_ERROR_FACTOR, _ROUNDINGS = 3.0, 8.0
_WARM_UP, _MIN_REPEATS = 2, 3
_MAX_TIMED_SECONDS = 0.3  # for one candidate
_MAX_TOKENS = 16_384
_MAX_INPUT_SETS = 8  # inputs are rotated so that the L2 cache does not hold the next ones

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Workload:
    """The shapes of a run: B sequences of T tokens, of which `puzzle_tokens` stand in front of the canvas.

    `dtype` is that of the activations. `is_decoder`, `has_convolution` and `is_pre_norm` say which network's operations
    are tested; where `is_decoder` is None, all are.
    """

    batch: int
    tokens: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    puzzle_tokens: int
    dtype: torch.dtype
    is_decoder: bool | None = None
    has_convolution: bool = True
    is_pre_norm: bool = False


def workload_of(model: ModelConfig, tokens_per_step: int, area: int, dtype: torch.dtype) -> Workload:
    """Return the shapes of a training step on canvases of `area` cells, with a batch that is cut to some 16,000 tokens.

    A larger batch would say no more about the kernels and cost more time and memory.
    """
    tokens = model.prefix_tokens + model.canvases * area
    batch = max(1, min(tokens_per_step, _MAX_TOKENS) // tokens)
    return Workload(
        batch,
        tokens,
        model.hidden_size,
        model.num_heads,
        model.intermediate_size,
        model.vocab_size,
        model.prefix_tokens,
        dtype,
        has_convolution=model.mlp_convolution,
        is_pre_norm=model.pre_norm,
    )


def can_run(device: torch.device) -> bool:
    """Return whether a run on the device should begin with a self-test: kernels serve on GPUs alone."""
    return device.type == "cuda"


def chip_name(device: torch.device) -> str:
    """Return what the verdicts depend on beside the shapes: the chip, torch and Triton."""
    major, minor = torch.cuda.get_device_capability(device)
    triton = launch.triton.__version__ if launch.triton else "none"
    return f"{torch.cuda.get_device_name(device)} ({major}.{minor}), torch {torch.__version__}, Triton {triton}"


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


@dataclass(frozen=True)
class Row:
    """What one candidate for an operation did.

    `error` is the largest deviation of outputs and gradients from the float32 twin, relative to the largest number
    there; `allowed` is its limit. `milliseconds` is the median time, forward and backward. `fault` says what failed.
    """

    op: str
    candidate: str
    error: float | None
    allowed: float | None
    milliseconds: float | None
    fault: str | None = None

    @property
    def is_right(self) -> bool:
        return self.fault is None


class _CannotTest(Exception):
    """There is nothing to compare an operation with."""


@dataclass(frozen=True)
class Verdict:
    """The candidate that serves an operation from now on, and why."""

    op: str
    candidate: str
    reason: str


@dataclass(frozen=True)
class SelfTest:
    """All rows and verdicts of a self-test, and the seconds that it took."""

    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    seconds: float

    def as_dict(self) -> dict:
        """Return the test as JSON values."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "seconds": round(self.seconds, 2),
        }

    def summary(self) -> str:
        """Return one line per operation for the user."""
        return "\n".join(f"self-test: {v.op}: {v.candidate} ({v.reason})" for v in self.verdicts)


def run_selftest(
    workload: Workload,
    device: torch.device,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    measure: Callable[[Callable[[], object], torch.device], float] | None = None,
    note: Callable[[Row], None] = lambda row: None,
) -> SelfTest:
    """Test the operations that our kernels would serve, and use the best candidate of each from now on.

    No operation is begun after `seconds` on `clock`. `measure(call, device)` returns the seconds of a call; by default
    the device's own clock is asked. `note` is told of each row when its operation is done. Raises only if the device
    refuses every further call.
    """
    started = clock()
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for case in make_cases(workload):
        if not _would_serve(case.op, device, workload.dtype):
            continue
        if clock() - started > seconds:
            verdicts.append(Verdict(case.op, "kernel", "not tested, there was no time"))
            continue
        try:
            found = _test_case(case, workload.dtype, device, measure or _measure)
        except _CannotTest as reason:  # the kernel takes less memory than its twin, so its rule stands
            verdicts.append(Verdict(case.op, "kernel", str(reason)))
            continue
        for row in found:
            note(row)
        rows += found
        verdicts.append(_choose(case.op, found))
    return SelfTest(tuple(rows), tuple(verdicts), clock() - started)


def apply(verdicts: list[dict]) -> None:
    """Use the candidates that another worker's self-test has chosen on the same chip (`Verdict` as JSON values)."""
    for verdict in verdicts:
        _use(Verdict(**verdict))


def _would_serve(op: str, device: torch.device, dtype: torch.dtype) -> bool:
    return dispatch.decide(op, device, torch.float32 if op in dispatch.FLOAT32_OPS else dtype).triton


def _test_case(case: Case, dtype: torch.dtype, device: torch.device, measure) -> list[Row]:
    dtype = torch.float32 if case.op in dispatch.FLOAT32_OPS else dtype
    inputs = case.make(torch.Generator().manual_seed(0))
    # The twin in float32 says what is right, and the twin in the run's dtype what rounding costs.
    try:
        with dispatch.override("reference"):
            exact = _results(case, case.twin, _placed(case, inputs, torch.float32, device))
            rounding = _deviation(_results(case, case.twin, _placed(case, inputs, dtype, device)), exact)
    except Exception as fault:  # such as too little memory for float32
        if is_context_lost(fault):
            raise
        raise _CannotTest(f"not tested, plain PyTorch in float32 failed: {first_line(fault)}") from None
    # A twin that is wrong itself, such as by an overflow of float16, must not excuse a kernel.
    allowed = _ROUNDINGS * torch.finfo(dtype).eps + (_ERROR_FACTOR * rounding if math.isfinite(rounding) else 0.0)
    rows = []
    for name, triton, variant in _candidates(case.op):
        with dispatch.forced(case.op, triton, variant):
            try:
                with poisoned():
                    got = _results(case, case.run, _placed(case, inputs, dtype, device))
                error = _deviation(got, exact)
                milliseconds = 1e3 * _time(case, inputs, dtype, device, measure)
            except Exception as fault:  # whatever a kernel does: plain PyTorch serves then
                if is_context_lost(fault):
                    raise
                rows.append(Row(case.op, name, None, None, None, first_line(fault)))
                continue
            if not (math.isfinite(error) and error <= allowed):
                rows.append(Row(case.op, name, error, allowed, None, f"wrong by {error:.2g}, allowed {allowed:.2g}"))
                continue
            rows.append(Row(case.op, name, error, allowed, milliseconds))
    return rows


def _candidates(op: str) -> list[tuple[str, bool, str | None]]:
    """Return name, whether our kernel serves, and its variant."""
    variants = dispatch.VARIANTS.get(op)
    kernels = [("kernel", True, None)] if variants is None else [(f"kernel, {v}", True, v) for v in variants]
    return [(PLAIN, False, None), *kernels]


def _choose(op: str, rows: list[Row]) -> Verdict:
    """Use the fastest candidate that is right. Return it with the reason."""
    right = [row for row in rows if row.is_right]
    faults = "; ".join(f"{row.candidate}: {row.fault}" for row in rows if not row.is_right)
    if not right:
        verdict = Verdict(op, PLAIN, f"nothing else is left: {faults}")
    else:
        best = min(right, key=lambda row: row.milliseconds)
        times = ", ".join(f"{row.candidate} {row.milliseconds:.3g} ms" for row in right)
        verdict = Verdict(op, best.candidate, "; ".join(filter(None, [times, faults])))
    _use(verdict)
    return verdict


def _use(verdict: Verdict) -> None:
    """Have the chosen candidate serve, unless the user has demanded our kernels."""
    if dispatch.kernels_are_demanded():
        return
    if verdict.candidate == PLAIN:
        dispatch.demote(verdict.op, f"self-test: {verdict.reason}")
    elif verdict.op in dispatch.VARIANTS and ", " in verdict.candidate:
        dispatch.choose_variant(verdict.op, verdict.candidate.partition(", ")[2])


# --- running a case ---


def _placed(case: Case, inputs: Tensors, dtype: torch.dtype, device: torch.device) -> Tensors:
    """Return copies of the inputs on the device, in the dtype where numbers are activations."""
    placed = []
    for index, tensor in enumerate(inputs):
        floats = tensor.is_floating_point() and index not in case.exact
        copy = tensor.to(device=device, dtype=dtype if floats else tensor.dtype, copy=True)
        placed.append(copy.requires_grad_(index in case.learned))
    return tuple(placed)


def _results(case: Case, function: Callable[..., Tensors], inputs: Tensors) -> Tensors:
    """Return a function's outputs and the gradients of its learned inputs, all as float32 on the CPU."""
    outputs = function(*inputs)
    results = list(outputs)
    if case.learned:
        weights = [_weights_like(output) for output in outputs]
        results += torch.autograd.grad(outputs, [inputs[i] for i in case.learned], weights)
    return tuple(result.detach().float().cpu() for result in results)


def _weights_like(output: torch.Tensor) -> torch.Tensor:
    """Return fixed gradients of an output, of both signs and unequal sizes."""
    ramp = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape)
    return (ramp + 0.1).to(output.dtype)


def _deviation(got: Tensors, exact: Tensors) -> float:
    """Return the largest difference, relative to the largest number of each tensor; infinity for NaN."""
    worst = 0.0
    for one, other in zip(got, exact, strict=True):
        scale = max(float(other.abs().max()), 1e-12)
        difference = float((one - other).abs().max()) / scale
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Within, PyTorch fills memory that is not written yet with NaN, so that a row that a kernel leaves out shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _time(case: Case, inputs: Tensors, dtype: torch.dtype, device: torch.device, measure) -> float:
    """Return the seconds of one call, forward and backward, on inputs that the L2 cache does not hold."""
    sets = [_placed(case, inputs, dtype, device) for _ in range(_input_sets(inputs, device))]
    calls = 0

    def call() -> None:
        nonlocal calls
        current = sets[calls % len(sets)]
        calls += 1
        outputs = case.run(*current)
        if case.learned:
            torch.autograd.grad(outputs, [current[i] for i in case.learned], [torch.ones_like(out) for out in outputs])

    for _ in range(_WARM_UP):
        call()
    return measure(call, device)


def _input_sets(inputs: Tensors, device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 50 * 2**20)
    size = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
    return min(_MAX_INPUT_SETS, 1 + -(-2 * cache // max(1, size)))


def _measure(call: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call: by events of the GPU, or by a clock where a CPU computes."""
    times: list[float] = []
    while len(times) < _MIN_REPEATS or sum(times) < _MAX_TIMED_SECONDS:
        times.append(_seconds_of(call, device))
        if len(times) >= _MIN_REPEATS and sum(times) > _MAX_TIMED_SECONDS:
            break
    return statistics.median(times)


def _seconds_of(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        before = time.perf_counter()
        call()
        return time.perf_counter() - before
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


# --- the operations at a run's shapes, most expensive first ---


def make_cases(w: Workload) -> list[Case]:
    """Return a case for each operation of a workload, at its shapes. The dearest operations come first."""
    canvas = w.tokens - w.puzzle_tokens

    def normal(*shape: int, std: float = 1.0) -> Callable[[torch.Generator], torch.Tensor]:
        return lambda generator: std * torch.randn(*shape, generator=generator)

    def integers(high: int, *shape: int, dtype=torch.int64) -> Callable[[torch.Generator], torch.Tensor]:
        return lambda generator: torch.randint(high, shape, generator=generator).to(dtype)

    def all_of(*parts: Callable) -> Callable[[torch.Generator], Tensors]:
        return lambda generator: tuple(part(generator) for part in parts)

    def angles(count: int) -> Callable[[torch.Generator], torch.Tensor]:
        def draw(generator: torch.Generator) -> torch.Tensor:
            turn = torch.rand(count, w.hidden // w.heads // 2, generator=generator) * 6.28
            return torch.cat([turn.cos(), turn.sin()], dim=1)

        return draw

    def lengths(generator: torch.Generator) -> torch.Tensor:
        return torch.randint(w.tokens // 2, w.tokens + 1, (w.batch,), generator=generator).to(torch.int32)

    def bounds(generator: torch.Generator) -> torch.Tensor:
        """Draw where packed sequences begin that differ from `tokens` in length by a quarter at most."""
        early = torch.randint(w.tokens // 4 + 1, (w.batch + 1,), generator=generator)
        early[0] = early[-1] = 0
        return (torch.arange(w.batch + 1) * w.tokens - early).to(torch.int32)

    def one(function: Callable[..., torch.Tensor]) -> Callable[..., Tensors]:
        return lambda *inputs: (function(*inputs),)

    def gradient_free(function: Callable, copies: tuple[int, ...]) -> Callable[..., Tensors]:
        """Return the function with its first inputs copied: these are changed in place and are the results."""

        def run(*inputs: torch.Tensor) -> Tensors:
            changed = [inputs[i].clone() for i in copies]
            function(*changed, *[tensor for i, tensor in enumerate(inputs) if i not in copies])
            return tuple(changed)

        return run

    def decoding(function: Callable) -> Callable[..., Tensors]:
        """Return a step of decoding whose results are the attention and both caches."""

        def run(x, cos_sin, keys, values, ends) -> Tensors:
            return function(x, w.heads, cos_sin, keys, values, ends), keys, values

        return run

    rows = (w.batch, w.tokens)
    weight = w.hidden**-0.5
    qkv, out = normal(*rows, 3 * w.hidden), normal(*rows, w.hidden)
    cache = normal(w.batch, w.heads, w.tokens + 1, w.hidden // w.heads)
    packed, longest = w.batch * w.tokens, w.tokens + w.tokens // 4  # tokens of all sequences, and of one
    cases = [
        Case(
            "attention",
            all_of(qkv, angles(w.tokens), lengths),
            one(lambda x, cos_sin, ends: attention(x, w.heads, cos_sin, ends)),
            one(lambda x, cos_sin, ends: attention_reference(x, w.heads, cos_sin, ends)),
            learned=(0,),
            exact=(1,),
        ),
        Case(
            "causal_attention",
            all_of(normal(packed, 3 * w.hidden), angles(packed), bounds),
            one(lambda x, cos_sin, starts: causal_attention(x, w.heads, cos_sin, starts, longest)),
            one(lambda x, cos_sin, starts: causal_attention_reference(x, w.heads, cos_sin, starts, longest)),
            learned=(0,),
            exact=(1,),
        ),
        Case(
            "cached_attention",
            all_of(normal(w.batch, 3 * w.hidden), angles(w.batch), cache, cache, lengths),
            decoding(cached_attention),
            decoding(cached_attention_reference),
            exact=(1,),
        ),
        Case(
            "linear_swiglu",
            all_of(out, normal(2 * w.intermediate, w.hidden, std=weight)),
            one(linear_swiglu),
            one(linear_swiglu_reference),
            learned=(0, 1),
        ),
        Case(
            "linear_rms_norm",
            all_of(normal(*rows, w.intermediate), normal(w.hidden, w.intermediate, std=w.intermediate**-0.5), out),
            one(lambda x, matrix, residual: linear_rms_norm(x, matrix, residual, _EPS)),
            one(lambda x, matrix, residual: linear_rms_norm_reference(x, matrix, residual, _EPS)),
            learned=(0, 1, 2),
        ),
        Case(
            "rotate",
            all_of(qkv, angles(w.tokens)),
            one(lambda x, cos_sin: rotate(x, w.heads, cos_sin)),
            one(lambda x, cos_sin: rotate_reference(x, w.heads, cos_sin)),
            learned=(0,),
            exact=(1,),
        ),
        Case("swiglu", all_of(normal(*rows, 2 * w.intermediate)), one(swiglu), one(swiglu_reference), learned=(0,)),
        Case(
            "conv_silu",
            all_of(normal(*rows, w.intermediate), normal(w.intermediate, 2), normal(w.intermediate)),
            one(conv_silu),
            one(conv_silu_reference),
            learned=(0, 1, 2),
            exact=(1, 2),
        ),
        Case(
            "rms_norm",
            all_of(out, out),
            one(lambda x, residual: rms_norm(x, _EPS, residual)),
            one(lambda x, residual: rms_norm_reference(x, _EPS, residual)),
            learned=(0, 1),
        ),
        Case(
            "add_rms_norm",
            all_of(out, out, normal(w.hidden)),
            lambda x, delta, scale: add_rms_norm(x, delta, scale, _EPS),
            lambda x, delta, scale: add_rms_norm_reference(x, delta, scale, _EPS),
            learned=(0, 1, 2),
            exact=(2,),
        ),
        Case(
            "embedding",
            all_of(
                integers(w.vocabulary, w.batch, canvas),
                normal(w.vocabulary, w.hidden),
                normal(w.batch, w.puzzle_tokens * w.hidden),
            ),
            one(lambda t, table, puzzle: embedding(t, table, puzzle, w.puzzle_tokens, None, 2.0, w.dtype)),
            one(
                lambda t, table, puzzle: embedding_reference(t, table, puzzle, w.puzzle_tokens, None, 2.0, table.dtype)
            ),
            learned=(1, 2),
            exact=(1, 2),
        ),
        Case(
            "stablemax_cross_entropy",
            all_of(normal(w.batch, canvas, w.vocabulary, std=3.0), integers(w.vocabulary, w.batch, canvas)),
            one(stablemax_cross_entropy),
            one(stablemax_cross_entropy_reference),
            learned=(0,),
        ),
        Case(
            "adam_atan2",
            all_of(
                *[normal(w.hidden, w.hidden)] * 3, lambda generator: torch.rand(w.hidden, w.hidden, generator=generator)
            ),
            gradient_free(_adam(adam_atan2_), (0, 2, 3)),
            gradient_free(_adam_twin, (0, 2, 3)),
            exact=(0, 1, 2, 3),
        ),
        Case(
            "muon",
            all_of(*[normal(w.hidden, w.hidden)] * 3),
            gradient_free(_muon(muon_), (0, 2)),
            gradient_free(_muon_twin, (0, 2)),
            exact=(0, 1, 2),
        ),
        Case(
            "sign_sgd",
            all_of(normal(4 * w.batch, w.hidden), integers(4 * w.batch, w.batch), normal(w.batch, w.hidden)),
            gradient_free(lambda table, ids, grads: sign_sgd_(table, ids, grads, lr=0.01, weight_decay=0.1), (0,)),
            gradient_free(
                lambda table, ids, grads: sign_sgd_reference_(table, ids, grads, lr=0.01, weight_decay=0.1), (0,)
            ),
            exact=(0, 1, 2),
        ),
        _encode_case(w),
    ]
    foreign = () if w.is_decoder is None else dispatch.foreign_ops(w.is_decoder, w.has_convolution, w.is_pre_norm)
    return [case for case in cases if case.op not in foreign]


def _adam(update: Callable) -> Callable[..., None]:
    def run(param, m, v, grad) -> None:
        update([param], [grad], [m], [v], step=3, lr=1e-3, beta1=0.9, beta2=0.95, weight_decay=0.1)

    return run


def _adam_twin(param, m, v, grad) -> None:
    adam_atan2_reference_(param, grad, m, v, step=3, lr=1e-3, beta1=0.9, beta2=0.95, weight_decay=0.1)


# A rate so small that a gradient which rounds to another bfloat16 moves no weight by more than its own rounding.
def _muon(update: Callable) -> Callable[..., None]:
    def run(param, momentum, grad) -> None:
        update([param], [grad], [momentum], lr=1e-4, weight_decay=0.1)

    return run


def _muon_twin(param, momentum, grad) -> None:
    muon_reference_(param, grad, momentum, lr=1e-4, weight_decay=0.1)


def _encode_case(w: Workload) -> Case:
    """Encode `batch` views of grids of up to 20 x 20 cells on a canvas of 30 x 30."""
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

    def run(function: Callable) -> Callable[..., Tensors]:
        def encoded(cells, start, rows, cols, index, symmetry, colours, corner) -> Tensors:
            return (function(Grids(cells, start, rows, cols), index, symmetry, colours, corner, (30, 30)),)

        return encoded

    return Case("encode_views", make, run(encode_views), run(encode_views_reference))
