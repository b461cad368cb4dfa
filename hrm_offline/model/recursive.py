"""The recursive network: the Hierarchical Reasoning Model (Wang et al. 2025, arXiv 2506.21734) and its relatives.

Two recurrent modules, a slow H and a fast L, refine two states z_H and z_L. An outer step is `H_cycles` cycles, and a
cycle is `L_cycles` passes of L and one pass of H. Only the last pass of each carries gradient, and the states enter
the next outer step detached (section 2, "approximate gradient").

Without L the same code is a Transformer in an outer loop. With L in H's place and gradient through the whole last
cycle, it is the Tiny Recursive Model (Jolicoeur-Martineau 2025, arXiv 2510.04871). With one state and one stack of
layers, which a cycle passes `L_cycles` times, it is the Universal Reasoning Model (Gao et al. 2025, arXiv 2512.14693).

Weights have the key names of the published checkpoints, so that a state dict moves both ways.

In shapes, B is sequences, S cells of a canvas, D `hidden_size`, and T all tokens of a sequence: those of the puzzle,
then those of its canvases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from hrm_offline.common.tokens import COLOURS, Canvas
from hrm_offline.config import ModelConfig
from hrm_offline.model.layers import (
    Block,
    Embedding,
    Linear,
    PuzzleEmbedding,
    ReasoningModule,
    pass_layers,
    truncated_normal,
)
from hrm_offline.ops.embedding import embedding
from hrm_offline.ops.rope import rope_cos_sin


@dataclass
class Output:
    """What an outer step says of the answer."""

    logits: torch.Tensor  # [B, S, vocabulary], of the cells of the input's canvas
    q_halt: torch.Tensor  # float32 [B], values of the halting head
    q_continue: torch.Tensor  # float32 [B]


class RecursiveModel(nn.Module):
    """The network. Its puzzle embedding table has `puzzle_rows` rows; activations and states are of `dtype`."""

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
            longest = config.prefix_tokens + config.canvas_rows * config.canvas_cols
            self.embed_pos = Embedding(longest, hidden, std)
        if config.context_pairs:
            self.embed_canvas = Embedding(config.canvases, hidden, std)
        if config.architecture == "looped":
            self.layers = nn.ModuleList(Block(config) for _ in range(config.H_layers))
        elif config.H_layers:
            self.H_level = ReasoningModule(config, config.H_layers)
        if config.L_layers:
            self.L_level = ReasoningModule(config, config.L_layers)
        for name in self._state_names:  # drawn once and never trained, as published
            self.register_buffer(name, truncated_normal(hidden, std=1.0))
        with torch.no_grad():
            # Halting starts near zero, so that learning it does not disturb the first steps.
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def _state_names(self) -> tuple[str, ...]:
        """Return the names of the initial states, z_H's first."""
        return ("init_hidden",) if self.config.architecture == "looped" else ("H_init", "L_init")

    def puzzle_vectors(self, identifiers: torch.Tensor) -> torch.Tensor | None:
        """Look up identifiers int64 [B, ids]. Returns float32 [B, ids, ndim], None for a network without embeddings."""
        return self.puzzle_emb(identifiers) if self.config.puzzle_columns else None

    def initial_states(self, batch_size: int, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z_H and z_L [B, T, D] before the first outer step. z_L has no token where the network has no L."""
        config = self.config
        tokens = config.prefix_tokens + config.canvases * canvas[0] * canvas[1]
        lengths = (tokens, tokens if config.L_layers else 0)
        return tuple(
            getattr(self, name).to(self.dtype).expand(batch_size, length, config.hidden_size)
            for name, length in zip((self._state_names[0], self._state_names[-1]), lengths)
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
        """Take one outer step: from states [B, T, D] to new detached states and the output.

        inputs: tokens int32 [B, canvases x S]. The last canvas is the input's. The canvases of the demonstrations in
        its context stand before it.
        puzzle_vectors: as `puzzle_vectors` returns them.
        cells: integers [B], how many cells of the input's canvas exist, row by row. Later cells are not seen, and
        their outputs mean nothing. None: all exist, as published.
        """
        config = self.config
        embedded = self._embed(inputs, puzzle_vectors, canvas)  # [B, T, D]
        cos_sin = self._cos_sin(canvas)  # [T, head_dim]
        front = embedded.shape[1] - canvas[0] * canvas[1]  # tokens before the input's canvas
        lengths = None if cells is None else cells + front  # [B]
        with torch.no_grad():
            for _ in range(config.H_cycles - 1):
                z_H, z_L = self._cycle(z_H, z_L, embedded, cos_sin, lengths)
        z_H, z_L = self._cycle(z_H, z_L, embedded, cos_sin, lengths)
        q_halt, q_continue = self.q_values(z_H)  # [B] each
        logits = self.lm_head(z_H)[:, front:]  # [B, S, vocabulary]
        return z_H.detach(), z_L.detach(), Output(logits, q_halt, q_continue)

    def _cycle(self, z_H, z_L, embedded, cos_sin, lengths) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass L `L_cycles` times, then H once. With one state alone, pass H `L_cycles` times.

        In the shared and the looped form all passes carry gradient, otherwise the last pass of L and that of H.
        """
        config, tracked = self.config, torch.is_grad_enabled()
        if config.architecture == "looped":
            for _ in range(config.L_cycles):
                z_H = pass_layers(self.layers, z_H, embedded, cos_sin, lengths)  # [B, T, D]
            return z_H, z_L
        for cycle in range(1, config.L_cycles + 1):
            carries_gradient = config.architecture == "shared" or cycle == config.L_cycles
            with torch.set_grad_enabled(tracked and carries_gradient):
                z_L = self.L_level(z_L, z_H + embedded, cos_sin, lengths)  # [B, T, D]
        slow = self.H_level if config.H_layers else self.L_level  # one stack plays both roles in the shared form
        injection = z_L if config.L_cycles else embedded  # without L, H itself sees the input
        z_H = slow(z_H, injection, cos_sin, lengths)  # [B, T, D]
        return z_H, z_L

    def q_values(self, z_H: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the halting head's q_halt and q_continue, float32 [B] each, for states [B, T, D]."""
        q = self.q_head(z_H[:, 0]).float()  # the first token's state [B, D] -> [B, 2]
        return q[:, 0], q[:, 1]

    def _embed(self, inputs: torch.Tensor, puzzle_vectors: torch.Tensor | None, canvas: Canvas) -> torch.Tensor:
        """Return the network's input [B, T, D]; arguments as for `forward`."""
        config = self.config
        added = []  # embeddings [T, D] that are added to the tokens'
        if config.positions == "learned":
            added.append(self.embed_pos.embedding_weight[self._learned_positions(canvas)])
        if config.context_pairs:
            added.append(self.embed_canvas.embedding_weight.repeat_interleave(canvas[0] * canvas[1], dim=0))
        # Token embeddings start with variance 1 / D, and so does each addition. The scale gives their sum variance 1.
        scale = math.sqrt(config.hidden_size / (1 + len(added)))
        front = everywhere = None
        if puzzle_vectors is not None:
            if config.puzzle_ids > config.puzzle_columns:  # one column says what becomes of all ten colours
                named, colours = puzzle_vectors.split([2, COLOURS], dim=1)  # [B, 2, ndim], [B, 10, ndim]
                puzzle_vectors = torch.cat([named, colours.mean(1, keepdim=True)], dim=1)
            if config.puzzle_place != "added":
                front = puzzle_vectors.flatten(1)  # [B, columns x ndim]
            if config.puzzle_place != "front":
                everywhere = scale * puzzle_vectors.sum(1, keepdim=True).to(self.dtype)  # [B, 1, D]
        embedded = embedding(
            inputs,
            self.embed_tokens.embedding_weight,
            front,
            config.prefix_tokens,
            sum(added) if added else None,
            scale,
            self.dtype,
        )
        return embedded if everywhere is None else embedded + everywhere

    def _learned_positions(self, canvas: Canvas) -> torch.Tensor:
        """Return the row of the position table for each token, int64 [T]. Cells count along the widest canvas."""
        prefix = self.config.prefix_tokens
        row_starts = torch.arange(canvas[0], device=self.device)[:, None] * self.config.canvas_cols
        cell = row_starts + torch.arange(canvas[1], device=self.device)  # [rows, columns]
        cells = cell.flatten().repeat(self.config.canvases)
        return torch.cat([torch.arange(prefix, device=self.device), prefix + cells])

    def _cos_sin(self, canvas: Canvas) -> torch.Tensor | None:
        """Return what rotates queries and keys (see `rope_cos_sin`), None for learned positions."""
        config = self.config
        if config.positions == "learned":
            return None
        # A kernel reads the cosines again for every block of keys. float16 takes half the bytes of float32, and its
        # rounding of a cosine is eight times finer than that of the bfloat16 numbers that are rotated.
        dtype = torch.float16 if self.dtype.itemsize == 2 else torch.float32
        cos_sin = rope_cos_sin(
            config.positions,
            canvas,
            config.prefix_tokens,
            config.canvas_cols,
            config.head_dim,
            config.rope_theta,
            self.device,
            dtype,
        )
        # A context comes without puzzle tokens, so that each canvas of a sequence has the same positions.
        return cos_sin.repeat(config.canvases, 1) if config.context_pairs else cos_sin
