"""Prediction over augmented views: outer steps without gradient, decoding, de-augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hrm_offline.data.grids import GridStore, crop
from hrm_offline.data.puzzles import Bucket, PuzzleSet, view_arrays
from hrm_offline.infer.vote import Vote
from hrm_offline.model.hrm import HRM


@dataclass(frozen=True)
class Query:
    """One view of one test input, all by index."""

    puzzle: int
    test: int
    view: int


@dataclass(frozen=True)
class QueryBatch:
    """Queries on one canvas."""

    bucket: Bucket
    queries: tuple[Query, ...]

    @property
    def tokens(self) -> int:
        return len(self.queries) * self.bucket.area


class Predictor:
    """Predicts the test inputs of a puzzle set with `outer_steps` from fresh states."""

    def __init__(self, model: HRM, puzzles: PuzzleSet, outer_steps: int):
        self.model = model
        self.puzzles = puzzles
        self.outer_steps = outer_steps
        grids = [pair.input for task in puzzles.tasks for pair in task.test]
        self.first_grid = np.concatenate([[0], np.cumsum([len(task.test) for task in puzzles.tasks])])
        self.store = GridStore(grids)

    def rounds(self, max_views: int, tokens: int) -> Iterator[list[QueryBatch]]:
        """Batches of about `tokens` canvas tokens, round by round: view 0 of every test input,
        then view 1 of all that have one, and so on, so that votes grow evenly. Views come
        identity first, then the dihedral ones, then recoloured (see `views_of`)."""
        for view in range(min(max_views, max(len(v) for v in self.puzzles.views))):
            batches = []
            for bucket in self.puzzles.buckets:
                queries = [Query(p, t, view) for p in bucket.puzzles if view < len(self.puzzles.views[p])
                           for t in range(len(self.puzzles.tasks[p].test))]
                size = bucket.batch_size(tokens)
                batches += [QueryBatch(bucket, tuple(queries[i : i + size])) for i in range(0, len(queries), size)]
            yield batches

    @torch.inference_mode()
    def predict(self, batch: QueryBatch) -> list[Vote]:
        """A vote for each query, in order, as a grid of the original task."""
        model, canvas, queries = self.model, batch.bucket.canvas, batch.queries
        views = [self.puzzles.views[q.puzzle][q.view] for q in queries]
        grids = np.array([self.first_grid[q.puzzle] + q.test for q in queries])
        tokens = self.store.encode(grids, *view_arrays(views), np.zeros((len(queries), 2), dtype=np.int64), canvas)
        identifiers = np.array([self.puzzles.identifiers(q.puzzle, q.view) for q in queries], dtype=np.int64)

        inputs = torch.from_numpy(tokens.astype(np.int32)).to(model.device)
        vectors = model.puzzle_vectors(torch.from_numpy(identifiers).to(model.device))
        z_H, z_L = model.initial_states(len(queries), canvas)
        for _ in range(self.outer_steps):
            z_H, z_L, output = model(z_H, z_L, inputs, vectors, canvas)
        predicted = output.logits.argmax(-1).cpu().numpy()
        confidence = output.q_halt.sigmoid().tolist()
        return [Vote(view.invert(crop(p, canvas)), c) for view, p, c in zip(views, predicted, confidence)]
