"""Puzzles ready to learn: tasks with their views, embedding rows and canvases, and batches of them.

Embedding rows: row 0 is blank, rows 1 to 8 name the dihedral transforms (used by factored
conditioning), row 9 is where a new puzzle starts from, and the puzzles' own rows follow. An
artifact carries the first `SHARED_ROWS` rows only, so its size does not grow with its data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.augment import View, views_of
from hrm_offline.data.grids import TRANSPOSES, GridStore
from hrm_offline.data.tasks import MAX_SIDE, Task
from hrm_offline.errors import InputError
from hrm_offline.tokens import IGNORE, PAD, Canvas

BLANK_ROW, FIRST_DIHEDRAL_ROW, NEW_PUZZLE_ROW, SHARED_ROWS = 0, 1, 9, 10

# Tasks of near-equal size share a canvas. Few shapes, so that whatever is prepared for a shape
# (rotary tables now, compiled kernels later) is reused.
_BUCKET_SIDES = (3, 5, 7, 10, 13, 16, 20, 25, MAX_SIDE)
# Spreads the buckets evenly over the steps: the golden ratio's low-discrepancy sequence.
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class Bucket:
    """Puzzles that share a canvas."""

    canvas: Canvas
    puzzles: tuple[int, ...]

    @property
    def area(self) -> int:
        return self.canvas[0] * self.canvas[1]

    def batch_size(self, tokens: int) -> int:
        """Examples that fit in `tokens` canvas tokens; one at the least."""
        return max(1, tokens // self.area)


@dataclass(frozen=True)
class Batch:
    """Examples of one bucket, on its canvas of S cells: inputs uint8 [B, S]; labels int64 [B, S], IGNORE where
    the loss passes over; puzzle_identifiers int64 [B, columns], rows of the embedding table."""

    bucket: int
    canvas: Canvas
    inputs: np.ndarray
    labels: np.ndarray
    puzzle_identifiers: np.ndarray

    def rows(self, part: slice) -> Batch:
        """The same batch, fewer examples."""
        return replace(self, inputs=self.inputs[part], labels=self.labels[part],
                       puzzle_identifiers=self.puzzle_identifiers[part])


class PuzzleSet:
    """Tasks with their distinct views, a row of the embedding table for each, and buckets."""

    def __init__(self, tasks: tuple[Task, ...], recipe: Recipe, model: ModelConfig, seed: int):
        if not tasks:
            raise InputError("there is no task to learn from")
        if model.puzzle_columns not in (0, recipe.puzzle_columns):
            raise InputError(f"conditioning '{recipe.conditioning}' gives {recipe.puzzle_columns} embedding ids "
                             f"a sequence, the model takes {model.puzzle_columns}")
        self.tasks = tasks
        self.recipe = recipe
        self.columns = model.puzzle_columns
        self.views = [views_of(t, seed, recipe.dihedral, recipe.colour_permutations) for t in tasks]
        rows = [1 if recipe.conditioning == "factored" else len(v) for v in self.views]
        self.first_row = SHARED_ROWS + np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self.buckets = make_buckets(tasks, recipe.canvas, (model.canvas_rows, model.canvas_cols))
        self._require_room()

    def _require_room(self) -> None:
        """Only a model with an unusual largest canvas lacks it."""
        for bucket in self.buckets:
            for puzzle in bucket.puzzles:
                if needed_side(self.tasks[puzzle]) > min(bucket.canvas):
                    raise InputError(f"task {self.tasks[puzzle].id}: needs a canvas of side "
                                     f"{needed_side(self.tasks[puzzle])}, the model's has {min(bucket.canvas)}")

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table, the shared ones included."""
        return int(self.first_row[-1])

    def identifiers(self, puzzle: int, view: int) -> list[int]:
        """Rows of the embedding table that condition this view of this puzzle."""
        if self.columns == 0:
            return []
        if self.recipe.conditioning == "table":
            return [int(self.first_row[puzzle]) + view]
        return [int(self.first_row[puzzle]), FIRST_DIHEDRAL_ROW + self.views[puzzle][view].element]

    def row_names(self) -> list[str]:
        """What each row of the embedding table stands for, to be saved beside it."""
        names = ["<blank>", *(f"<dihedral {e}>" for e in range(8)), "<new puzzle>"]
        for task, views in zip(self.tasks, self.views):
            if self.recipe.conditioning == "factored":
                names.append(task.id)
            else:
                names += [f"{task.id}_t{v.element}_{''.join(map(str, v.colours))}" for v in views]
        return names


def needed_side(task: Task) -> int:
    """Side of the square that should hold every grid of the task, the unseen outputs included.

    Covers all inputs, all demonstrated outputs and, along each axis, how the demonstrations grow:
    where every output is its input times the same factor, or plus the same length, test outputs
    are expected to be so too; where all grow otherwise, by the largest factor plus one. Never
    looks at a test output. A grid on a canvas of this side plus one also has its EOS edge.
    """
    known = [g for p in task.train for g in (p.input, p.output)] + [p.input for p in task.test]
    side = max(max(grid.shape) for grid in known)
    for axis in (0, 1):
        longest = max(p.input.shape[axis] for p in task.test)
        lengths = [(p.input.shape[axis], p.output.shape[axis]) for p in task.train]
        side = max(side, _expected_length(longest, lengths))
    return min(side, MAX_SIDE)


def _expected_length(longest: int, lengths: list[tuple[int, int]]) -> int:
    """Length of the output of an input of length `longest`, as (input, output) lengths suggest."""
    factors = {after / before for before, after in lengths}
    gains = {after - before for before, after in lengths}
    expected = []
    if len(factors) == 1:
        expected.append(round(longest * max(factors)))
    if len(gains) == 1:
        expected.append(longest + max(gains))
    if not expected and min(factors) > 1:
        expected.append(round(longest * (max(factors) + 1)))
    return max(expected, default=0)


def make_buckets(tasks: tuple[Task, ...], canvas: str, largest: Canvas) -> list[Bucket]:
    """Group tasks by canvas: all on the `largest`, or each on the tightest bucket's."""
    if canvas == "full":
        return [Bucket(largest, tuple(range(len(tasks))))]
    groups: dict[int, list[int]] = {}
    sides = [needed_side(task) for task in tasks]
    for index, side in enumerate(sides):
        groups.setdefault(min(b for b in _BUCKET_SIDES if b >= side), []).append(index)
    buckets = []
    for _, members in sorted(groups.items()):
        side = max(sides[i] for i in members) + 1  # one more for the EOS edge
        buckets.append(Bucket((min(side, largest[0]), min(side, largest[1])), tuple(members)))
    return buckets


class ExampleSource:
    """Training batches of a puzzle set. A batch depends on (seed, step) alone, so that a resumed
    run, or one spread over several processes, sees what an unbroken one sees."""

    def __init__(self, puzzles: PuzzleSet, seed: int, include_tests: bool = False):
        self.puzzles = puzzles
        self.seed = seed
        grids, self.pairs = [], []
        for bucket in puzzles.buckets:
            members = []
            for puzzle in bucket.puzzles:
                task = puzzles.tasks[puzzle]
                for pair in (*task.train, *(task.test if include_tests else ())):
                    if pair.output is not None:
                        members.append((puzzle, len(grids)))
                        grids += [pair.input, pair.output]
            self.pairs.append(np.array(members))
        self.store = GridStore(grids)
        tokens = puzzles.recipe.tokens_per_step
        distinct = [sum(len(puzzles.views[puzzle]) for puzzle, _ in members) for members in self.pairs]
        self.batch_sizes = [min(b.batch_size(tokens), n) for b, n in zip(puzzles.buckets, distinct)]
        steps_to_cover = np.array([len(p) / b for p, b in zip(self.pairs, self.batch_sizes)])
        self.steps_a_visit = float(steps_to_cover.sum())
        self._shares = np.cumsum(steps_to_cover) / steps_to_cover.sum()
        self._phase = np.random.default_rng(seed).random()

    def batch(self, step: int) -> Batch:
        """The examples offered at `step`."""
        index = self._bucket(step)
        bucket, size = self.puzzles.buckets[index], self.batch_sizes[index]
        rng = np.random.default_rng([self.seed, step])
        pairs = self.pairs[index]
        rounds = [rng.permutation(len(pairs)) for _ in range(-(-size // len(pairs)))]
        puzzle, grid = pairs[np.concatenate(rounds)[:size]].T
        views = [int(rng.integers(len(self.puzzles.views[p]))) for p in puzzle]
        chosen = [self.puzzles.views[p][v] for p, v in zip(puzzle, views)]
        element, colours = view_arrays(chosen)
        offset = self._offsets(rng, grid, element, bucket.canvas)
        labels = self.store.encode(grid + 1, element, colours, offset, bucket.canvas).astype(np.int64)
        return Batch(
            index, bucket.canvas,
            self.store.encode(grid, element, colours, offset, bucket.canvas),
            np.where(labels == PAD, IGNORE, labels),
            np.array([self.puzzles.identifiers(p, v) for p, v in zip(puzzle, views)], dtype=np.int64),
        )

    def _bucket(self, step: int) -> int:
        """Which bucket step `step` learns from; each as often as covers its pairs evenly."""
        point = (self._phase + step * _GOLDEN_RATIO) % 1.0
        return min(int(np.searchsorted(self._shares, point, side="right")), len(self._shares) - 1)

    def _offsets(self, rng, grid, element, canvas) -> np.ndarray:
        """Corner of each example: (0, 0), or for a share of them anywhere that both grids fit."""
        height = np.maximum(self.store.rows[grid], self.store.rows[grid + 1])
        width = np.maximum(self.store.cols[grid], self.store.cols[grid + 1])
        turned = TRANSPOSES[element]
        height, width = np.where(turned, width, height), np.where(turned, height, width)
        room = np.maximum(np.stack([canvas[0] - height, canvas[1] - width], axis=1), 0)
        moved = rng.random(len(grid)) < self.puzzles.recipe.translate
        return np.where(moved[:, None], rng.integers(0, room + 1), 0)


def view_arrays(views: list[View]) -> tuple[np.ndarray, np.ndarray]:
    """Views as arrays for `GridStore.encode`: element [B], colours [B, 10]."""
    return np.array([v.element for v in views]), np.array([v.colours for v in views], dtype=np.uint8)
