"""Write grids token by token, each time the most likely token, and note where another token would have done too.

A grid is always well formed: it has at most 30 rows of one length, NEW_ROW ends each, and EOS stands after a row.
Tokens that would break this have no chance to be chosen. In shapes, B is sequences, A those still in work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hrm_offline.common.tokens import COLOURS, EOS, FIRST_COLOUR, NEW_ROW
from hrm_offline.data.tasks import MAX_SIDE
from hrm_offline.model.decoder import DecoderModel
from hrm_offline.model.pairs import PART_OUTPUT, PackedPairs

# Finished sequences leave the batch when so large a share of it has ended. Copying the cache costs a few steps.
_LEAVING_SHARE = 0.25
_LOOK_EVERY = 8  # tokens between two looks at a GPU for sequences that have ended; each look waits for the device


@dataclass
class Written:
    """The grids that a batch of B sequences wrote.

    tokens int64 [B, most]: what each wrote, 0 after its end. scores float32 [B]: the log-likelihoods.
    turns float32 [B, most] and others int64 [B, most]: at each token the second best one, and the log-likelihood of
    the sequence that ends with it; -inf where there was no choice.
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    turns: torch.Tensor
    others: torch.Tensor


@dataclass
class _Drawn:
    """Where each of A sequences stands in the grid that it writes; all int64 [A]."""

    row: torch.Tensor
    col: torch.Tensor
    width: torch.Tensor  # of its rows; 0 while the first one is being written

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """Return which tokens may come next, bool [A, vocabulary]."""
        is_known, at_start = self.width > 0, self.col == 0
        most = torch.where(is_known, self.width, MAX_SIDE)
        allowed = torch.zeros(len(self.row), vocabulary, dtype=torch.bool, device=self.row.device)
        may_colour = (self.col < most) & (self.row < MAX_SIDE)
        allowed[:, FIRST_COLOUR : FIRST_COLOUR + COLOURS] = may_colour[:, None]
        allowed[:, NEW_ROW] = ~at_start & (~is_known | (self.col == self.width))
        allowed[:, EOS] = at_start & (self.row > 0)
        return allowed

    def positions(self) -> torch.Tensor:
        """Return the positions int64 [A, 3] of the tokens that come next."""
        return torch.stack([self.row, self.col, torch.full_like(self.row, PART_OUTPUT)], dim=1)

    def advance(self, tokens: torch.Tensor) -> _Drawn:
        """Return where the sequences stand after tokens [A]."""
        ends = tokens == NEW_ROW
        width = torch.where(ends & (self.width == 0), self.col, self.width)
        return _Drawn(self.row + ends.long(), torch.where(ends, 0, self.col + 1), width)

    def rows(self, index: torch.Tensor) -> _Drawn:
        return _Drawn(self.row[index], self.col[index], self.width[index])


def write_grids(
    model: DecoderModel, prompts: PackedPairs, room: np.ndarray, forced: torch.Tensor | None = None
) -> Written:
    """Write a grid after each prompt, of at most `room` tokens with its EOS, int64 [B].

    `forced` int64 [B, most] holds the tokens that a sequence has to begin with, then 0. A sequence that does not end
    within its room has no EOS among its tokens. Call it in inference mode.
    """
    size, most, device = len(prompts), int(room.max()), model.device
    logits, cache = model.prefill(prompts, prompts.longest + most)
    blank = torch.zeros(size, most, dtype=torch.int64, device=device)
    written = Written(
        blank, torch.zeros(size, device=device), torch.full((size, most), -math.inf, device=device), blank.clone()
    )
    forced = blank if forced is None else forced
    limits = torch.from_numpy(room).to(device)
    alive = torch.arange(size, device=device)  # the row of the batch that each sequence in work belongs to
    zeros = torch.zeros_like(alive)
    drawn, done = _Drawn(zeros, zeros, zeros), torch.zeros(size, dtype=torch.bool, device=device)
    for step in range(most):
        tokens = _choose(written, logits, drawn, done, alive, forced[alive, step], step)  # [A]
        done = done | (tokens == EOS) | (step + 1 >= limits[alive])
        left = _leave(done, step, device)
        if step + 1 == most or (left is not None and not len(left)):
            break
        if left is not None:
            alive, tokens, done = alive[left], tokens[left], done[left]
            drawn, cache = drawn.rows(left), cache.rows(left)
        logits = model.extend(cache, tokens, drawn.positions())
        drawn = drawn.advance(tokens)
    return written


def _choose(written: Written, logits, drawn: _Drawn, done, alive, forced, step: int) -> torch.Tensor:
    """Write down the next token of each sequence in work, and return the tokens int64 [A]."""
    chances = logits.float().log_softmax(-1)  # [A, vocabulary]
    possible = chances.masked_fill(~drawn.allowed(chances.shape[1]), -math.inf)
    (_, second_chance), (best, second) = (part.unbind(1) for part in possible.topk(2, dim=1))
    is_free = forced == 0
    tokens = torch.where(is_free, best, forced)
    before = written.scores[alive]
    written.turns[alive, step] = torch.where(is_free & ~done, before + second_chance, -math.inf)
    written.others[alive, step] = second
    written.tokens[alive, step] = torch.where(done, 0, tokens)
    written.scores[alive] = before + torch.where(done, 0, chances.gather(1, tokens[:, None])[:, 0])
    return tokens


def _leave(done: torch.Tensor, step: int, device: torch.device) -> torch.Tensor | None:
    """Return the index of the sequences that stay in the batch, None where all of them do for now."""
    if device.type == "cuda" and step % _LOOK_EVERY:
        return None
    stay = (~done).nonzero()[:, 0]
    return stay if not len(stay) or len(stay) <= (1 - _LEAVING_SHARE) * len(done) else None


def grid_of(tokens: np.ndarray) -> np.ndarray | None:
    """Return the grid uint8 that a sequence wrote, or None where it did not end."""
    ends = np.flatnonzero(tokens == EOS)
    if not len(ends):
        return None
    rows = int((tokens[: ends[0]] == NEW_ROW).sum())
    return (tokens[: ends[0]].reshape(rows, -1)[:, :-1] - FIRST_COLOUR).astype(np.uint8)
