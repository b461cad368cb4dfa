"""Attention of the newest token of many sequences to keys and values that are kept from token to token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hrm_offline.ops.rotate import rotate

# --- public function ---


def cached_attention(
    qkv: torch.Tensor,
    num_heads: int,
    cos_sin: torch.Tensor | None,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Add a token to each of B sequences, and return its attention to all tokens so far, [B, heads x head_dim].

    `qkv` [B, 3 x heads x head_dim] holds the new token's queries, then its key, then its value of each head.
    `cos_sin` [B, head_dim] rotates the queries and keys; None rotates nothing.
    `keys` and `values` [B, heads, room, head_dim] hold the first `lengths` tokens (integers [B], less than the room)
    of each sequence. The new token's are written behind them, in place. Numbers beyond have no influence, as long as
    they are finite.
    There is no gradient. Raises `ValueError` for shapes that do not fit.
    """
    batch, width = qkv.shape
    head_dim = width // (3 * num_heads)
    if keys.shape != values.shape or keys.shape[:2] != (batch, num_heads) or keys.shape[3] != head_dim:
        raise ValueError(f"keys {tuple(keys.shape)}, values {tuple(values.shape)}: do not fit {tuple(qkv.shape)}")
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise ValueError(f"lengths are {lengths.dtype} of shape {tuple(lengths.shape)}, expected {batch} integers")
    return cached_attention_reference(qkv, num_heads, cos_sin, keys, values, lengths)


# --- plain PyTorch twin ---


def cached_attention_reference(
    qkv: torch.Tensor,
    num_heads: int,
    cos_sin: torch.Tensor | None,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Compute `cached_attention` in plain PyTorch."""
    batch, width = qkv.shape
    if cos_sin is not None:
        qkv = rotate(qkv[:, None], num_heads, cos_sin[:, None])[:, 0]
    q, k, v = qkv.view(batch, 3, num_heads, width // (3 * num_heads)).unbind(1)  # [B, heads, head_dim] each
    rows = torch.arange(batch, device=qkv.device)
    keys[rows, :, lengths] = k
    values[rows, :, lengths] = v
    exists = torch.arange(keys.shape[2], device=qkv.device) <= lengths[:, None]  # [B, room]
    out = F.scaled_dot_product_attention(q.unsqueeze(2), keys, values, attn_mask=exists[:, None, None])
    return out.flatten(1)  # [B, heads, 1, head_dim] -> [B, D]
