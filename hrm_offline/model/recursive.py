"""The recursive network: the Hierarchical Reasoning Model (Wang et al. 2025, arXiv 2506.21734) and its relatives.

Two recurrent modules, a slow H and a fast L, refine two states. One outer step is `H_cycles`
times (`L_cycles` of L, then one of H); only the last L and the last H carry gradient, and the
states go detached into the next outer step (section 2, "approximate gradient"). The same with no L
is a Transformer in an outer loop; with L in H's place and gradient through the whole last cycle it is the Tiny
Recursive Model (Jolicoeur-Martineau 2025, arXiv 2510.04871). Weights have the published checkpoints' key names,
so a state dict moves both ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from hrm_offline.common.tokens import COLOURS, Canvas
from hrm_offline.config import ModelConfig
from hrm_offline.model.layers import (
    Embedding,
    Linear,
    PuzzleEmbedding,
    ReasoningModule,
    truncated_normal,
)
from hrm_offline.ops.embedding import embedding
from hrm_offline.ops.rope import rope_table


@dataclass
class Output:
    """logits [B, S, vocabulary] of the canvas' cells; the halting head's two values, float32 [B]."""

    logits: torch.Tensor
    q_halt: torch.Tensor
    q_continue: torch.Tensor


class RecursiveModel(nn.Module):
    """`puzzle_rows`: rows of the puzzle embedding table. `dtype`: of activations and states."""

    def __init__(self, config: ModelConfig, puzzle_rows: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        self.dtype = dtype
        hidden = config.hidden_size
        std = hidden**-0.5
        self.embed_tokens = Embedding(config.vocab_size, hidden, std)
        self.lm_head = Linear(hidden, config.vocab_size)
        self.q_head = Linear(hidden, 2, bias=True)
        if config.puzzle_columns:
            self.puzzle_emb = PuzzleEmbedding(puzzle_rows, config.puzzle_emb_ndim)
        if config.positions == "learned":
            longest = config.puzzle_tokens + config.canvas_rows * config.canvas_cols
            self.embed_pos = Embedding(longest, hidden, std)
        if config.context_pairs:
            self.embed_canvas = Embedding(config.canvases, hidden, std)
        if config.H_layers:
            self.H_level = ReasoningModule(config, config.H_layers)
        if config.L_layers:
            self.L_level = ReasoningModule(config, config.L_layers)
        # Drawn once and never trained, as published.
        self.register_buffer("H_init", truncated_normal(hidden, std=1.0))
        self.register_buffer("L_init", truncated_normal(hidden, std=1.0))
        with torch.no_grad():
            # Halting starts near zero, so that learning it does not disturb the first steps.
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5)

    @property
    def device(self) -> torch.device:
        return self.H_init.device

    def puzzle_vectors(self, identifiers: torch.Tensor) -> torch.Tensor | None:
        """Embeddings float32 [B, ids, ndim] of identifiers [B, ids], None without any."""
        return self.puzzle_emb(identifiers) if self.config.puzzle_columns else None

    def initial_states(self, batch_size: int, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """z_H and z_L [B, tokens, D] before the first outer step; z_L has no token where there is no L."""
        config = self.config
        tokens = config.puzzle_tokens + config.canvases * canvas[0] * canvas[1]
        lengths = (tokens, tokens if config.L_cycles else 0)
        return tuple(
            init.to(self.dtype).expand(batch_size, length, config.hidden_size)
            for init, length in zip((self.H_init, self.L_init), lengths)
        )

    def forward(
        self,
        z_H: torch.Tensor,
        z_L: torch.Tensor,
        inputs: torch.Tensor,
        puzzle_vectors: torch.Tensor | None,
        canvas: Canvas,
        cells: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, Output]:
        """One outer step: states [B, T, D], inputs [B, canvases x S] tokens -> new detached states, output.

        The input's canvas is the last of a sequence's; those of its context, if it has one, stand before it.
        `cells` int [B] says how many of the canvas' cells, row by row, exist for each sequence; those
        after them are not seen and their outputs mean nothing. None: all of them, as published.
        """
        config = self.config
        embedded = self._embed(inputs, puzzle_vectors, canvas)
        table = self._rope_table(canvas)
        front = embedded.shape[1] - canvas[0] * canvas[1]
        lengths = None if cells is None else cells + front
        with torch.no_grad():
            for _ in range(config.H_cycles - 1):
                z_H, z_L = self._cycle(z_H, z_L, embedded, table, lengths)
        z_H, z_L = self._cycle(z_H, z_L, embedded, table, lengths)
        q_halt, q_continue = self.q_values(z_H)
        return z_H.detach(), z_L.detach(), Output(self.lm_head(z_H)[:, front:], q_halt, q_continue)

    def _cycle(self, z_H, z_L, embedded, table, lengths) -> tuple[torch.Tensor, torch.Tensor]:
        """`L_cycles` of L and one of H; the gradient reaches all of it in the shared form, else the last L."""
        config, tracked = self.config, torch.is_grad_enabled()
        for cycle in range(1, config.L_cycles + 1):
            with torch.set_grad_enabled(tracked and (config.architecture == "shared" or cycle == config.L_cycles)):
                z_L = self.L_level(z_L, z_H + embedded, table, lengths)
        slow = self.H_level if config.H_layers else self.L_level
        return slow(z_H, z_L if config.L_cycles else embedded, table, lengths), z_L

    def q_values(self, z_H: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The halting head's two values, float32 [B], for states [B, T, D]."""
        q = self.q_head(z_H[:, 0]).float()
        return q[:, 0], q[:, 1]

    def _embed(self, inputs: torch.Tensor, puzzle_vectors: torch.Tensor | None, canvas: Canvas) -> torch.Tensor:
        config = self.config
        added = []  # to the tokens' embeddings
        if config.positions == "learned":
            added.append(self.embed_pos.embedding_weight[self._learned_positions(canvas)])
        if config.context_pairs:
            added.append(self.embed_canvas.embedding_weight.repeat_interleave(canvas[0] * canvas[1], dim=0))
        scale = math.sqrt(config.hidden_size / (1 + len(added)))  # keeps the variance of the sum
        front = None
        if puzzle_vectors is not None:
            if config.puzzle_ids > config.puzzle_columns:  # what becomes of each colour: one column for all ten
                named, colours = puzzle_vectors.split([2, COLOURS], dim=1)
                puzzle_vectors = torch.cat([named, colours.mean(1, keepdim=True)], dim=1)
            front = puzzle_vectors.flatten(1)
        return embedding(
            inputs,
            self.embed_tokens.embedding_weight,
            front,
            config.puzzle_tokens,
            sum(added) if added else None,
            scale,
            self.dtype,
        )

    def _learned_positions(self, canvas: Canvas) -> torch.Tensor:
        prefix = self.config.puzzle_tokens
        cell = torch.arange(canvas[0], device=self.device)[:, None] * self.config.canvas_cols
        cell = cell + torch.arange(canvas[1], device=self.device)
        cell = prefix + cell.flatten().repeat(self.config.canvases)
        return torch.cat([torch.arange(prefix, device=self.device), cell])

    def _rope_table(self, canvas: Canvas) -> torch.Tensor | None:
        config = self.config
        if config.positions == "learned":
            return None
        # A kernel reads the table again for every block of keys. float16 halves that, and rounds a cosine
        # eight times finer than bfloat16 rounds what it turns.
        dtype = torch.float16 if self.dtype.itemsize == 2 else torch.float32
        table = rope_table(
            config.positions,
            canvas,
            config.puzzle_tokens,
            config.canvas_cols,
            config.head_dim,
            config.rope_theta,
            self.device,
            dtype,
        )
        return table.repeat(config.canvases, 1) if config.context_pairs else table  # without puzzle tokens
