"""Softmax attention over packed sequences, in which a token sees its own sequence up to itself.

The sequences of a batch lie end to end, so that no token is padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hrm_offline.ops.rotate import rotate

# --- public function ---


def causal_attention(
    qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor | None, bounds: torch.Tensor, longest: int
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v of each head, [N, heads x head_dim] in the dtype of `qkv`.

    `qkv` [N, 3 x heads x head_dim] holds each token's queries, then its keys, then its values.
    `cos_sin` [N, head_dim] rotates queries and keys (see `rope_cos_sin`); None rotates nothing.
    `bounds`, integers [B + 1], starts with 0 and ends with N: sequence b has the tokens from bounds[b] up to
    bounds[b + 1]. `longest` is at least the length of every sequence.
    Raises `ValueError` for shapes and dtypes that do not fit.
    """
    _check(qkv, num_heads, cos_sin, bounds)
    if cos_sin is not None:
        qkv = rotate(qkv[None], num_heads, cos_sin)[0]
    return causal_attention_reference(qkv, num_heads, None, bounds, longest)


def _check(qkv, num_heads, cos_sin, bounds) -> None:
    tokens, width = qkv.shape
    if width % (6 * num_heads):
        raise ValueError(f"qkv has {width} columns, expected 3 x {num_heads} heads x an even head dimension")
    head_dim = width // (3 * num_heads)
    if cos_sin is not None and cos_sin.shape != (tokens, head_dim):
        raise ValueError(f"cos_sin has shape {tuple(cos_sin.shape)}, expected {tokens}, {head_dim}")
    if bounds.ndim != 1 or len(bounds) < 1 or bounds.is_floating_point():
        raise ValueError(f"bounds are {bounds.dtype} of shape {tuple(bounds.shape)}, expected sequences + 1 integers")


# --- plain PyTorch twin ---


def causal_attention_reference(
    qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor | None, bounds: torch.Tensor, longest: int
) -> torch.Tensor:
    """Compute `causal_attention` in plain PyTorch: each sequence is padded to the longest."""
    if cos_sin is not None:
        qkv = rotate(qkv[None], num_heads, cos_sin)[0]
    tokens, width = qkv.shape
    sequences = len(bounds) - 1
    if tokens == sequences * longest:  # nothing to pad
        padded, place = qkv, None
    else:
        lengths = bounds[1:] - bounds[:-1]
        owner = torch.repeat_interleave(torch.arange(sequences, device=qkv.device), lengths, output_size=tokens)
        place = torch.arange(tokens, device=qkv.device) + (owner * longest - bounds[owner])  # [N]
        padded = qkv.new_zeros(sequences * longest, width).index_copy(0, place, qkv)
    by_head = padded.view(sequences, longest, 3 * num_heads, width // (3 * num_heads)).transpose(1, 2)
    q, k, v = by_head.chunk(3, dim=1)  # [B, heads, T, head_dim] each
    # What pads a sequence comes after all of its tokens, so that none of them sees it.
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = out.transpose(1, 2).reshape(sequences * longest, width // 3)
    return out if place is None else out[place]
