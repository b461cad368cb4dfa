"""Choose between our Triton kernel and plain PyTorch for each operation, and say why.

The choice depends on the operation, the device's compute capability and the dtype. It is made once for each of these,
and `summary` prints it. The environment variable `HRM_OFFLINE_OPS` overrides it: `reference` takes plain PyTorch
everywhere, `triton` takes our kernels everywhere (on a CPU under `TRITON_INTERPRET=1`). A demanded kernel that cannot
serve is an error.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hrm_offline.common.errors import InputError
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.ops import launch
from hrm_offline.ops.faults import KernelFault

VARIABLE = "HRM_OFFLINE_OPS"
MODES = ("auto", "reference", "triton")

_HALF = (torch.float16, torch.bfloat16)
_ALL = (torch.float32, *_HALF)
_MIN_CAPABILITY = 75  # of the oldest chip that the kernels are compiled for in tests
_BFLOAT16_CAPABILITY = 80


@dataclass(frozen=True)
class Rule:
    """Where a kernel is faster than plain PyTorch: from which compute capability (80 is 8.0), and in which dtypes."""

    capability: int
    dtypes: tuple[torch.dtype, ...]


# Matrix products need tensor cores. Triton uses those from 8.0 on, and they compute in 16 bits.
_MATRIX = Rule(80, _HALF)
_POINTWISE = Rule(_MIN_CAPABILITY, _ALL)
RULES = {
    "attention": _MATRIX,
    "causal_attention": _MATRIX,
    "cached_attention": _MATRIX,
    "linear_rms_norm": _MATRIX,
    "linear_swiglu": _MATRIX,
    "rms_norm": _POINTWISE,
    "add_rms_norm": _POINTWISE,
    "swiglu": _POINTWISE,
    "conv_silu": _POINTWISE,
    "rotate": _POINTWISE,
    "embedding": _POINTWISE,
    "stablemax_cross_entropy": _POINTWISE,
    "adam_atan2": Rule(_MIN_CAPABILITY, (torch.float32,)),
    "muon": Rule(_MIN_CAPABILITY, (torch.float32,)),
    "sign_sgd": _POINTWISE,
    "encode_views": _POINTWISE,
}
# Ways in which our kernels compute an operation. The first is taken unless a self-test has found another faster.
VARIANTS = {"attention": ("rotate first", "rotate inside", "rotate first, small tiles")}
_ALSO_LAUNCHED_BY = {"rms_norm": ("linear_rms_norm",)}  # in its backward pass
# These work on weights or grids, whatever the dtype of the activations.
FLOAT32_OPS = ("adam_atan2", "muon", "sign_sgd", "encode_views")

# The sets below and the conditions in `ops_of` name each operation that only some networks call. An operation that they
# do not name counts as called by every network.

# Only decoders call these: their sequences are packed end to end, and they predict token by token with a cache.
_DECODER_OPS = {"causal_attention", "cached_attention"}
# Decoders call none of these. Their attention is causal, their layers have no convolution, and their loss is a softmax.
# Their embeddings are parameters that the network's optimiser moves, and their tokens stand on no canvas.
_RECURSIVE_OPS = {"attention", "conv_silu", "stablemax_cross_entropy", "embedding", "sign_sgd", "encode_views"}
# Only layers that normalise before each half call the first set, only layers that normalise after each half the second.
_PRE_NORM_OPS, _POST_NORM_OPS = {"add_rms_norm"}, {"linear_rms_norm", "rms_norm"}
# A recipe's optimiser calls its own operation alone. NorMuon has no kernel.
_OPTIMIZER_OPS = {"adam-atan2": "adam_atan2", "muon": "muon"}


def ops_of(model: ModelConfig, recipe: Recipe | None = None) -> tuple[str, ...]:
    """Return the operations that a network calls when it learns by a recipe and predicts; None stands for any recipe.

    Some of them are called only where the kernel of another does not serve.
    """
    unused = set(_RECURSIVE_OPS if model.is_decoder else _DECODER_OPS)
    unused |= _POST_NORM_OPS if model.is_decoder or model.pre_norm else _PRE_NORM_OPS
    if not model.mlp_convolution:
        unused.add("conv_silu")
    if not model.puzzle_columns:
        unused.add("sign_sgd")
    if model.positions == "learned":
        unused.add("rotate")
    if recipe is not None:
        unused |= {op for name, op in _OPTIMIZER_OPS.items() if name != recipe.optimizer}
        if recipe.loss != "stablemax":
            unused.add("stablemax_cross_entropy")
    return tuple(op for op in RULES if op not in unused)


def dtype_of(op: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which an operation computes in a run whose activations have `dtype`."""
    return torch.float32 if op in FLOAT32_OPS else dtype


# --- the state of this process ---

_demoted: dict[str, str] = {}  # operations that plain PyTorch serves whatever the rules say, and why
_variants: dict[str, str] = {}  # the variants that a self-test or `forced` has set, by operation
_forced: dict[str, bool] = {}  # whether our kernel serves, for operations inside a block of `forced`
_override: str | None = None  # one of `MODES` that stands in for the environment variable


# --- the choice ---


@dataclass(frozen=True)
class Decision:
    """Whether our kernel serves, and why."""

    triton: bool
    reason: str


def uses_triton(op: str, tensor: torch.Tensor, problem: str | None = None) -> bool:
    """Return whether our kernel of `op` serves `tensor`.

    `problem` names a property of the arguments that the kernel cannot handle; None if there is none. Raises
    `InputError` where the kernel was demanded and cannot serve.
    """
    if not decide(op, tensor.device, tensor.dtype).triton:
        return False
    if problem and _mode() == "triton":
        raise InputError(f"{VARIABLE}=triton: {op}: {problem}")
    return not problem


def decide(op: str, device: torch.device, dtype: torch.dtype) -> Decision:
    """Return the choice for an operation. Raises `InputError` where a demanded kernel cannot run."""
    if op in _forced:
        return Decision(_forced[op], "forced")
    if op in _demoted:
        return Decision(False, f"demoted: {_demoted[op]}")
    return _decide(op, device, dtype, _mode())


# In a compiled model the choice is a constant. This is `torch.compiler.assume_constant_result`, which would load the
# compiler (1.5 s) in every process.
decide._dynamo_marked_constant = True


@functools.lru_cache(maxsize=256)
def _decide(op: str, device: torch.device, dtype: torch.dtype, mode: str) -> Decision:
    if mode == "reference":
        return Decision(False, f"{VARIABLE}=reference")
    obstacle = _obstacle(device, dtype)
    if mode == "triton":
        if obstacle:
            raise InputError(f"{VARIABLE}=triton: {op}: {obstacle}")
        return Decision(True, f"{VARIABLE}=triton")
    if obstacle:
        return Decision(False, obstacle)
    if device.type != "cuda":
        return Decision(False, "the interpreter is for tests")
    return decide_for(op, _capability(device), dtype)


def decide_for(op: str, capability: int, dtype: torch.dtype) -> Decision:
    """Return the choice on an NVIDIA GPU of a compute capability (89 is 8.9) where nothing is demanded."""
    rule = RULES[op]
    if capability < rule.capability:
        return Decision(False, f"compute capability {_dotted(capability)} is below {_dotted(rule.capability)}")
    if _lacks_bfloat16(capability, dtype):
        return Decision(False, f"compute capability {_dotted(capability)} has no bfloat16")
    if dtype not in rule.dtypes:
        return Decision(False, f"{_name(dtype)} gains nothing here")
    return Decision(True, f"compute capability {_dotted(capability)}")


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why no kernel of ours can run on the device in the dtype, None if kernels can."""
    if launch.triton is None:
        return "Triton is not installed"
    if dtype not in _ALL:
        return f"no kernel computes in {_name(dtype)}"
    if device.type == "cpu":
        return None if launch.interpreted else "a CPU has only Triton's interpreter (TRITON_INTERPRET=1)"
    if device.type != "cuda" or torch.version.hip is not None:
        return "not an NVIDIA GPU"
    capability = _capability(device)
    if _lacks_bfloat16(capability, dtype):
        return f"compute capability {_dotted(capability)} has no bfloat16"
    if capability < _MIN_CAPABILITY:
        return f"compute capability {_dotted(capability)} is below {_dotted(_MIN_CAPABILITY)}"
    return launch.failure(device)


def summary(device: torch.device, dtype: torch.dtype) -> str:
    """Return one line that says what serves each operation, grouped by reason."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for op in RULES:
        decision = decide(op, device, dtype_of(op, dtype))
        groups.setdefault((decision.triton, decision.reason), []).append(op)
    return "; ".join(
        f"{'Triton' if triton else 'PyTorch'} for {', '.join(ops)} ({reason})"
        for (triton, reason), ops in groups.items()
    )


# --- demotions, variants and modes ---


def demote(op: str, reason: str) -> bool:
    """Have plain PyTorch serve `op` in this process from now on. Return False if that was so already."""
    if op in _demoted:
        return False
    _demoted[op] = reason
    return True


def demotions() -> dict[str, str]:
    """Return the operations that were demoted in this process, with the reasons."""
    return dict(_demoted)


def promote_all() -> None:
    """Forget all demotions and chosen variants."""
    _demoted.clear()
    _variants.clear()


def variant(op: str) -> str:
    """Return the way in which our kernels compute an operation, one of `VARIANTS`."""
    return _variants.get(op, VARIANTS[op][0])


def choose_variant(op: str, variant_name: str) -> None:
    """Have our kernels compute an operation in the way `variant_name` from now on."""
    _variants[op] = variant_name


@contextlib.contextmanager
def forced(op: str, triton: bool, variant_name: str | None = None) -> Iterator[None]:
    """Have our kernel or plain PyTorch serve `op` inside a `with` block, whatever the rules say.

    Our kernel serves in the variant `variant_name`; None leaves the variant as chosen.
    """
    before = _variants.get(op)
    _forced[op] = triton
    if variant_name is not None:
        _variants[op] = variant_name
    try:
        yield
    finally:
        del _forced[op]
        if variant_name is not None:
            _variants.pop(op)
            if before is not None:
                _variants[op] = before


def demote_after(fault: KernelFault) -> None:
    """Demote the operation whose kernel failed, so that its caller can compute again.

    Operations that launch the same kernel are demoted too. Raises the fault itself where kernels were demanded or a
    self-test is trying them, or where all these operations are demoted already.
    """
    if fault.op in _forced or kernels_are_demanded():
        raise fault
    demoted = [demote(op, str(fault)) for op in (fault.op, *_ALSO_LAUNCHED_BY.get(fault.op, ()))]
    if not any(demoted):
        raise fault


def run_or_demote(kernel: Callable[[], None], plain: Callable[[], None]) -> None:
    """Run the kernel of an operation that autograd does not follow, or plain PyTorch where the kernel fails."""
    try:
        kernel()
    except KernelFault as fault:
        demote_after(fault)
        plain()


def set_mode(mode: str | None) -> None:
    """Have `mode` ("auto", "reference" or "triton") stand in for the environment variable; None ends that."""
    global _override
    _override = mode


@contextlib.contextmanager
def override(mode: str) -> Iterator[None]:
    """Replace the environment variable by `mode` ("auto", "reference" or "triton") inside a `with` block."""
    global _override
    before, _override = _override, mode
    try:
        yield
    finally:
        _override = before


def kernels_are_demanded() -> bool:
    """Return whether the user has demanded our kernels everywhere."""
    return _mode() == "triton"


def _mode() -> str:
    return _override or _mode_of_environment()


@functools.cache
def _mode_of_environment() -> str:
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise InputError(f"{VARIABLE} is '{mode}', expected one of {', '.join(MODES)}")
    return mode


def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _lacks_bfloat16(capability: int, dtype: torch.dtype) -> bool:
    return dtype is torch.bfloat16 and capability < _BFLOAT16_CAPABILITY


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
