"""An autoregressive Transformer over pairs: it reads an input and predicts the output token by token.

The layers are pre-norm, with causal attention, rotary positions over (row, column, part of the sequence) and a SwiGLU.
The embeddings of a sequence's puzzle, of its dihedral transform and of its colours' mapping are added to every token.
The layers may be passed several times with the same weights (`H_cycles`).

In shapes, N is all tokens of a batch of packed sequences (see `PackedPairs`), B sequences, D `hidden_size`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hrm_offline.common.tokens import COLOURS
from hrm_offline.config import ModelConfig
from hrm_offline.model.layers import Matrix, Norm, PreNormLayer
from hrm_offline.model.pairs import PackedPairs
from hrm_offline.ops.add_rms_norm import add_rms_norm
from hrm_offline.ops.cached_attention import cached_attention
from hrm_offline.ops.causal_attention import causal_attention
from hrm_offline.ops.rotate import rotate
from hrm_offline.ops.take_rows import take_each_once, take_rows

_EMBEDDING_STD = 0.02


class _Embedding(nn.Module):
    """A table of embeddings [count, width] that an optimiser learns as any other weight."""

    def __init__(self, count: int, width: int, name: str):
        super().__init__()
        self.register_parameter(name, nn.Parameter(_EMBEDDING_STD * torch.randn(count, width)))


@dataclass
class Cache:
    """The keys and values [passes, B, heads, room, head_dim] of sequences that are being decoded.

    lengths int64 [B] says how many tokens of each sequence they hold. conditioning [B, D] is added to every token.
    """

    keys: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor
    conditioning: torch.Tensor

    def rows(self, index: torch.Tensor) -> Cache:
        """Return the cache of some sequences, by index [R]; a sequence may be there several times."""
        return Cache(self.keys[:, index], self.values[:, index], self.lengths[index], self.conditioning[index])


class DecoderModel(nn.Module):
    """The network. Its puzzle embedding table has `puzzle_rows` rows; activations are of `dtype`."""

    def __init__(self, config: ModelConfig, puzzle_rows: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        self.dtype = dtype
        hidden = config.hidden_size
        self.embed_tokens = _Embedding(config.vocab_size, hidden, "embedding_weight")
        if config.puzzle_columns:
            self.puzzle_emb = _Embedding(puzzle_rows, hidden, "weights")
        self.layers = nn.ModuleList(PreNormLayer(config) for _ in range(config.H_layers))
        self.final_norm = Norm(hidden)
        self.lm_head = Matrix(hidden, config.vocab_size)
        axes, frequencies = _rotary_frequencies(config)
        self.register_buffer("axes", axes, persistent=False)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def forward(self, pairs: PackedPairs, where: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
        """Return the logits [M, vocabulary] of the tokens that follow the tokens `where`, int64 [M], each of them once.

        None stands for all tokens.
        `dropout` is the share of each layer's results that is left out, for training.
        """
        config = self.config
        conditioning = self.conditioning(pairs.identifiers)
        x = self._embed(pairs.tokens, conditioning, pairs.owners)  # [N, D]
        cos_sin = self._cos_sin(pairs.positions)  # [N, head_dim]
        delta, passes = None, [*self.layers] * config.H_cycles
        for number, layer in enumerate(passes):
            x, normed = add_rms_norm(x, delta, layer.attention_norm.weight, config.rms_norm_eps)
            qkv = layer.qkv_proj(normed)  # [N, 3 x D]
            seen = causal_attention(qkv, config.num_heads, cos_sin, pairs.bounds, pairs.longest)  # [N, D]
            # Nothing after the last attention looks at other tokens.
            if where is not None and number + 1 == len(passes):
                x, seen = take_each_once(x, where), take_each_once(seen, where)  # [M, D]
            delta = F.dropout(layer.o_proj(seen), dropout, training=dropout > 0)
            x, normed = add_rms_norm(x, delta, layer.mlp_norm.weight, config.rms_norm_eps)
            delta = F.dropout(layer.mlp(normed), dropout, training=dropout > 0)
        return self._logits(x, delta)

    def conditioning(self, identifiers: torch.Tensor) -> torch.Tensor | None:
        """Return the sum of each sequence's embeddings [B, D] for rows of the table [B, ids]; None without a table.

        Ten of the rows say what becomes of each colour; their mean is one embedding.
        """
        if not self.config.puzzle_columns:
            return None
        vectors = take_rows(self.puzzle_emb.weights, identifiers)  # [B, ids, D]
        if self.config.puzzle_columns < 3:
            return vectors.sum(1)
        named, colours = vectors.split([2, COLOURS], dim=1)
        return named.sum(1) + colours.mean(1)

    def prefill(self, prompts: PackedPairs, room: int) -> tuple[torch.Tensor, Cache]:
        """Read prompts. Return the logits [B, vocabulary] of the tokens after them, and a cache for `room` tokens."""
        config, sequences = self.config, len(prompts)
        shape = (len(self.layers) * config.H_cycles, sequences, config.num_heads, room, config.head_dim)
        keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        values = torch.zeros_like(keys)
        conditioning = self.conditioning(prompts.identifiers)
        x = self._embed(prompts.tokens, conditioning, prompts.owners)
        cos_sin = self._cos_sin(prompts.positions)
        place = torch.arange(len(x), device=self.device) - prompts.bounds.long()[prompts.owners]  # [N]
        delta = None
        for number, layer in enumerate([*self.layers] * config.H_cycles):
            x, normed = add_rms_norm(x, delta, layer.attention_norm.weight, config.rms_norm_eps)
            qkv = rotate(layer.qkv_proj(normed)[None], config.num_heads, cos_sin)[0]
            _, k, v = qkv.view(len(x), 3, config.num_heads, config.head_dim).unbind(1)  # [N, heads, head_dim]
            keys[number][prompts.owners, :, place] = k
            values[number][prompts.owners, :, place] = v
            seen = causal_attention(qkv, config.num_heads, None, prompts.bounds, prompts.longest)
            x, normed = add_rms_norm(x, layer.o_proj(seen), layer.mlp_norm.weight, config.rms_norm_eps)
            delta = layer.mlp(normed)
        last = prompts.bounds[1:].long() - 1
        if conditioning is None:
            conditioning = x.new_zeros(sequences, config.hidden_size)
        return self._logits(x[last], delta[last]), Cache(keys, values, prompts.bounds.long().diff(), conditioning)

    def extend(self, cache: Cache, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Add a token to each sequence of a cache. Return the logits [B, vocabulary] of the tokens after them.

        tokens int64 [B], positions int64 [B, 3].
        """
        config = self.config
        x = self._embed(tokens, cache.conditioning, None)  # [B, D]
        cos_sin = self._cos_sin(positions)
        delta = None
        for number, layer in enumerate([*self.layers] * config.H_cycles):
            x, normed = add_rms_norm(x, delta, layer.attention_norm.weight, config.rms_norm_eps)
            keys, values = cache.keys[number], cache.values[number]  # [B, heads, room, head_dim]
            qkv = layer.qkv_proj(normed)
            seen = cached_attention(qkv, config.num_heads, cos_sin, keys, values, cache.lengths)
            x, normed = add_rms_norm(x, layer.o_proj(seen), layer.mlp_norm.weight, config.rms_norm_eps)
            delta = layer.mlp(normed)
        cache.lengths += 1
        return self._logits(x, delta)

    def _embed(self, tokens, conditioning: torch.Tensor | None, owners: torch.Tensor | None) -> torch.Tensor:
        """Return the embeddings [N, D] of tokens [N] plus their sequences' conditioning [B, D]."""
        x = take_rows(self.embed_tokens.embedding_weight, tokens)
        if conditioning is not None:
            x = x + (conditioning if owners is None else take_rows(conditioning, owners))
        return x.to(self.dtype)

    def _logits(self, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        _, normed = add_rms_norm(x, delta, self.final_norm.weight, self.config.rms_norm_eps)
        return self.lm_head(normed)

    def _cos_sin(self, positions: torch.Tensor) -> torch.Tensor:
        """Return what rotates queries and keys [N, head_dim] at positions int64 [N, 3] (see `rope_cos_sin`)."""
        angle = positions[:, self.axes] * self.frequencies  # [N, head_dim / 2]
        # As in the recursive network, float16 keeps cosines finer than bfloat16 would.
        dtype = torch.float16 if self.dtype.itemsize == 2 else torch.float32
        return torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)


def _rotary_frequencies(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return by which coordinate of a position each pair of numbers turns, and how fast.

    axes int64 [head_dim / 2]: 0 for the row, 1 for the column, 2 for the part of the sequence. frequencies float32
    [head_dim / 2]: the angle per step. A quarter of them (at least one) are the part's, the rest half and half the
    row's and the column's.
    """
    half = config.head_dim // 2
    parts = max(1, half // 4)
    rows = (half - parts) // 2
    counts = (rows, half - parts - rows, parts)
    axes = [torch.full((count,), axis) for axis, count in enumerate(counts)]
    exponents = [torch.arange(count, dtype=torch.float32) / max(1, count) for count in counts]
    return torch.cat(axes), torch.exp(-math.log(config.rope_theta) * torch.cat(exponents))
