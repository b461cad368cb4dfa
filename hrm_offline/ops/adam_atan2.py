"""AdamATan2: Adam with an arc tangent in place of the division, so without an epsilon.

Everett et al. 2024, arXiv 2407.05872, section 4.3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

from hrm_offline.ops.dispatch import run_or_demote, uses_triton
from hrm_offline.ops.launch import describe, jit, launch, launcher, triton

if triton:
    import triton.language as tl

Tensors = Sequence[torch.Tensor]


# --- public function ---


def adam_atan2_(
    params: Tensors,
    grads: Tensors,
    m: Tensors,
    v: Tensors,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """Update all parameters and their moments `m` and `v` in place. `step` counts from 1.

        p = p (1 - lr weight_decay)
        m = m + (1 - beta1) (g - m)
        v = beta2 v + (1 - beta2) g^2
        p = p - lr / (1 - beta1^step) atan2(m, sqrt(v / (1 - beta2^step)))

    The bias of `m` is corrected in the step size and not inside the arc tangent, as in the extension that the
    published HRM code compiles (`adam-atan2`). The kernel updates all parameters in one launch; it takes contiguous
    float32 tensors of one device. Raises `ValueError` where a gradient or a moment has not its parameter's shape.
    """
    for param, grad, first, second in zip(params, grads, m, v, strict=True):
        if not param.shape == grad.shape == first.shape == second.shape:
            raise ValueError(f"adam_atan2: these do not fit: {describe(param=param, grad=grad, m=first, v=second)}")
    if not params:
        return
    tensors = [*params, *grads, *m, *v]
    fits = all(t.device == params[0].device and t.dtype is torch.float32 and t.is_contiguous() for t in tensors)
    problem = None if fits else "tensors are not all float32, contiguous and on one device"

    def plain() -> None:
        for param_and_state in zip(params, grads, m, v):
            adam_atan2_reference_(
                *param_and_state, step=step, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay
            )

    def kernel() -> None:
        addresses = _addresses(tuple(t.data_ptr() for t in tensors), params[0].device)
        chunks = _chunks(tuple(p.numel() for p in params), params[0].device)
        root_factor, step_size = 1 / math.sqrt(1 - beta2**step), lr / (1 - beta1**step)
        lists = [list(part) for part in (params, grads, m, v)]
        adam_atan2_step(*lists, addresses, chunks, 1 - lr * weight_decay, beta1, beta2, root_factor, step_size)

    if uses_triton("adam_atan2", params[0], problem):
        run_or_demote(kernel, plain)
    else:
        plain()


# --- plain PyTorch twin ---


def adam_atan2_reference_(
    param: torch.Tensor,
    grad: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """Update one parameter as `adam_atan2_` does, in plain PyTorch."""
    param.mul_(1 - lr * weight_decay)
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = v.sqrt().div_(math.sqrt(1 - beta2**step))
    step_size = lr / (1 - beta1**step)
    param.add_(torch.atan2(m, root), alpha=-step_size)


# --- launchers ---


_CHUNK = 1024  # elements that one program updates


# Gradients mostly come back at the same addresses step after step, so a few entries serve a whole run.
@functools.lru_cache(maxsize=64)
def _addresses(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return the addresses of parameters, gradients, m and v on the device, int64 [4 x params]."""
    return _on_device(torch.tensor(addresses, dtype=torch.int64), device)


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device without waiting for the device, which only page-locked memory allows."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@functools.lru_cache(maxsize=16)
def _chunks(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return the work of each program, int64 [programs, 3]: its tensor, its first element there, the tensor's size."""
    chunks = [(i, start, size) for i, size in enumerate(sizes) for start in range(0, size, _CHUNK)]
    return _on_device(torch.tensor(chunks, dtype=torch.int64), device)


@launcher(
    "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] m, Tensor(c!)[] v, Tensor addresses, Tensor chunks, "
    "float decay, float beta1, float beta2, float root_factor, float step_size) -> ()"
)
def adam_atan2_step(params, grads, m, v, addresses, chunks, decay, beta1, beta2, root_factor, step_size):
    """Update `params`, `m` and `v`, which the kernel finds through `addresses` and `chunks`.

    decay: 1 - lr weight_decay. root_factor: 1 / sqrt(1 - beta2^step). step_size: lr / (1 - beta1^step).
    """
    launch(
        _adam_atan2_kernel,
        len(chunks),
        addresses,
        chunks,
        len(params),
        decay,
        1 - beta1,
        beta2,
        1 - beta2,
        root_factor,
        step_size,
        ALIGNED=all(t.data_ptr() % 16 == 0 for t in (*params, *grads, *m, *v)),
        CHUNK=_CHUNK,
        num_warps=4,
    )


# --- kernels ---


@jit
def _atan_of_quotient(y, x):
    """Return atan2(y, x) for x >= 0, and 0 for two zeros. Within 2 units of the last place of float32."""
    magnitude = tl.abs(y)
    # The smaller over the larger is in [0, 1]; atan(1 / t) = pi / 2 - atan(t) brings the other half back.
    larger, smaller = tl.maximum(magnitude, x), tl.minimum(magnitude, x)
    t = smaller / tl.where(larger > 0, larger, 1.0)
    u = t * t
    # atan(t) / t as a polynomial in t^2 on [0, 1], interpolated at Chebyshev nodes (relative error 3e-9).
    angle = ((((-0.00170117009 * u + 0.0104876494) * u - 0.0303518651) * u + 0.0570895563) * u - 0.08349725) * u
    angle = ((((angle + 0.109323415) * u - 0.142600161) * u + 0.199980753) * u - 0.333332763) * u + 0.999999997
    angle = angle * t
    angle = tl.where(magnitude > x, 1.5707963267948966 - angle, angle)
    return tl.where(y < 0, -angle, angle)


@jit
def _adam_atan2_kernel(
    addresses_ptr,
    chunks_ptr,
    count,
    decay,
    m_weight,
    beta2,
    v_weight,
    root_factor,
    step_size,
    ALIGNED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    chunk_ptr = chunks_ptr + tl.program_id(0) * 3
    tensor, start, size = tl.load(chunk_ptr), tl.load(chunk_ptr + 1), tl.load(chunk_ptr + 2)
    param_at = tl.load(addresses_ptr + tensor)
    grad_at = tl.load(addresses_ptr + count + tensor)
    m_at = tl.load(addresses_ptr + 2 * count + tensor)
    v_at = tl.load(addresses_ptr + 3 * count + tensor)
    if ALIGNED:  # the compiler cannot see that in a number, and needs it for loads of 16 bytes
        param_at, grad_at = tl.multiple_of(param_at, 16), tl.multiple_of(grad_at, 16)
        m_at, v_at = tl.multiple_of(m_at, 16), tl.multiple_of(v_at, 16)
    start = tl.multiple_of(start, CHUNK)
    float_ptr = tl.pointer_type(tl.float32)
    param_ptr, grad_ptr = param_at.to(float_ptr) + start, grad_at.to(float_ptr) + start
    m_ptr, v_ptr = m_at.to(float_ptr) + start, v_at.to(float_ptr) + start
    element = tl.arange(0, CHUNK)
    inside = element < size - start
    param = tl.load(param_ptr + element, mask=inside, other=0.0) * decay
    grad = tl.load(grad_ptr + element, mask=inside, other=0.0)
    m = tl.load(m_ptr + element, mask=inside, other=0.0)
    v = tl.load(v_ptr + element, mask=inside, other=0.0)
    m += m_weight * (grad - m)
    v = beta2 * v + v_weight * grad * grad
    param -= step_size * _atan_of_quotient(m, tl.sqrt(v) * root_factor)
    tl.store(param_ptr + element, param, mask=inside)
    tl.store(m_ptr + element, m, mask=inside)
    tl.store(v_ptr + element, v, mask=inside)
