"""Write grids token by token, each time the most likely token, and note where another token would have done too.

A grid is always well formed: it has at most 30 rows of one length, NEW_ROW ends each, and EOS stands after a row.
Tokens that would break this have no chance to be chosen.

To read tokens costs a fraction of writing them one by one. So a draft, a guess at what will be written, is read first.
The tokens up to the first that the network would not write are kept, that one is corrected, and the rest is read again
(as in speculative decoding, Leviathan et al. 2023, arXiv 2211.17192). Every draft leads to the same grid, but for
rounding.

In shapes, B is sequences, A those still in work, L tokens of the longest output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from hrm_offline.common.tokens import COLOURS, EOS, FIRST_COLOUR, NEW_ROW
from hrm_offline.data.tasks import MAX_SIDE
from hrm_offline.model.decoder import Cache, DecoderModel
from hrm_offline.model.graphs import GraphChoice, Repeater
from hrm_offline.model.pairs import PART_OUTPUT, PackedPairs, output_positions

# Finished sequences leave the batch when so large a share of it has ended. Copying the cache costs a few steps. On a
# GPU the steps that follow are recorded again, which costs two more.
_LEAVING_SHARE = {"cpu": 0.25, "cuda": 0.5}
# A draft is read so often at most, and not again where fewer tokens were kept than writing one by one would have made
# in the same time.
_READINGS, _WORTH = 4, 3
_LOOK_EVERY = 8  # tokens between two looks at a GPU for sequences that have ended; each look waits for the device


@dataclass
class Written:
    """The grids that a batch of sequences wrote.

    tokens int64 [B, L]: the tokens of each sequence, 0 after its end. scores float32 [B]: the log-likelihoods.
    others int64 [B, L]: the second likeliest token at each place. turns float32 [B, L]: the log-likelihood of the
    sequence that ends with that token, -inf where there was no choice.
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    turns: torch.Tensor
    others: torch.Tensor


@dataclass
class Drafts:
    """Guesses at the grids of B sequences.

    tokens int64 [B, L], 0 after the end of each guess. fixed int64 [B]: so many of the first tokens are no guess, and
    the sequence has to begin with them.
    """

    tokens: torch.Tensor
    fixed: torch.Tensor

    @classmethod
    def of_grids(cls, grids: list[np.ndarray | None], device: torch.device) -> Drafts:
        """Return grids as guesses; None is no guess."""
        lines = [np.zeros(0, dtype=np.int64) if grid is None else tokens_of_grid(grid) for grid in grids]
        tokens = np.zeros((len(lines), max(map(len, lines))), dtype=np.int64)
        for room, line in zip(tokens, lines):
            room[: len(line)] = line
        return cls(torch.from_numpy(tokens).to(device), torch.zeros(len(lines), dtype=torch.int64, device=device))


@dataclass
class _Drawn:
    """Where each of A sequences stands in the grid that it writes; all int64 [A]."""

    row: torch.Tensor
    col: torch.Tensor
    width: torch.Tensor  # of its rows; 0 while the first one is being written

    @classmethod
    def along(cls, tokens: torch.Tensor) -> _Drawn:
        """Return where sequences stand before each of their tokens int64 [A, L]; the numbers are [A, L] too."""
        row, col, _ = output_positions(tokens).unbind(2)
        ends = tokens == NEW_ROW
        width = torch.where(ends.any(1), ends.int().argmax(1), 0)  # of the first row
        return cls(row, col, torch.where(row > 0, width[:, None], 0))

    def at(self, *index: torch.Tensor) -> _Drawn:
        return _Drawn(self.row[index], self.col[index], self.width[index])

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

    def advance_(self, tokens: torch.Tensor) -> None:
        """Go on to where the sequences stand after tokens [A]."""
        ends = tokens == NEW_ROW
        self.width.copy_(torch.where(ends & (self.width == 0), self.col, self.width))
        self.row += ends.long()
        self.col.copy_(torch.where(ends, 0, self.col + 1))


@dataclass
class _Work:
    """The sequences [A] of a batch that are being written. Each step changes the tensors in place.

    alive int64: their rows in the batch. tokens int64: the last that each has written. places int64: how many tokens
    each has written. done bool: whether it has ended.
    """

    alive: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor
    done: torch.Tensor
    drawn: _Drawn
    cache: Cache

    def rows(self, index: torch.Tensor) -> _Work:
        """Return the work on some of the sequences, by index."""
        columns = (column[index] for column in (self.alive, self.tokens, self.places, self.done))
        return _Work(*columns, self.drawn.at(index), self.cache.rows(index))


def write_grids(
    model: DecoderModel,
    prompts: PackedPairs,
    room: np.ndarray,
    drafts: Drafts | None = None,
    floor: float = -math.inf,
    fills: bool = False,
    repeater: Repeater | None = None,
) -> Written:
    """Write a grid after each prompt, of at most `room` tokens with its EOS, int64 [B].

    A sequence that does not end within its room has no EOS among its tokens, nor has one that was given up because
    its log-likelihood fell below `floor`. Drafts save time and change nothing but rounding; to use them waits for the
    device. With `fills` a grid without draft takes all its room, so that the longest work can be timed. A `repeater`
    may record the steps. Call it in inference mode.
    """
    size, most, device = len(prompts), int(room.max()), model.device
    blank = torch.zeros(size, most, dtype=torch.int64, device=device)
    written = Written(
        blank, torch.zeros(size, device=device), torch.full((size, most), -math.inf, device=device), blank.clone()
    )
    limits, begun = torch.from_numpy(room).to(device), torch.zeros(size, dtype=torch.int64, device=device)
    alive = torch.arange(size, device=device)  # the row of the batch that each sequence in work belongs to
    if drafts is not None:
        begun = _read_drafts(model, prompts, drafts, limits, written, floor)
        alive = (~(written.tokens == EOS).any(1) & (begun < limits) & (written.scores >= floor)).nonzero()[:, 0]
        prompts = prompts.continued(alive, written.tokens[alive], begun[alive]) if len(alive) else prompts
    if len(alive):
        work, logits = _begin(model, prompts, written, alive, begun)
        choose = _Chooser(written, limits, floor, fills)
        choose(logits, work)
        _write_on(model, work, choose, repeater or Repeater(GraphChoice(None, False)))
    return written


def _begin(
    model: DecoderModel, prompts: PackedPairs, written: Written, alive: torch.Tensor, begun: torch.Tensor
) -> tuple[_Work, torch.Tensor]:
    """Read prompts of the sequences `alive` [A], which hold the `begun` [B] tokens of their grids already.

    Returns the work on them, and the logits [A, vocabulary] of their next tokens.
    """
    logits, cache = model.prefill(prompts, prompts.longest + written.tokens.shape[1])
    places, nothing = begun[alive], torch.zeros_like(alive)
    drawn = _Drawn.along(torch.cat([written.tokens[alive], nothing[:, None]], dim=1))
    drawn = drawn.at(torch.arange(len(alive), device=model.device), places)
    return _Work(alive, nothing, places, nothing.bool(), drawn, cache), logits


@dataclass
class _Chooser:
    """Chooses tokens and writes them down. `limits` int64 [B] are the tokens that each sequence may have."""

    written: Written
    limits: torch.Tensor
    floor: float
    fills: bool

    def __call__(self, logits: torch.Tensor, work: _Work) -> None:
        """Write down the next token of each sequence in work, by its logits [A, vocabulary]."""
        written, alive = self.written, work.alive
        work.places.clamp_(max=written.tokens.shape[1] - 1)  # of sequences that have ended and have not left yet
        places, done = work.places, work.done
        possible = work.drawn.allowed(logits.shape[1])
        if self.fills:
            possible[:, EOS] = False
        chances = logits.float().log_softmax(-1).masked_fill(~possible, -math.inf)  # [A, vocabulary]
        (best_chance, second_chance), (tokens, second) = (part.unbind(1) for part in chances.topk(2, dim=1))
        before = written.scores[alive]
        kept = (written.turns[alive, places], written.others[alive, places], written.tokens[alive, places])
        written.turns[alive, places] = torch.where(done, kept[0], before + second_chance)
        written.others[alive, places] = torch.where(done, kept[1], second)
        written.tokens[alive, places] = torch.where(done, kept[2], tokens)
        written.scores[alive] = before + torch.where(done, 0, best_chance)
        work.tokens.copy_(tokens)
        work.places += 1
        work.done |= (tokens == EOS) | (work.places >= self.limits[alive]) | (written.scores[alive] < self.floor)


def _write_on(model: DecoderModel, work: _Work, choose: _Chooser, repeater: Repeater) -> None:
    """Write the sequences in work to their ends. Each has its first token."""
    most = choose.written.tokens.shape[1]
    write_next = repeater.runner(partial(_write_next, model, work, choose), most - 1)
    for step in range(most - 1):
        left = _staying(work.done, step, model.device)
        if left is not None:
            if not len(left):
                return
            work = work.rows(left)
            write_next = repeater.runner(partial(_write_next, model, work, choose), most - 1 - step)
        write_next()


def _write_next(model: DecoderModel, work: _Work, choose: _Chooser) -> None:
    """Write one further token of each sequence in work."""
    logits = model.extend(work.cache, work.tokens, work.drawn.positions())
    work.drawn.advance_(work.tokens)
    choose(logits, work)


def _read_drafts(
    model: DecoderModel, prompts: PackedPairs, drafts: Drafts, limits: torch.Tensor, written: Written, floor: float
) -> torch.Tensor:
    """Write down what the network would write of drafts. Return how many tokens each sequence has then, int64 [B]."""
    most = written.tokens.shape[1]
    guess = drafts.tokens[:, :most]
    guess = torch.cat([guess, guess.new_zeros(len(guess), most - guess.shape[1])], dim=1)  # [B, L]
    begun = torch.zeros_like(limits)
    active = torch.arange(len(guess), device=guess.device)
    for _ in range(_READINGS):
        kept = _read_once(model, prompts, active, guess, drafts.fixed, limits, written)  # [A]
        gained, begun[active] = kept - begun[active], kept
        guess[active] = torch.where(written.tokens[active] > 0, written.tokens[active], guess[active])
        has_ended = (written.tokens[active] == EOS).any(1)
        has_more = (guess[active] > 0).sum(1) > kept
        active = active[~has_ended & has_more & (gained >= _WORTH) & (written.scores[active] >= floor)]
        if not len(active):
            break
    return begun


@dataclass
class _Reading:
    """What the network would write at each place of the guesses [A, L] that it has read; nothing past their ends.

    tokens int64: those that the network would write, or must. chances float32: their log-probabilities. is_free bool:
    whether the network was free to write another token. others int64 and other_chances float32: the second likeliest
    tokens.
    """

    tokens: torch.Tensor
    chances: torch.Tensor
    is_free: torch.Tensor
    others: torch.Tensor
    other_chances: torch.Tensor


def _read_once(
    model: DecoderModel,
    prompts: PackedPairs,
    active: torch.Tensor,
    guess: torch.Tensor,
    fixed: torch.Tensor,
    limits: torch.Tensor,
    written: Written,
) -> torch.Tensor:
    """Read the guesses [B, L] of the sequences `active` [A], and write down tokens up to the first that differs.

    Returns how many tokens of each sequence are written now, int64 [A].
    """
    guess = guess[active]  # [A, L]
    most = guess.shape[1]
    read = _read(model, prompts, active, guess, fixed, limits)
    differs = (read.tokens != guess) | (read.tokens == EOS)
    kept = torch.where(differs.any(1), differs.int().argmax(1), most - 1) + 1  # [A]
    keeps = torch.arange(most, device=guess.device) < kept[:, None]  # [A, L]
    before = read.chances.cumsum(1) - read.chances
    turns = torch.where(read.is_free, before + read.other_chances, -math.inf)
    written.tokens[active] = torch.where(keeps, read.tokens, 0)
    written.scores[active] = torch.where(keeps, read.chances, 0).sum(1)
    written.turns[active] = torch.where(keeps, turns, -math.inf)
    written.others[active] = torch.where(keeps, read.others, 0)
    return kept


def _read(
    model: DecoderModel,
    prompts: PackedPairs,
    active: torch.Tensor,
    guess: torch.Tensor,
    fixed: torch.Tensor,
    limits: torch.Tensor,
) -> _Reading:
    """Read the guesses [A, L] of the sequences `active` in one pass. `fixed` and `limits` are int64 [B]."""
    shown = (guess > 0) & (guess != EOS)  # EOS is never read
    counts = shown.long().cumprod(1).sum(1).minimum(limits[active] - 1)  # [A]
    pairs = prompts.continued(active, guess, counts)
    chances = model(pairs, pairs.answers).float().log_softmax(-1)  # [M, vocabulary]
    owners = torch.arange(len(active), device=guess.device).repeat_interleave(counts + 1)  # [M]
    places = torch.arange(len(owners), device=guess.device) - (torch.cumsum(counts + 1, 0) - counts - 1)[owners]
    possible = chances.masked_fill(~_Drawn.along(guess).at(owners, places).allowed(chances.shape[1]), -math.inf)
    (_, other_chances), (best, others) = (part.unbind(1) for part in possible.topk(2, dim=1))
    is_fixed = places < fixed[active][owners]
    tokens = torch.where(is_fixed, guess[owners, places], best)

    def spread(values: torch.Tensor, fill: float) -> torch.Tensor:
        spread_out = torch.full(guess.shape, fill, dtype=values.dtype, device=guess.device)
        spread_out[owners, places] = values
        return spread_out  # [A, L]

    return _Reading(
        tokens=spread(tokens, 0),
        chances=spread(chances.gather(1, tokens[:, None])[:, 0], 0.0),
        is_free=spread(~is_fixed, False),
        others=spread(others, 0),
        other_chances=spread(other_chances, -math.inf),
    )


def _staying(done: torch.Tensor, step: int, device: torch.device) -> torch.Tensor | None:
    """Return the index of the sequences that stay in the batch, None where all of them do for now."""
    if device.type == "cuda" and step % _LOOK_EVERY:
        return None
    stay = (~done).nonzero()[:, 0]
    return stay if not len(stay) or len(stay) <= (1 - _LEAVING_SHARE[device.type]) * len(done) else None


def grid_of(tokens: np.ndarray) -> np.ndarray | None:
    """Return the grid uint8 that a sequence wrote, or None where it did not end."""
    ends = np.flatnonzero(tokens == EOS)
    if not len(ends):
        return None
    rows = int((tokens[: ends[0]] == NEW_ROW).sum())
    return (tokens[: ends[0]].reshape(rows, -1)[:, :-1] - FIRST_COLOUR).astype(np.uint8)


def tokens_of_grid(grid: np.ndarray) -> np.ndarray:
    """Return the tokens int64 that write a grid, EOS included: the inverse of `grid_of`."""
    ends = np.full((len(grid), 1), NEW_ROW)
    return np.append(np.concatenate([grid.astype(np.int64) + FIRST_COLOUR, ends], axis=1), EOS)
