"""The gate of a SwiGLU feed-forward layer (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


# --- public function ---


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up: gate_up [..., 2 x width] holds the gate, then up; the result is [..., width].

    Same dtype in and out.
    """
    if not uses_triton("swiglu", gate_up):
        return swiglu_reference(gate_up)
    gate_up = gate_up.contiguous()
    return _Swiglu.apply(gate_up) if tracked(gate_up) else _forward(gate_up)


# --- plain PyTorch twin ---


def swiglu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """Compute `swiglu` in plain PyTorch."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


# --- autograd function ---


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        ctx.save_for_backward(gate_up)
        return _forward(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (gate_up,) = ctx.saved_tensors
        grad_gate_up = torch.empty_like(gate_up)
        swiglu_backward(grad.contiguous(), gate_up, grad_gate_up)
        return grad_gate_up


def _forward(gate_up: torch.Tensor) -> torch.Tensor:
    hidden = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    swiglu_forward(gate_up, hidden)
    return hidden


# --- launchers ---


def _launch(kernel, *tensors: torch.Tensor, rows: int, width: int) -> None:
    columns = min(512, triton.next_power_of_2(width))
    tile_rows = 2048 // columns
    launch(
        kernel,
        triton.cdiv(rows, tile_rows) * triton.cdiv(width, columns),
        *tensors,
        rows,
        width,
        ROWS=tile_rows,
        COLUMNS=columns,
        num_warps=4,
    )


@launcher("(Tensor gate_up, Tensor(a!) hidden) -> ()")
def swiglu_forward(gate_up, hidden):
    """Fill `hidden` [..., width] from `gate_up` [..., 2 x width]."""
    width = hidden.shape[-1]
    _launch(_swiglu_forward_kernel, gate_up, hidden, rows=hidden.numel() // width, width=width)


@launcher("(Tensor grad, Tensor gate_up, Tensor(a!) grad_gate_up) -> ()")
def swiglu_backward(grad, gate_up, grad_gate_up):
    """Fill `grad_gate_up` [..., 2 x width] from `grad` [..., width], the gradient of the output."""
    width = grad.shape[-1]
    _launch(_swiglu_backward_kernel, grad, gate_up, grad_gate_up, rows=grad.numel() // width, width=width)


# --- kernels ---


@jit
def silu_gradients(gate, up, grad):
    """Return the gradients of gate and up, from `grad`, that of silu(gate) * up. All are float32.

    silu(x) = x sigmoid(x), so its derivative is sigmoid(x) (1 + x (1 - sigmoid(x))).
    """
    sigmoid = tl.sigmoid(gate)
    return grad * up * sigmoid * (1 + gate * (1 - sigmoid)), grad * gate * sigmoid


@jit
def _tile(rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return rows and columns of a program's tile of [rows, width], and which of its elements exist."""
    blocks = tl.cdiv(width, COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    return row.to(tl.int64)[:, None], column[None, :], (row < rows)[:, None] & (column < width)[None, :]


@jit
def _swiglu_forward_kernel(gate_up_ptr, hidden_ptr, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column, inside = _tile(rows, width, ROWS, COLUMNS)
    gate_at = row * (2 * width) + column
    gate = tl.load(gate_up_ptr + gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + gate_at + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(hidden_ptr + row * width + column, gate * tl.sigmoid(gate) * up, mask=inside)


@jit
def _swiglu_backward_kernel(
    grad_ptr, gate_up_ptr, grad_gate_up_ptr, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row, column, inside = _tile(rows, width, ROWS, COLUMNS)
    gate_at = row * (2 * width) + column
    gate = tl.load(gate_up_ptr + gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + gate_at + width, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    grad_gate, grad_up = silu_gradients(gate, up, grad)
    tl.store(grad_gate_up_ptr + gate_at, grad_gate, mask=inside)
    tl.store(grad_gate_up_ptr + gate_at + width, grad_up, mask=inside)
