"""Puzzles ready to learn: tasks with their views, embedding rows and canvases, and batches of them.

Rows of the embedding table: row 0 is blank, rows 1 to 8 name the dihedral transforms, row 9 is where a new puzzle
starts from, and rows 10 to 109 name what a colour becomes (factored conditioning). The puzzles' own rows follow. An
artifact carries the first `SHARED_ROWS` rows only, so its size does not grow with its data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.tokens import COLOURS, Canvas
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.augment import Views, views_of
from hrm_offline.data.canvas import (
    Bucket,
    expected_output,
    make_buckets,
    make_length_buckets,
    needed_room,
    sequence_length,
)
from hrm_offline.data.context import NO_PAIR, ContextSource
from hrm_offline.data.epochs import Epochs
from hrm_offline.data.grids import TRANSPOSES
from hrm_offline.data.tasks import Pair, Task

BLANK_ROW, FIRST_DIHEDRAL_ROW, NEW_PUZZLE_ROW, FIRST_COLOUR_ROW = 0, 1, 9, 10
SHARED_ROWS = FIRST_COLOUR_ROW + COLOURS * COLOURS

# Spreads the buckets evenly over the steps: the golden ratio's low-discrepancy sequence.
_GOLDEN_RATIO = 0.6180339887498949
# Short examples of a decoder take visits from long ones up to this number. After 35 visits `decoder-2m` solved 92% of
# the tasks that it solved after 84, 133 or 160 visits: see LOG.md, 2026-11-27.
_ENOUGH_VISITS = 40


@dataclass(frozen=True, eq=False)
class Examples:
    """Pairs of a puzzle set, by index.

    puzzles int64 [N]: the puzzle that each pair belongs to.
    pairs: the N pairs.
    rooms int32 [N, 2]: the rows and columns that each needs on a canvas (see `needed_room`). For a decoder, the rows
    and columns of each output, which are those to expect where the output may not be looked at.
    """

    puzzles: np.ndarray
    pairs: tuple[Pair, ...]
    rooms: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)

    def some(self, index: np.ndarray) -> Examples:
        """Return some of the examples, by index [K]."""
        return Examples(self.puzzles[index], tuple(self.pairs[i] for i in index), self.rooms[index])


class Unpacked(NamedTuple):
    """The columns of `Batch.packed` by name, as numpy arrays or as tensors.

    examples [B]: which example each sequence shows.
    views [B]: in which view, counted over all puzzles.
    corners [B, 2]: row and column of the canvas at which its upper left cell lies.
    contexts [B, context pairs]: the demonstrations in its context, by index; `NO_PAIR` where there is none.
    """

    examples: np.ndarray
    views: np.ndarray
    corners: np.ndarray
    contexts: np.ndarray


def unpack(packed) -> Unpacked:
    """Return the columns of a packed numpy array or tensor [B, 4 + context pairs]."""
    return Unpacked(packed[:, 0], packed[:, 1], packed[:, 2:4], packed[:, 4:])


@dataclass(frozen=True, eq=False)
class Batch:
    """The sequences of a batch: which example each shows, in which view, where on the canvas.

    `bucket` is the bucket that they are from, 0 for a batch that a decoder learns from, which is from several.
    `packed` int32 [B, 4 + context pairs] holds the columns side by side, so that a batch crosses to the device in one
    copy. The tokens are made of it there (`hrm_offline.model.batching`).
    """

    bucket: int
    canvas: Canvas
    packed: np.ndarray

    @classmethod
    def of(
        cls,
        bucket: int,
        canvas: Canvas,
        examples: np.ndarray,
        views: np.ndarray,
        corners: np.ndarray | None = None,
        contexts: np.ndarray | None = None,
    ) -> Batch:
        """Return the batch with these columns: by default all corners at (0, 0), and no context."""
        size = len(examples)
        corners = np.zeros((size, 2), dtype=np.int32) if corners is None else corners
        contexts = np.zeros((size, 0), dtype=np.int32) if contexts is None else contexts
        return cls(bucket, canvas, np.column_stack([examples, views, corners, contexts]).astype(np.int32))

    @classmethod
    def joined(cls, parts: list[Batch]) -> Batch:
        """Return the sequences of several batches of one bucket as one batch, in order."""
        return replace(parts[0], packed=np.concatenate([part.packed for part in parts]))

    @property
    def examples(self) -> np.ndarray:
        """Which example each sequence shows, int32 [B]."""
        return unpack(self.packed).examples

    @property
    def views(self) -> np.ndarray:
        """In which view, counted over all puzzles, int32 [B]."""
        return unpack(self.packed).views

    @property
    def corners(self) -> np.ndarray:
        """Row and column of the canvas at which its upper left cell lies, int32 [B, 2]."""
        return unpack(self.packed).corners

    @property
    def contexts(self) -> np.ndarray:
        """The demonstrations in its context, int32 [B, context pairs]."""
        return unpack(self.packed).contexts

    def __len__(self) -> int:
        return len(self.packed)

    def rows(self, part: slice | np.ndarray) -> Batch:
        """Return the batch with some of its sequences: a slice, indices, or a mask."""
        return replace(self, packed=self.packed[part])


class PuzzleSet:
    """Tasks with their distinct views and their rows of the embedding table.

    `views` is a list by puzzle. `all_views` holds the same views one after another, those of puzzle p from
    `first_view[p]` up to `first_view[p + 1]`. `demonstrations` and `tests` are the tasks' pairs; the room of a test
    input does not depend on its output, known or not. The last `num_companions` of the puzzles are learned along (see
    `with_companions`). Raises `InputError` where there is no task, where the recipe's conditioning does not suit the
    model, or where a grid does not fit the model's largest canvas.
    """

    num_companions = 0

    def __init__(self, tasks: tuple[Task, ...], recipe: Recipe, model: ModelConfig, seed: int):
        if not tasks:
            raise InputError("there is no task to learn from")
        if model.puzzle_columns not in (0, recipe.puzzle_columns):
            raise InputError(
                f"conditioning '{recipe.conditioning}' has {recipe.puzzle_columns} embeddings "
                f"per sequence, the model takes {model.puzzle_columns}"
            )
        if (recipe.conditioning == "few-shot") != bool(model.context_pairs):
            raise InputError(
                f"conditioning '{recipe.conditioning}' does not suit a model with context_pairs {model.context_pairs}"
            )
        self.tasks = tasks
        self.recipe = recipe
        self.seed = seed
        self.puzzle_columns = model.puzzle_columns
        self.context_pairs = model.context_pairs
        self.canvases = model.canvases
        self.is_for_decoder = model.is_decoder
        self.largest_canvas = (model.canvas_rows, model.canvas_cols)
        self._set_views([views_of(t, seed, recipe.rotations, recipe.flips, self._recolourings(t)) for t in tasks])
        self.demonstrations = self._examples([(p, pair, True) for p, task in enumerate(tasks) for pair in task.train])
        self.tests = self._examples([(p, pair, False) for p, task in enumerate(tasks) for pair in task.test])

    def with_companions(self, companions: PuzzleSet) -> PuzzleSet:
        """Return this set followed by the puzzles of another, which are learned along and not answered.

        What belongs to this set keeps its place: its views, its demonstrations, its rows of the embedding table.
        """
        joined, first = copy.copy(self), len(self.tasks)
        joined.tasks = self.tasks + companions.tasks
        joined.num_companions = len(companions.tasks)
        joined._set_views(self.views + companions.views)
        own, others = self.demonstrations, companions.demonstrations
        joined.demonstrations = Examples(
            np.concatenate([own.puzzles, first + others.puzzles]),
            own.pairs + others.pairs,
            np.concatenate([own.rooms, others.rooms]),
        )
        return joined

    def _recolourings(self, task: Task) -> int:
        """Return how many recoloured views a task gets at most."""
        limit = self.recipe.recoloured_tokens
        if self.is_for_decoder and limit:
            tokens = sum(sequence_length(pair.input.shape, pair.output.shape) for pair in task.train)
            return self.recipe.colour_permutations if tokens <= limit else 0
        return self.recipe.colour_permutations

    def _set_views(self, views: list[Views]) -> None:
        self.views = views
        self.all_views = Views(
            np.concatenate([v.elements for v in views]), np.concatenate([v.colours for v in views]), 0
        )
        self.first_view = np.concatenate([[0], np.cumsum([len(v) for v in views])])

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table, the shared rows included."""
        own = {"table": len(self.all_views), "factored": len(self.tasks), "few-shot": 0}
        return SHARED_ROWS + own[self.recipe.conditioning]

    def identifiers(self) -> np.ndarray:
        """Return the rows of the embedding table that condition each view, int32 [views, ids].

        Conditioning "few-shot": no row. "table": the view's own row. "factored": its puzzle's row and its dihedral
        element's; and where the model has a third column, ten more, which say what each colour becomes.
        """
        elements, colours = self.all_views.elements, self.all_views.colours
        if self.puzzle_columns == 0:
            return np.zeros((len(elements), 0), dtype=np.int32)
        if self.recipe.conditioning == "table":
            return SHARED_ROWS + np.arange(len(elements), dtype=np.int32)[:, None]
        puzzle = np.repeat(np.arange(len(self.tasks)), np.diff(self.first_view))
        columns = [SHARED_ROWS + puzzle, FIRST_DIHEDRAL_ROW + elements]
        if self.puzzle_columns == 3:
            columns += [FIRST_COLOUR_ROW + COLOURS * old + colours[:, old].astype(np.int32) for old in range(COLOURS)]
        return np.stack(columns, axis=1).astype(np.int32)

    def row_names(self) -> list[str]:
        """Return what each row of the embedding table stands for, to be saved beside the table."""
        names = shared_row_names()
        for task, views in zip(self.tasks, self.views):
            if self.recipe.conditioning == "factored":
                names.append(task.id)
            elif self.recipe.conditioning == "table":
                names += [f"{task.id}_t{v.element}_{''.join(map(str, v.colours))}" for v in views]
        return names

    def labelled(self) -> Examples:
        """Return every pair whose output is known, test pairs included."""
        return self._examples(
            [
                (p, pair, True)
                for p, task in enumerate(self.tasks)
                for pair in (*task.train, *task.test)
                if pair.output is not None
            ]
        )

    def _examples(self, found: list[tuple[int, Pair, bool]]) -> Examples:
        """Return examples of (puzzle, pair, whether its output may be looked at)."""
        limit = min(self.largest_canvas)  # only a model with an unusual largest canvas is ever short of it
        for puzzle, pair, with_output in found:
            side = max(*pair.input.shape, *(pair.output.shape if with_output else ()))
            if side > limit:
                raise InputError(
                    f"task {shown_name(self.tasks[puzzle].id)}: needs a canvas of side {side}, the model's has {limit}"
                )
        room_of = _output_sides if self.is_for_decoder else needed_room
        rooms = [room_of(self.tasks[puzzle], pair, with_output) for puzzle, pair, with_output in found]
        rooms = np.array(rooms, dtype=np.int64).reshape(-1, 2)
        owners = np.array([puzzle for puzzle, _, _ in found], dtype=np.int64)
        if self.context_pairs:
            rooms = np.maximum(rooms, self._demonstrated_rooms()[owners])
        return Examples(owners, tuple(pair for _, pair, _ in found), np.minimum(rooms, limit).astype(np.int32))

    def _demonstrated_rooms(self) -> np.ndarray:
        """Return the rows and columns [puzzles, 2] that hold every demonstration, because a context shows them."""
        return np.array([np.max([needed_room(task, pair, True) for pair in task.train], axis=0) for task in self.tasks])

    def contexts(self, examples: Examples) -> ContextSource:
        """Return the source that draws the contexts of examples."""
        place = {id(pair): index for index, pair in enumerate(self.demonstrations.pairs)}
        own = np.array([place.get(id(pair), NO_PAIR) for pair in examples.pairs])
        first = np.concatenate([[0], np.cumsum([len(task.train) for task in self.tasks])])
        return ContextSource(examples.puzzles, own, first, self.context_pairs)

    def last_corners(self, sides: np.ndarray, views: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Return the last corner [B, 2] of a canvas from which grids of these sides [B, 2] still fit on it.

        The sides are of the task itself; they change places where the view [B] transposes.
        """
        transposes = TRANSPOSES[self.all_views.elements[views]]
        shown = np.where(transposes[:, None], sides[:, ::-1], sides)
        return np.maximum(canvas - shown, 0)

    def buckets(self, examples: Examples) -> list[Bucket]:
        """Group the examples by canvas, as the recipe says, or for a decoder by the length of their sequences."""
        if self.is_for_decoder:
            return make_length_buckets(self.lengths(examples))
        return make_buckets(examples.rooms, self.recipe.canvas, self.largest_canvas)

    def lengths(self, examples: Examples) -> np.ndarray:
        """Return the tokens of each example as a sequence of a decoder, int [N]."""
        sides = zip((pair.input.shape for pair in examples.pairs), examples.rooms.tolist())
        return np.array([sequence_length(*both) for both in sides])


def _output_sides(task: Task, pair: Pair, with_output: bool) -> tuple[int, int]:
    """Return the rows and columns of a pair's output, or those to expect where it may not be looked at."""
    return pair.output.shape if with_output else expected_output(task, pair)


def shared_row_names() -> list[str]:
    """Return the names of the first `SHARED_ROWS` rows of every embedding table."""
    return [
        "<blank>",
        *(f"<dihedral {e}>" for e in range(8)),
        "<new puzzle>",
        *(f"<colour {old} to {new}>" for old in range(COLOURS) for new in range(COLOURS)),
    ]


class ExampleSource:
    """Training batches of a puzzle set.

    A batch depends on (seed, step) alone. So a run that was resumed, or that is spread over several processes, sees
    the same batches as an unbroken run.

    By bucket, `batch_sizes` is the number of sequences in a batch. A batch is drawn from one bucket, and each bucket
    has such a share of the steps that all examples are offered equally often. `steps_per_visit` steps offer each
    example once. The examples of a decoder are dealt in `Epochs` instead, whatever their buckets. They may be offered
    less often where they are long (see `favour_short`).

    Companions have buckets of their own, after the others. Their steps lie in between, so many that they are the
    recipe's `along_share` of all steps, and offer the companions' examples equally often. `steps_per_visit` steps then
    offer each of the other examples once.
    """

    def __init__(self, puzzles: PuzzleSet, seed: int, include_tests: bool = False):
        self.puzzles = puzzles
        self.seed = seed
        self.examples = puzzles.labelled() if include_tests else puzzles.demonstrations
        is_companion = self.examples.puzzles >= len(puzzles.tasks) - puzzles.num_companions
        own, others = self._buckets_of(~is_companion), self._buckets_of(is_companion)
        self.buckets = own + others
        self._lengths = puzzles.lengths(self.examples) if puzzles.is_for_decoder else None
        self._sides = np.array([np.maximum(p.input.shape, p.output.shape) for p in self.examples.pairs])
        self._first_view = puzzles.first_view[self.examples.puzzles]
        self._num_views = puzzles.first_view[self.examples.puzzles + 1] - self._first_view
        self._contexts = puzzles.contexts(self.examples)
        tokens = puzzles.recipe.tokens_per_step // puzzles.canvases
        self.batch_sizes = [min(b.batch_size(tokens), int(self._num_views[b.members].sum())) for b in self.buckets]
        self._epochs = self._deal(is_companion, tokens) if puzzles.is_for_decoder else []
        first = 1 if self._epochs else len(own)  # of the companions
        steps_to_cover = [float(epochs.batches) for epochs in self._epochs] or [
            len(bucket.members) / size for bucket, size in zip(self.buckets, self.batch_sizes)
        ]
        steps_to_cover = np.array(steps_to_cover)
        if others:
            share = puzzles.recipe.along_share
            along = steps_to_cover[:first].sum() * share / (1 - share)
            steps_to_cover[first:] *= along / steps_to_cover[first:].sum()
        self.steps_per_visit = float(steps_to_cover.sum())
        self._cumulative = np.cumsum(steps_to_cover / steps_to_cover.sum())
        self._phase = np.random.default_rng(seed).random()
        self._known_turns = np.zeros(0, dtype=np.int64)  # of the first steps, where there are two pools

    def _buckets_of(self, chosen: np.ndarray) -> list[Bucket]:
        """Return the buckets of some of the examples, bool [N]."""
        index = np.flatnonzero(chosen)
        if not len(index):
            return []
        buckets = self.puzzles.buckets(self.examples.some(index))
        return [Bucket(bucket.canvas, index[bucket.members]) for bucket in buckets]

    def _deal(self, is_companion: np.ndarray, tokens: int) -> list[Epochs]:
        """Return the epochs of the tasks' own examples, and those of the companions' where there are some."""
        pools = [pool for pool in map(np.flatnonzero, (~is_companion, is_companion)) if len(pool)]
        return [Epochs(pool, self._lengths[pool], tokens, self.seed, i) for i, pool in enumerate(pools)]

    def batch(self, step: int) -> Batch:
        """Return the batch that `step` learns from."""
        if self.puzzles.is_for_decoder:
            return self._dealt(step)
        return self.batch_of(int(self._turns(step)), step)

    def favour_short(self, step: int, full_length: int) -> None:
        """Offer a decoder's own examples of more than `full_length` tokens less often, from `step` on.

        They are offered in proportion to 1 / length to the recipe's `length_power`.
        """
        self._epochs[0].favour_short(self._number_of(0, step), full_length, self.puzzles.recipe.length_power)

    def affordable_length(self, steps: float) -> int | None:
        """Return the length up to which `steps` steps suffice to offer examples often enough.

        Longer ones would be offered less often (see `favour_short`). Return None where no example is favoured.
        """
        recipe = self.puzzles.recipe
        if not self._epochs or not recipe.length_power or not recipe.visits:
            return None
        own = self._cumulative[0] * steps  # the others learn companions
        return self._epochs[0].full_length(own / min(recipe.visits, _ENOUGH_VISITS), recipe.length_power)

    def _dealt(self, step: int) -> Batch:
        """Return the batch of a decoder that `step` learns from."""
        pool = self._pool_of(step)
        examples = self._epochs[pool].batch(self._number_of(pool, step))
        views = self._draw_views(np.random.default_rng([self.seed, step]), examples)
        return Batch.of(0, (1, int(self._lengths[examples].max())), examples, views)

    def _pool_of(self, step: int) -> int:
        """Return which pool of epochs has its turn."""
        if len(self._epochs) == 1:
            return 0
        if step >= len(self._known_turns):
            self._known_turns = self._turns(np.arange(2 * step + 1))
        return int(self._known_turns[step])

    def _number_of(self, pool: int, step: int) -> int:
        """Return how many batches a pool of epochs has had before a step."""
        if len(self._epochs) == 1:
            return step
        self._pool_of(step)
        return int(np.count_nonzero(self._known_turns[:step] == pool))

    def batch_of(self, index: int, step: int) -> Batch:
        """Return a batch of bucket `index`: for `step` if the bucket has its turn then, else to measure with."""
        bucket, size = self.buckets[index], self.batch_sizes[index]
        rng = np.random.default_rng([self.seed, step])
        # Whole permutations one after another, so that all examples come equally often, give or take one.
        times = -(-size // len(bucket.members))
        examples = np.concatenate([rng.permutation(bucket.members) for _ in range(times)])[:size]
        views = self._draw_views(rng, examples)
        corners = self._corners(rng, examples, views, bucket.canvas)
        contexts = self._contexts.draw(rng, examples)
        return Batch.of(index, bucket.canvas, examples, views, corners, contexts)

    def _turns(self, steps: int | np.ndarray) -> np.ndarray:
        """Return which bucket, or which pool of epochs, has its turn at each step. Each comes as often as it should."""
        points = (self._phase + steps * _GOLDEN_RATIO) % 1.0
        return np.minimum(np.searchsorted(self._cumulative, points, side="right"), len(self._cumulative) - 1)

    def _draw_views(self, rng: np.random.Generator, examples: np.ndarray) -> np.ndarray:
        """Return a view of its puzzle for each example."""
        return self._first_view[examples] + rng.integers(self._num_views[examples])

    def _corners(self, rng: np.random.Generator, examples: np.ndarray, views: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Return the corner [B, 2] of each example: (0, 0), or for a share of them anywhere that both grids fit."""
        share = self.puzzles.recipe.translate
        if share == 0:
            return np.zeros((len(examples), 2), dtype=np.int64)
        last = self.puzzles.last_corners(self._sides[examples], views, canvas)
        moved = rng.random(len(examples)) < share
        return np.where(moved[:, None], rng.integers(0, last + 1), 0)
