"""Define the layers of the networks.

Weights are float32 and are cast to the activations' dtype where they are used. In shapes, B is sequences, T tokens,
D `hidden_size` and I `intermediate_size`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from hrm_offline.config import ModelConfig
from hrm_offline.ops.add_rms_norm import add_rms_norm
from hrm_offline.ops.attention import attention
from hrm_offline.ops.conv_silu import conv_silu
from hrm_offline.ops.linear_rms_norm import linear_rms_norm
from hrm_offline.ops.linear_swiglu import linear_swiglu


def truncated_normal(*shape: int, std: float) -> torch.Tensor:
    """Draw a normal that is cut at two of its own standard deviations and has standard deviation `std` afterwards.

    This is the default initialisation of Flax and of the published HRM code.
    """
    density = math.exp(-2) / math.sqrt(2 * math.pi)  # of the unit normal at -2 and at +2
    mass = math.erf(math.sqrt(2))  # of the unit normal between -2 and +2
    cut_std = math.sqrt(1 - 4 * density / mass)  # of the unit normal once it is cut
    drawn = torch.empty(shape)
    if drawn.is_meta:  # it has no numbers, and PyTorch would load its compiler to draw none
        return drawn
    return nn.init.trunc_normal_(drawn, std=1.0, a=-2.0, b=2.0) * (std / cut_std)


class Linear(nn.Module):
    """y = x W^T, plus b with `bias`. W [out, in] is LeCun-normal at first, b is zero."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(truncated_normal(out_features, in_features, std=in_features**-0.5))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., in] to [..., out]."""
        bias = self.bias.to(x.dtype) if self.bias is not None else None
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Module):
    """The weight [count, width] of a dense embedding table. The operation `embedding` looks its rows up."""

    def __init__(self, count: int, width: int, std: float):
        super().__init__()
        self.embedding_weight = nn.Parameter(truncated_normal(count, width, std=std))


class PuzzleEmbedding(nn.Module):
    """The table [rows, ndim] of puzzle embeddings.

    The table is a buffer and not a parameter: sign-SGD learns the rows that a batch uses, and no gradient of the
    table's size ever exists.
    """

    def __init__(self, rows: int, ndim: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(rows, ndim))

    def forward(self, identifiers: torch.Tensor) -> torch.Tensor:
        """Look up identifiers int64 [B, columns]: float32 [B, columns, ndim]."""
        return self.weights[identifiers]


class Attention(nn.Module):
    """The first half of a block: rms_norm(x + W_o attention(W_qkv x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads, self.eps = config.num_heads, config.rms_norm_eps
        self.qkv_proj = Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor, cos_sin: torch.Tensor | None, lengths: torch.Tensor | None) -> torch.Tensor:
        qkv = self.qkv_proj(x)  # [B, T, 3 x D]
        seen = attention(qkv, self.num_heads, cos_sin, lengths)  # [B, T, D]
        return linear_rms_norm(seen, self.o_proj.weight.to(x.dtype), x, self.eps)  # [B, T, D]


class Convolution(nn.Module):
    """A weight for each token and one for the token before it, and a bias, for each of `width` channels; then SiLU.

    Numbers are drawn as PyTorch draws those of a convolution, and keep its shapes.
    """

    def __init__(self, width: int):
        super().__init__()
        bound = 2**-0.5  # 1 / sqrt(the two numbers that each result is made of)
        self.weight = nn.Parameter(torch.empty(width, 1, 2).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x [B, T, width] along T. The result has the same shape."""
        return conv_silu(x, self.weight.squeeze(1), self.bias)


class SwiGLU(nn.Module):
    """The second half of a block: rms_norm(x + W_down swiglu(W_gate_up x)).

    With `mlp_convolution`, a convolution along the sequence stands between the two.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size)
        self.dwconv = Convolution(config.intermediate_size) if config.mlp_convolution else None
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = linear_swiglu(x, self.gate_up_proj.weight.to(x.dtype))  # [B, T, I]
        if self.dwconv is not None:
            hidden = self.dwconv(hidden)  # [B, T, I]
        return linear_rms_norm(hidden, self.down_proj.weight.to(x.dtype), x, self.eps)  # [B, T, D]


class Block(nn.Module):
    """A post-norm Transformer block. x [B, T, D]; `attention` says what `cos_sin` and `lengths` are."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: torch.Tensor, cos_sin: torch.Tensor | None, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.mlp(self.self_attn(x, cos_sin, lengths))


class Matrix(nn.Module):
    """The weight [out, in] of a linear map without bias, Glorot-uniform at first."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(out_features, in_features)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., in] to [..., out]."""
        return F.linear(x, self.weight.to(x.dtype))


class Norm(nn.Module):
    """The weight [width] of a normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class PreNormLayer(nn.Module):
    """The weights of a pre-norm layer, whose two halves each add to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.attention_norm = Norm(hidden)
        self.qkv_proj = Matrix(hidden, 3 * hidden)
        self.o_proj = Matrix(hidden, hidden)
        self.mlp_norm = Norm(hidden)
        self.gate_up_proj = Matrix(hidden, 2 * inner)
        self.dwconv = Convolution(inner) if config.mlp_convolution else None
        self.down_proj = Matrix(inner, hidden)

    def mlp(self, normed: torch.Tensor) -> torch.Tensor:
        """Return what the second half adds to the residual stream, for its normalised numbers [..., D]."""
        hidden = linear_swiglu(normed, self.gate_up_proj.weight.to(normed.dtype))  # [..., I]
        if self.dwconv is not None:
            hidden = self.dwconv(hidden)
        return self.down_proj(hidden)


def pass_layers(
    layers: Iterable[Block],
    state: torch.Tensor,
    injection: torch.Tensor,
    cos_sin: torch.Tensor | None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pass a stack of blocks with a state [B, T, D] plus an injection of the same shape, and return the new state."""
    x = state + injection  # [B, T, D]
    for layer in layers:
        x = layer(x, cos_sin, lengths)
    return x


class ReasoningModule(nn.Module):
    """A stack of blocks, or of pre-norm layers, with a name of its own.

    `forward` takes what `pass_layers` takes, and returns normalised numbers in both cases.
    """

    def __init__(self, config: ModelConfig, layers: int):
        super().__init__()
        self.num_heads, self.eps = config.num_heads, config.rms_norm_eps
        kind = PreNormLayer if config.pre_norm else Block
        self.layers = nn.ModuleList(kind(config) for _ in range(layers))
        self.final_norm = Norm(config.hidden_size) if config.pre_norm else None

    def forward(
        self,
        state: torch.Tensor,
        injection: torch.Tensor,
        cos_sin: torch.Tensor | None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.final_norm is None:
            return pass_layers(self.layers, state, injection, cos_sin, lengths)
        x, delta = state + injection, None  # the residual stream [B, T, D], and what is to be added to it
        for layer in self.layers:
            x, normed = add_rms_norm(x, delta, layer.attention_norm.weight, self.eps)
            seen = attention(layer.qkv_proj(normed), self.num_heads, cos_sin, lengths)  # [B, T, D]
            x, normed = add_rms_norm(x, layer.o_proj(seen), layer.mlp_norm.weight, self.eps)
            delta = layer.mlp(normed)
        return add_rms_norm(x, delta, self.final_norm.weight, self.eps)[1]
