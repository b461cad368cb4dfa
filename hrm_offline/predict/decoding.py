"""Predict by a decoder: write a greedy grid for every view, search for others, and score grids."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from hrm_offline.answers.invariants import DOUBT_WEIGHT
from hrm_offline.answers.vote import Votes
from hrm_offline.config import AdaptConfig
from hrm_offline.data.canvas import output_lengths, sequence_length
from hrm_offline.data.puzzles import Batch, PuzzleSet
from hrm_offline.data.tasks import MAX_SIDE
from hrm_offline.model.decoder import DecoderModel
from hrm_offline.model.device import free_cache
from hrm_offline.model.graphs import GraphChoice, Outcome, Repeater, compare_outcomes, settle
from hrm_offline.model.network import Network
from hrm_offline.model.pairs import PairMaker
from hrm_offline.ops import dispatch
from hrm_offline.ops.cached_attention import HEAD_DIMS
from hrm_offline.ops.dispatch import decide
from hrm_offline.ops.faults import KernelFault, is_out_of_memory
from hrm_offline.ops.take_rows import sum_rows
from hrm_offline.predict.greedy import Drafts, Written, grid_of, write_grids
from hrm_offline.predict.predictor import Predictor, doubts_of

T = TypeVar("T")

# A grid that a search finds is a candidate to be judged, and hardly a vote.
_WEIGHT_OF_FOUND = 0.01


class DecoderPredictor:
    """Predicts batches of a puzzle set's test inputs (see `PredictionPlan`), and judges candidates for them.

    `sequence_steps` counts the tokens of all grids that were returned. `graphs` says whether steps of writing
    are recorded as CUDA graphs. By default the recipe's setting holds, and nothing is measured unless `try_graphs` is
    called.
    """

    def __init__(self, model: DecoderModel, puzzles: PuzzleSet, recipe: AdaptConfig, graphs: GraphChoice | None = None):
        self.model = model
        self.recipe = recipe
        self.puzzles = puzzles
        self.maker = PairMaker(puzzles, puzzles.tests, model.device)
        self.sequence_steps = 0
        graphs = graphs or GraphChoice.of(recipe.cuda_graphs, model.device)
        if graphs.cuda is not None and not self._may_record:
            graphs.decide(False, "plain attention waits for the device at every token")
        self.repeater = Repeater(graphs)
        self._doubt = doubts_of(puzzles)
        self._written: dict[tuple[int, int], np.ndarray] = {}  # the grids written so far, by test input and view

    def predict(self, batch: Batch) -> Votes:
        """Return one vote for each sequence of the batch, as a grid of the original task.

        The confidence is the likelihood of the grid in its view. The grid is empty, (0, 0), where a sequence did not
        end within the room that an output is expected to need. In a search round (see `PredictionPlan`) a sequence has
        as many votes as further grids were found for it, and may have none.

        A batch that does not fit into memory is computed in halves. Raises `torch.OutOfMemoryError` where a single
        sequence does not fit.
        """
        return self._within_memory(self._predict, batch, Batch.rows, Votes.joined)

    def rehearse(self, batch: Batch) -> None:
        """Write grids that take all their room, to time the longest work that a batch can be. Nothing is kept."""

        def write(part: Batch) -> None:
            self._fill(part, self._room(part)).scores.cpu()  # waits for a GPU

        self._within_memory(write, batch, Batch.rows, lambda parts: None)

    @property
    def records(self) -> bool:
        """Return whether steps of writing are recorded."""
        return self.repeater.on

    @property
    def _may_record(self) -> bool:
        """Return whether our attention serves. A recording of plain attention would fail, and leave PyTorch damaged."""
        model = self.model
        serves = decide("cached_attention", model.device, model.dtype).triton
        return serves and model.config.head_dim in HEAD_DIMS

    def try_graphs(self, batch: Batch) -> None:
        """Decide whether the steps of writing are recorded from now on, where that is to be measured."""
        choice = self.repeater.choice
        if choice.serves is None:
            settle(choice, lambda: self._try_recording(batch))
            self.repeater.on = choice.serves

    @torch.inference_mode()
    def _try_recording(self, batch: Batch) -> tuple[bool, str]:
        """Write the grids of a batch plain and recorded."""
        repeater, outcomes, room = self.repeater, [], self._room(batch)
        room[: len(room) // 2] = (room[: len(room) // 2] + 1) // 2  # so that half of the sequences leave the batch

        def take(recorded: bool) -> Outcome:
            repeater.on = recorded
            seconds = repeater.choice.cuda.seconds(lambda: outcomes.append(self._fill(batch, room)))
            written = outcomes.pop()
            return Outcome(seconds, tuple(column.cpu() for column in vars(written).values()))

        plain, recorded = take(recorded=False), take(recorded=True)
        if not repeater.on:
            return False, repeater.choice.reason
        return compare_outcomes(plain, recorded, lambda: take(recorded=False))

    def _fill(self, batch: Batch, room: np.ndarray) -> Written:
        """Write grids that take all their room, in tokens int64 [B]."""
        return write_grids(self.model, self.maker.prompts(batch), room, fills=True, repeater=self.repeater)

    def trace(self, batch: Batch) -> list[Votes]:
        """Return the votes after each outer step, of which a decoder has one."""
        return [self.predict(batch)]

    def judge(self, tests: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
        """Return the scores float64 [K] of K grids as outputs of test inputs, int64 [K], by index.

        A score is the log-likelihood (see `likelihoods`), less what the task's invariants make doubtful (see
        `Invariants.doubt`).
        """
        doubts = np.array([self._doubt(test, grid) for test, grid in zip(tests.tolist(), outputs)])
        return self.likelihoods(tests, outputs) - DOUBT_WEIGHT * doubts

    def likelihoods(self, tests: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
        """Return the log-likelihoods float64 [K] of K grids as outputs of test inputs, summed over views.

        tests int64 [K] are indices into the puzzle set's tests. The views are those of the puzzle that keep the
        colours, so that all candidates for a test input are judged by the same views.
        """
        of_puzzle = [self._judging_views(int(self.puzzles.tests.puzzles[test])) for test in tests]
        owners = np.repeat(np.arange(len(tests)), [len(views) for views in of_puzzle])
        views = np.concatenate(of_puzzle)
        lengths = self._lengths(tests, outputs)[owners]
        order = np.argsort(lengths, kind="stable")
        sums = np.zeros(len(tests))
        for part in _parts(order, lengths, self.recipe.predict_tokens):
            shown = (tests[owners[part]], views[part], [outputs[owner] for owner in owners[part]])
            likelihoods = self._within_memory(self._likelihoods, shown, _rows_of_shown, np.concatenate)
            np.add.at(sums, owners[part], likelihoods)
        return sums

    def judging_tokens(self, tests: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
        """Return how many tokens are read to judge each of K grids, in all views, int64 [K] (see `judge`)."""
        views = [self.puzzles.views[puzzle].plain for puzzle in self.puzzles.tests.puzzles[tests]]
        return np.array(views, dtype=np.int64) * self._lengths(tests, outputs)

    def _lengths(self, tests: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
        """Return the tokens of each test input with an output, int64 [K]."""
        inputs = [self.puzzles.tests.pairs[test].input for test in tests]
        lengths = [sequence_length(grid.shape, output.shape) for grid, output in zip(inputs, outputs)]
        return np.array(lengths, dtype=np.int64)

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
            if self.repeater.on and not self._may_record:
                self.repeater.turn_off("plain attention waits for the device at every token")
            parts = [batch]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or (size == 1 and not self.repeater.on):
                raise
            parts = [rows(batch, slice(size // 2)), rows(batch, slice(size // 2, None))] if size > 1 else [batch]
            if size == 1:
                self.repeater.turn_off("recordings do not fit into memory")
        free_cache(self.model.device)
        return joined([self._within_memory(compute, part, rows, joined) for part in parts])

    def _likelihoods(self, shown: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> np.ndarray:
        """Return the log-likelihood float64 [K] of outputs for test inputs [K], each in a view [K]."""
        pairs = self.maker.make_with(*shown)
        logits = self.model(pairs, pairs.answers).float()  # [M, vocabulary]
        chosen = logits.log_softmax(-1).gather(1, pairs.targets[pairs.answers][:, None])[:, 0]  # [M]
        return sum_rows(chosen.double()[:, None], pairs.owners[pairs.answers], len(pairs))[:, 0].cpu().numpy()

    def _predict(self, batch: Batch) -> Votes:
        branches = batch.canvas[0] - 1
        if branches:
            return self._search(batch, branches)
        return self._votes(batch, self._write(batch))

    def _write(self, batch: Batch) -> Written:
        """Write a grid for each sequence, the likeliest tokens. Grids that were written before are read again."""
        keys = [*zip(batch.examples.tolist(), batch.views.tolist())]
        known, drafts = [self._written.get(key) for key in keys], None
        if any(grid is not None for grid in known):
            drafts = Drafts.of_grids(known, self.model.device)
        prompts, room = self.maker.prompts(batch), self._room(batch)
        written = write_grids(self.model, prompts, room, drafts, repeater=self.repeater)
        for key, tokens in zip(keys, written.tokens.cpu().numpy()):
            if key not in self._written and (grid := grid_of(tokens)) is not None:
                self._written[key] = grid
        return written

    def _search(self, batch: Batch, branches: int) -> Votes:
        """Return up to `branches` grids for each sequence that leave its greedy path where a second token is likely.

        The likeliest turns are taken first, half of them from the greedy path and the rest from all paths so far.
        Turns that make a path less likely than `search_bound` are not taken, and paths that become so are given up.
        """
        room, floor, found = self._room(batch), math.log(self.recipe.search_bound), []
        paths, owners = self._write(batch), np.arange(len(batch))
        taken: set[tuple[int, tuple[int, ...]]] = set()
        for count in (branches - branches // 2, branches // 2):
            turns = _best_turns(paths, owners, count, floor, taken)
            if not turns:
                break
            rows = owners[[turn.path for turn in turns]]
            part = batch.rows(rows)
            prompts, drafts = self.maker.prompts(part), _drafts_of(turns, paths)
            new = write_grids(self.model, prompts, room[rows], drafts, floor, repeater=self.repeater)
            found.append(self._votes(part, new, _WEIGHT_OF_FOUND))
            paths, owners = _joined(paths, new), np.concatenate([owners, rows])
        return Votes.joined(found) if found else self._votes(batch.rows(slice(0)), None)

    def _votes(self, batch: Batch, written: Written | None, weight: float = 1.0) -> Votes:
        """Return the grids that were written as votes, in the task's own orientation and colours."""
        sides = np.zeros((len(batch), 2), dtype=np.int32)
        cells = np.zeros((len(batch), MAX_SIDE, MAX_SIDE), dtype=np.uint8)
        if written is None:
            return Votes(batch.examples, sides, cells, np.zeros(0, dtype=np.float32))
        self.sequence_steps += int((written.tokens > 0).sum())
        for i, (tokens, view) in enumerate(zip(written.tokens.cpu().numpy(), batch.views)):
            grid = grid_of(tokens)
            if grid is not None:
                grid = self.puzzles.all_views[int(view)].invert(grid)
                sides[i] = grid.shape
                cells[i, : grid.shape[0], : grid.shape[1]] = grid
        weights = np.full(len(batch), weight, dtype=np.float32)
        return Votes(batch.examples, sides, cells, written.scores.exp().cpu().numpy(), weights)

    def _room(self, batch: Batch) -> np.ndarray:
        """Return how many tokens each output may have, its EOS included, int64 [B]."""
        return output_lengths(self.puzzles.tests.rooms[batch.examples])


class _Turn(NamedTuple):
    """A path that is left at a step, for another token."""

    path: int
    step: int
    token: int


def _best_turns(paths: Written, owners: np.ndarray, count: int, bound: float, taken: set) -> list[_Turn]:
    """Return the likeliest turns that lead where no path has gone yet, up to `count` for each owner.

    `owners` int [P] says for which sequence each path was written. Turns less likely than `bound` do not count. The
    beginnings to which the turns lead are added to `taken`.
    """
    turns, tokens, others = (part.cpu().numpy() for part in (paths.turns, paths.tokens, paths.others))
    rows, steps = np.nonzero(turns > bound)
    left = dict.fromkeys(owners.tolist(), count)
    chosen = []
    for i in np.argsort(-turns[rows, steps], kind="stable"):
        path, step = int(rows[i]), int(steps[i])
        turn, owner = _Turn(path, step, int(others[path, step])), int(owners[path])
        begin = (owner, *tokens[path, :step].tolist(), turn.token)
        if left[owner] and begin not in taken:
            left[owner] -= 1
            taken.add(begin)
            chosen.append(turn)
    return chosen


def _drafts_of(turns: list[_Turn], paths: Written) -> Drafts:
    """Return what the paths would be after their turns if nothing else changed. Up to the turn they are fixed."""
    path, step, token = torch.tensor(turns, device=paths.tokens.device).unbind(1)
    tokens = paths.tokens[path].scatter(1, step[:, None], token[:, None])
    return Drafts(tokens, step + 1)


def _joined(first: Written, second: Written) -> Written:
    """Return the sequences of both, padded to one length."""

    def pad(part: torch.Tensor, width: int, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(part, (0, width - part.shape[1]), value=value)

    width = max(first.tokens.shape[1], second.tokens.shape[1])
    return Written(
        torch.cat([pad(first.tokens, width, 0), pad(second.tokens, width, 0)]),
        torch.cat([first.scores, second.scores]),
        torch.cat([pad(first.turns, width, -math.inf), pad(second.turns, width, -math.inf)]),
        torch.cat([pad(first.others, width, 0), pad(second.others, width, 0)]),
    )


def _rows_of_shown(shown: tuple, part: slice) -> tuple:
    return tuple(column[part] for column in shown)


def _parts(order: np.ndarray, lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Cut sequences, in order of their length, into parts of about `tokens` tokens each."""
    number = (np.cumsum(lengths[order]) - 1) // max(1, tokens)
    return [order[number == part] for part in np.unique(number)]


AnyPredictor = Predictor | DecoderPredictor


def new_predictor(
    model: Network, puzzles: PuzzleSet, recipe: AdaptConfig, graphs: GraphChoice | None = None
) -> AnyPredictor:
    """Return the predictor that suits the kind of network. `graphs` is as for both of them."""
    if model.config.is_decoder:
        return DecoderPredictor(model, puzzles, recipe, graphs)
    return Predictor(model, puzzles, recipe, graphs)
