"""Puzzles ready to learn: tasks with their views, embedding rows and canvases, and batches of them.

Embedding rows: row 0 is blank, rows 1 to 8 name the dihedral transforms, row 9 is where a new
puzzle starts from, rows 10 to 109 name what a colour becomes (factored conditioning), and the
puzzles' own rows follow. An artifact carries the first `SHARED_ROWS` rows only, so its size does
not grow with its data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import COLOURS, Canvas
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.augment import Views, views_of
from hrm_offline.data.canvas import Bucket, make_buckets, needed_room
from hrm_offline.data.context import NO_PAIR, ContextSource
from hrm_offline.data.grids import TRANSPOSES
from hrm_offline.data.tasks import Pair, Task

BLANK_ROW, FIRST_DIHEDRAL_ROW, NEW_PUZZLE_ROW, FIRST_COLOUR_ROW = 0, 1, 9, 10
SHARED_ROWS = FIRST_COLOUR_ROW + COLOURS * COLOURS

# Spreads the buckets evenly over the steps: the golden ratio's low-discrepancy sequence.
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class Examples:
    """Pairs of a puzzle set by index: the puzzle each belongs to int64 [N], the pairs, and the room
    int32 [N, 2] that each needs on a canvas (see `needed_room`)."""

    puzzles: np.ndarray
    pairs: tuple[Pair, ...]
    rooms: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class Batch:
    """Which examples of a bucket, how augmented and where on its canvas; the tokens are made of
    this on the device (`hrm_offline.model.batching`).

    plan int32 [B, 4 + context pairs]: example, view (counted over all puzzles), row and column of the corner,
    and the demonstrations of the context (`NO_PAIR`: none).
    """

    bucket: int
    canvas: Canvas
    plan: np.ndarray

    def __len__(self) -> int:
        return len(self.plan)

    def rows(self, part: slice) -> Batch:
        """The same batch, fewer examples."""
        return replace(self, plan=self.plan[part])


class PuzzleSet:
    """Tasks with their distinct views and a row of the embedding table for each.

    `views` is a list by puzzle; `all_views` holds them one after another, those of puzzle p from
    `first_view[p]` on. `demonstrations` and `tests` are the tasks' pairs; the room of a test input does
    not depend on its output, known or not. Raises `InputError` where the recipe's conditioning does
    not suit the model, or a grid does not fit its largest canvas.
    """

    def __init__(self, tasks: tuple[Task, ...], recipe: Recipe, model: ModelConfig, seed: int):
        if not tasks:
            raise InputError("there is no task to learn from")
        if model.puzzle_columns not in (0, recipe.puzzle_columns):
            raise InputError(
                f"conditioning '{recipe.conditioning}' has {recipe.puzzle_columns} embeddings "
                f"a sequence, the model takes {model.puzzle_columns}"
            )
        if (recipe.conditioning == "few-shot") != bool(model.context_pairs):
            raise InputError(
                f"conditioning '{recipe.conditioning}' does not suit a model with context_pairs {model.context_pairs}"
            )
        self.tasks = tasks
        self.recipe = recipe
        self.seed = seed
        self.columns, self.context_pairs, self.canvases = model.puzzle_columns, model.context_pairs, model.canvases
        self.largest_canvas = (model.canvas_rows, model.canvas_cols)
        self.views = [views_of(t, seed, recipe.rotations, recipe.flips, recipe.colour_permutations) for t in tasks]
        self.all_views = Views(
            np.concatenate([v.elements for v in self.views]), np.concatenate([v.colours for v in self.views]), 0
        )
        self.first_view = np.concatenate([[0], np.cumsum([len(v) for v in self.views])])
        self.demonstrations = self._examples([(p, pair, True) for p, task in enumerate(tasks) for pair in task.train])
        self.tests = self._examples([(p, pair, False) for p, task in enumerate(tasks) for pair in task.test])

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table, the shared ones included."""
        own = {"table": len(self.all_views), "factored": len(self.tasks), "few-shot": 0}
        return SHARED_ROWS + own[self.recipe.conditioning]

    def identifiers(self) -> np.ndarray:
        """Rows of the embedding table that condition each view, int32 [views, ids]: none, its own,
        or its puzzle's, its dihedral element's and, where the model has a third column, one for what
        each of the ten colours becomes."""
        elements, colours = self.all_views.elements, self.all_views.colours
        if self.columns == 0:
            return np.zeros((len(elements), 0), dtype=np.int32)
        if self.recipe.conditioning == "table":
            return SHARED_ROWS + np.arange(len(elements), dtype=np.int32)[:, None]
        puzzle = np.repeat(np.arange(len(self.tasks)), np.diff(self.first_view))
        columns = [SHARED_ROWS + puzzle, FIRST_DIHEDRAL_ROW + elements]
        if self.columns == 3:
            columns += [FIRST_COLOUR_ROW + COLOURS * old + colours[:, old].astype(np.int32) for old in range(COLOURS)]
        return np.stack(columns, axis=1).astype(np.int32)

    def row_names(self) -> list[str]:
        """What each row of the embedding table stands for, to be saved beside it."""
        names = shared_row_names()
        for task, views in zip(self.tasks, self.views):
            if self.recipe.conditioning == "factored":
                names.append(task.id)
            elif self.recipe.conditioning == "table":
                names += [f"{task.id}_t{v.element}_{''.join(map(str, v.colours))}" for v in views]
        return names

    def labelled(self) -> Examples:
        """Every pair whose output is known, test pairs included."""
        return self._examples(
            [
                (p, pair, True)
                for p, task in enumerate(self.tasks)
                for pair in (*task.train, *task.test)
                if pair.output is not None
            ]
        )

    def _examples(self, found: list[tuple[int, Pair, bool]]) -> Examples:
        limit = min(self.largest_canvas)  # only a model with an unusual largest canvas is ever short of it
        for puzzle, pair, with_output in found:
            side = max(*pair.input.shape, *(pair.output.shape if with_output else ()))
            if side > limit:
                raise InputError(
                    f"task {self.tasks[puzzle].id}: needs a canvas of side {side}, the model's has {limit}"
                )
        rooms = np.array([needed_room(self.tasks[puzzle], pair, with_output) for puzzle, pair, with_output in found])
        owners = np.array([puzzle for puzzle, _, _ in found])
        if self.context_pairs:
            rooms = np.maximum(rooms, self._demonstrated_rooms()[owners])
        return Examples(owners, tuple(pair for _, pair, _ in found), np.minimum(rooms, limit).astype(np.int32))

    def _demonstrated_rooms(self) -> np.ndarray:
        """Rows and columns [puzzles, 2] that hold every demonstration, which a context has to show."""
        return np.array(
            [
                [max(needed_room(task, pair, True)[axis] for pair in task.train) for axis in (0, 1)]
                for task in self.tasks
            ]
        )

    def contexts(self, examples: Examples) -> ContextSource:
        """Where the contexts of examples are drawn from."""
        place = {id(pair): index for index, pair in enumerate(self.demonstrations.pairs)}
        own = np.array([place.get(id(pair), NO_PAIR) for pair in examples.pairs])
        first = np.concatenate([[0], np.cumsum([len(task.train) for task in self.tasks])])
        return ContextSource(examples.puzzles, own, first, self.context_pairs)

    def buckets(self, examples: Examples) -> list[Bucket]:
        """The examples grouped by canvas, as the recipe says."""
        return make_buckets(examples.rooms, self.recipe.canvas, self.largest_canvas)


def shared_row_names() -> list[str]:
    """Names of the first `SHARED_ROWS` rows of every embedding table."""
    return [
        "<blank>",
        *(f"<dihedral {e}>" for e in range(8)),
        "<new puzzle>",
        *(f"<colour {old} to {new}>" for old in range(COLOURS) for new in range(COLOURS)),
    ]


class ExampleSource:
    """Training batches of a puzzle set. A batch depends on (seed, step) alone, so that a resumed
    run, or one spread over several processes, sees what an unbroken one sees."""

    def __init__(self, puzzles: PuzzleSet, seed: int, include_tests: bool = False):
        self.puzzles = puzzles
        self.seed = seed
        self.examples = puzzles.labelled() if include_tests else puzzles.demonstrations
        self.buckets = puzzles.buckets(self.examples)
        self._sides = np.array([np.maximum(p.input.shape, p.output.shape) for p in self.examples.pairs])
        self._first_view = puzzles.first_view[self.examples.puzzles]
        self._num_views = puzzles.first_view[self.examples.puzzles + 1] - self._first_view
        self._contexts = puzzles.contexts(self.examples)
        tokens = puzzles.recipe.tokens_per_step // puzzles.canvases
        self.batch_sizes = [min(b.batch_size(tokens), int(self._num_views[b.members].sum())) for b in self.buckets]
        steps_to_cover = np.array([len(b.members) / size for b, size in zip(self.buckets, self.batch_sizes)])
        self.steps_per_visit = float(steps_to_cover.sum())
        self.shares = steps_to_cover / steps_to_cover.sum()
        self._cumulative = np.cumsum(self.shares)
        self._phase = np.random.default_rng(seed).random()

    def batch(self, step: int) -> Batch:
        """The examples offered at `step`."""
        return self.batch_of(self._bucket(step), step)

    def batch_of(self, index: int, step: int) -> Batch:
        """The examples of bucket `index` that would be offered at `step`."""
        bucket, size = self.buckets[index], self.batch_sizes[index]
        rng = np.random.default_rng([self.seed, step])
        rounds = [rng.permutation(bucket.members) for _ in range(-(-size // len(bucket.members)))]
        example = np.concatenate(rounds)[:size]
        view = self._first_view[example] + rng.integers(self._num_views[example])
        corner = self._corners(rng, example, view, bucket.canvas)
        context = self._contexts.draw(rng, example)
        return Batch(index, bucket.canvas, np.column_stack([example, view, corner, context]).astype(np.int32))

    def _bucket(self, step: int) -> int:
        """Which bucket step `step` learns from; each as often as covers its pairs evenly."""
        point = (self._phase + step * _GOLDEN_RATIO) % 1.0
        return min(int(np.searchsorted(self._cumulative, point, side="right")), len(self.buckets) - 1)

    def _corners(self, rng, example, view, canvas) -> np.ndarray:
        """Corner of each example: (0, 0), or for a share of them anywhere that both grids fit."""
        if self.puzzles.recipe.translate == 0:
            return np.zeros((len(example), 2), dtype=np.int64)
        sides = self._sides[example]
        turned = TRANSPOSES[self.puzzles.all_views.elements[view]]
        room = np.maximum(canvas - np.where(turned[:, None], sides[:, ::-1], sides), 0)
        moved = rng.random(len(example)) < self.puzzles.recipe.translate
        return np.where(moved[:, None], rng.integers(0, room + 1), 0)
