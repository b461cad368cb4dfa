"""Prediction token by token: greedy decoding with a cache, and judging grids by their likelihood.

A grid is always well formed: it has at most 30 rows of one length, NEW_ROW ends each, and EOS stands after a row.
Tokens that would break this have no chance to be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from hrm_offline.answers.vote import Votes
from hrm_offline.common.tokens import COLOURS, EOS, FIRST_COLOUR, NEW_ROW
from hrm_offline.config import AdaptConfig
from hrm_offline.data.canvas import sequence_length
from hrm_offline.data.puzzles import Batch, PuzzleSet
from hrm_offline.data.tasks import MAX_SIDE
from hrm_offline.model.decoder import DecoderModel
from hrm_offline.model.network import Network
from hrm_offline.model.pairs import PART_OUTPUT, PairMaker
from hrm_offline.ops import dispatch
from hrm_offline.ops.faults import KernelFault, is_out_of_memory
from hrm_offline.predict.predictor import Predictor

# Finished sequences leave the batch when so large a share of it has ended. Copying the cache costs a few steps.
_LEAVING_SHARE = 0.25
_LOOK_EVERY = 8  # tokens between two looks at a GPU for sequences that have ended; each look waits for the device

T = TypeVar("T")


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


class DecoderPredictor:
    """Predicts batches of a puzzle set's test inputs (see `PredictionPlan`), and judges candidates for them.

    `sequence_steps` counts the tokens that were decoded, summed over sequences.
    """

    def __init__(self, model: DecoderModel, puzzles: PuzzleSet, config: AdaptConfig):
        self.model = model
        self.config = config
        self.puzzles = puzzles
        self.maker = PairMaker(puzzles, puzzles.tests, model.device)
        self.sequence_steps = 0

    def predict(self, batch: Batch) -> Votes:
        """Return one vote for each sequence of the batch, as a grid of the original task.

        The confidence is the likelihood of the grid in its view. The grid is empty, (0, 0), where a sequence did not
        end within the room that an output is expected to need. A batch that does not fit into memory is computed in
        halves. Raises `torch.OutOfMemoryError` where a single sequence does not fit.
        """
        return self._within_memory(self._predict, batch, Batch.rows, Votes.joined)

    def trace(self, batch: Batch) -> list[Votes]:
        """Return the votes after each outer step, of which a decoder has one."""
        return [self.predict(batch)]

    def judge(self, tests: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
        """Return the log-likelihood float64 [K] of K grids as outputs of test inputs, summed over views.

        tests int64 [K] are indices into the puzzle set's tests. The views are those of the puzzle that keep the
        colours, so that all candidates for a test input are judged by the same views.
        """
        of_puzzle = [self._judging_views(int(self.puzzles.tests.puzzles[test])) for test in tests]
        owners = np.repeat(np.arange(len(tests)), [len(views) for views in of_puzzle])
        views = np.concatenate(of_puzzle)
        sides = [
            sequence_length(self.puzzles.tests.pairs[test].input.shape, grid.shape)
            for test, grid in zip(tests, outputs)
        ]
        lengths = np.array(sides)[owners]
        order = np.argsort(lengths, kind="stable")
        scores = np.zeros(len(tests))
        for part in _parts(order, lengths, self.config.predict_tokens):
            shown = (tests[owners[part]], views[part], [outputs[owner] for owner in owners[part]])
            likelihoods = self._within_memory(self._likelihoods, shown, _rows_of_shown, np.concatenate)
            np.add.at(scores, owners[part], likelihoods)
        return scores

    def _judging_views(self, puzzle: int) -> np.ndarray:
        first = self.puzzles.first_view[puzzle]
        return first + np.arange(self.puzzles.views[puzzle].plain)

    def _within_memory(self, compute: Callable[..., T], batch, rows: Callable, joined: Callable[[list[T]], T]) -> T:
        """Return what `compute` makes of a batch, in halves if it needs too much memory.

        An operation whose kernel fails is demoted to plain PyTorch, and the batch is computed again.
        """
        size = len(batch[0]) if isinstance(batch, tuple) else len(batch)
        try:
            with torch.inference_mode():
                return compute(batch)
        except KernelFault as fault:
            dispatch.demote_after(fault)
            parts = [batch]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            parts = [rows(batch, slice(size // 2)), rows(batch, slice(size // 2, None))]
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return joined([self._within_memory(compute, part, rows, joined) for part in parts])

    def _likelihoods(self, shown: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> np.ndarray:
        """Return the log-likelihood float64 [K] of outputs for test inputs [K], each in a view [K]."""
        pairs = self.maker.make_with(*shown)
        logits = self.model(pairs, pairs.answers).float()  # [M, vocabulary]
        chosen = logits.log_softmax(-1).gather(1, pairs.targets[pairs.answers][:, None])[:, 0]  # [M]
        sums = torch.zeros(len(pairs), dtype=torch.float64, device=chosen.device)
        return sums.index_add(0, pairs.owners[pairs.answers], chosen.double()).cpu().numpy()

    def _predict(self, batch: Batch) -> Votes:
        tokens, scores = self._decode(batch)
        sides = np.zeros((len(batch), 2), dtype=np.int32)
        cells = np.zeros((len(batch), MAX_SIDE, MAX_SIDE), dtype=np.uint8)
        for i, (written, view) in enumerate(zip(tokens.cpu().numpy(), batch.views)):
            grid = _grid_of(written)
            if grid is not None:
                grid = self.puzzles.all_views[int(view)].invert(grid)
                sides[i] = grid.shape
                cells[i, : grid.shape[0], : grid.shape[1]] = grid
        return Votes(batch.examples, sides, cells, scores.exp().cpu().numpy())

    def _room(self, batch: Batch) -> np.ndarray:
        """Return how many tokens each output may have, its EOS included, int64 [B]."""
        sides = self.puzzles.tests.rooms[batch.examples].astype(np.int64)
        return np.maximum(sides[:, 0] * (sides[:, 1] + 1), sides[:, 1] * (sides[:, 0] + 1)) + 1

    def _decode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the most likely token again and again.

        Returns the tokens int64 [B, most], 0 after the end, and the log-likelihood float32 [B] of each sequence.
        """
        device, room = self.model.device, self._room(batch)
        most = int(room.max())
        prompts = self.maker.prompts(batch)
        logits, cache = self.model.prefill(prompts, prompts.longest + most)
        size = len(batch)
        tokens = torch.zeros(size, most, dtype=torch.int64, device=device)
        scores = torch.zeros(size, device=device)
        limits = torch.from_numpy(room).to(device)
        alive = torch.arange(size, device=device)  # the row of the batch that each sequence still in work belongs to
        zeros = torch.zeros_like(alive)
        drawn, done = _Drawn(zeros, zeros, zeros), torch.zeros(size, dtype=torch.bool, device=device)
        for step in range(most):
            self.sequence_steps += len(alive)
            chances = logits.float().log_softmax(-1)  # [A, vocabulary]
            best = chances.masked_fill(~drawn.allowed(chances.shape[1]), -torch.inf).argmax(-1)  # [A]
            written = torch.where(done, 0, best)
            tokens[alive, step] = written
            scores[alive] += torch.where(done, 0, chances.gather(1, best[:, None])[:, 0])
            done = done | (best == EOS) | (step + 1 >= limits[alive])
            left = self._leave(done, step)
            if step + 1 == most or (left is not None and not len(left)):
                break
            if left is not None:
                alive, best, done, drawn, cache = (
                    alive[left],
                    best[left],
                    done[left],
                    drawn.rows(left),
                    cache.rows(left),
                )
            logits = self.model.extend(cache, best, drawn.positions(), prompts.longest + step)
            drawn = drawn.advance(best)
        return tokens, scores

    def _leave(self, done: torch.Tensor, step: int) -> torch.Tensor | None:
        """Return the index of the sequences that stay in the batch, None where all of them do for now."""
        if self.model.device.type == "cuda" and step % _LOOK_EVERY:
            return None
        stay = (~done).nonzero()[:, 0]
        return stay if not len(stay) or len(stay) <= (1 - _LEAVING_SHARE) * len(done) else None


def _rows_of_shown(shown: tuple, part: slice) -> tuple:
    return tuple(column[part] for column in shown)


def _parts(order: np.ndarray, lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Cut sequences, in order of their length, into parts of about `tokens` tokens each."""
    number = (np.cumsum(lengths[order]) - 1) // max(1, tokens)
    return [order[number == part] for part in np.unique(number)]


def _grid_of(tokens: np.ndarray) -> np.ndarray | None:
    """Return the grid uint8 that a sequence wrote, or None where it did not end."""
    ends = np.flatnonzero(tokens == EOS)
    if not len(ends):
        return None
    rows = int((tokens[: ends[0]] == NEW_ROW).sum())
    return (tokens[: ends[0]].reshape(rows, -1)[:, :-1] - FIRST_COLOUR).astype(np.uint8)


AnyPredictor = Predictor | DecoderPredictor


def new_predictor(model: Network, puzzles: PuzzleSet, config: AdaptConfig) -> AnyPredictor:
    """Return the predictor that suits the kind of network."""
    return (DecoderPredictor if model.config.is_decoder else Predictor)(model, puzzles, config)
