"""Let a device prove our kernels before a run relies on them: right results first, then speed.

Each operation runs at a shape of the coming run, forward and backward, in memory that was filled with NaN before. The
result is compared with the plain twin in float32. A wrong candidate is not used. The fastest right candidate serves.
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

from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.ops import dispatch, launch
from hrm_offline.ops.faults import first_line, is_context_lost
from hrm_offline.ops.selftest_cases import Case, Tensors, Workload, make_cases

PLAIN, KERNEL = "PyTorch", "kernel"
# A result may be this many times as far from the float32 twin as the twin in the same dtype, plus some roundings.
_ERROR_FACTOR, _ROUNDINGS = 3.0, 8.0
_WARM_UP, _MIN_REPEATS = 2, 3
_MAX_TIMED_SECONDS = 0.3  # for one candidate
_MAX_TOKENS = 16_384
_MAX_INPUT_SETS = 8  # inputs are rotated so that the L2 cache does not hold the next ones

# Takes a call and its device, and returns the seconds of the call.
Measure = Callable[[Callable[[], object], torch.device], float]


def workload_of(model: ModelConfig, recipe: Recipe, area: int, dtype: torch.dtype) -> Workload:
    """Return the shapes and operations of a recipe's training step on canvases of `area` cells.

    The batch is cut to some 16,000 tokens: a larger one would say no more about the kernels and cost more time and
    memory.
    """
    tokens = model.prefix_tokens + model.canvases * area
    batch = max(1, min(recipe.tokens_per_step, _MAX_TOKENS) // tokens)
    return Workload(
        batch,
        tokens,
        model.hidden_size,
        model.num_heads,
        model.intermediate_size,
        model.vocab_size,
        model.prefix_tokens,
        dtype,
        dispatch.ops_of(model, recipe),
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
class Candidate:
    """An implementation that may serve an operation: plain PyTorch, or our kernel (`triton`).

    `variant` is one of the operation's `dispatch.VARIANTS`, and None where the operation has none.
    """

    triton: bool
    variant: str | None = None

    @property
    def name(self) -> str:
        """Return the name that rows, verdicts and tables show."""
        if not self.triton:
            return PLAIN
        return KERNEL if self.variant is None else f"{KERNEL}, {self.variant}"


@dataclass(frozen=True)
class Row:
    """The result of one candidate for an operation. `candidate` is the name of the `Candidate`.

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
    """The name of the `Candidate` that serves an operation from now on, and why.

    An operation that was not tested has the name `KERNEL`, with variants or without.
    """

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
    measure: Measure | None = None,
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
            verdicts.append(Verdict(case.op, KERNEL, "not tested, there was no time"))
            continue
        try:
            found = _test_case(case, workload.dtype, device, measure or _measure)
        except _CannotTest as reason:  # the kernel takes less memory than its twin, so its rule stands
            verdicts.append(Verdict(case.op, KERNEL, str(reason)))
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
    return dispatch.decide(op, device, dispatch.dtype_of(op, dtype)).triton


def _test_case(case: Case, dtype: torch.dtype, device: torch.device, measure: Measure) -> list[Row]:
    dtype = dispatch.dtype_of(case.op, dtype)
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
    for candidate in _candidates(case.op):
        name = candidate.name
        with dispatch.forced(case.op, candidate.triton, candidate.variant):
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


def _candidates(op: str) -> list[Candidate]:
    """Return all candidates for an operation, plain PyTorch first."""
    return [Candidate(triton=False), *(Candidate(True, variant) for variant in dispatch.VARIANTS.get(op, (None,)))]


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
    # An operation with variants that was not tested has no such candidate, so its rule stands.
    chosen = next((one for one in _candidates(verdict.op) if one.name == verdict.candidate), None)
    if chosen is None:
        return
    if not chosen.triton:
        dispatch.demote(verdict.op, f"self-test: {verdict.reason}")
    elif chosen.variant is not None:
        dispatch.choose_variant(verdict.op, chosen.variant)


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
        if not other.numel():  # such as the gradient of puzzle tokens where there are none
            continue
        scale = max(float(other.abs().max()), 1e-12)
        difference = float((one - other).abs().max()) / scale
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Have PyTorch fill unwritten memory with NaN inside a `with` block.

    A row that a kernel leaves out then shows.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _time(case: Case, inputs: Tensors, dtype: torch.dtype, device: torch.device, measure: Measure) -> float:
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
