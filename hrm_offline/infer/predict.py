"""Prediction over augmented views: outer steps without gradient, decoding, de-augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from hrm_offline.batching import BatchMaker
from hrm_offline.config import AdaptConfig
from hrm_offline.data.canvas import Bucket
from hrm_offline.data.puzzles import Batch, PuzzleSet
from hrm_offline.infer.vote import Votes
from hrm_offline.model.halting import Sequences, wants_to_halt
from hrm_offline.model.hrm import HRM
from hrm_offline.tokens import Canvas

_DIHEDRAL_VIEWS = 8  # at most these keep a task's colours
_VIEWS_A_ROUND = 16  # recoloured ones


class Predictor:
    """Predicts the test inputs of a puzzle set, `outer_steps` from fresh states.

    `keys` name the test inputs that votes count: (task id, index of its test input).
    """

    def __init__(self, model: HRM, puzzles: PuzzleSet, config: AdaptConfig):
        self.model = model
        self.puzzles = puzzles
        self.config = config
        self.tests = puzzles.tests
        self.buckets = puzzles.buckets(self.tests)
        self.keys = [(task.id, index) for task in puzzles.tasks for index in range(len(task.test))]
        self.maker = BatchMaker(puzzles, self.tests, model.device)

    def rounds(self) -> Iterator[list[Batch]]:
        """Batches of about `predict_tokens` canvas tokens, round by round: the identity view of every
        test input, the other dihedral ones, then recoloured ones by the dozen, so that votes grow
        evenly and stopping between two rounds leaves each test input its fair share."""
        most = min(self.config.vote_views, max(len(views) for views in self.puzzles.views))
        stops = [0, 1, _DIHEDRAL_VIEWS, *range(_DIHEDRAL_VIEWS + _VIEWS_A_ROUND, most, _VIEWS_A_ROUND), most]
        stops = sorted({min(stop, most) for stop in stops})
        for start, stop in pairwise(stops):
            yield [batch for index in range(len(self.buckets)) for batch in self._batches(index, range(start, stop))]

    def _batches(self, index: int, views: range) -> Iterator[Batch]:
        bucket: Bucket = self.buckets[index]
        puzzles = self.tests.puzzles[bucket.members]
        first = self.puzzles.first_view[puzzles]
        available = self.puzzles.first_view[puzzles + 1] - first
        plans = [np.column_stack([bucket.members, first + view])[view < available] for view in views]
        plan = np.concatenate(plans)
        plan = np.concatenate([plan, np.zeros_like(plan)], axis=1).astype(np.int32)  # all at the canvas' corner
        size = bucket.batch_size(self.config.predict_tokens)
        for start in range(0, len(plan), size):
            yield Batch(index, bucket.canvas, plan[start : start + size])

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Votes:
        """A vote for each row of the batch, as a grid of the original task."""
        sequences = self.maker.make(batch)
        tokens, confidence = self._outer_steps(sequences, batch.canvas)
        view = torch.from_numpy(batch.plan[:, 1]).to(self.model.device).long()
        sides, cells = self.maker.read(tokens, view, batch.canvas)
        return Votes(batch.plan[:, 0], sides.cpu().numpy(), cells.cpu().numpy(), confidence.cpu().numpy())

    def _outer_steps(self, sequences: Sequences, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted tokens [B, S] and the confidence float32 [B]. With `early_halting` a sequence that
        wants to halt leaves the batch, which costs a look at the device every outer step."""
        model, config = self.model, self.config
        vectors = model.puzzle_vectors(sequences.puzzle_identifiers)
        z_H, z_L = model.initial_states(len(sequences.inputs), canvas)
        inputs, cells = sequences.inputs, sequences.cells
        tokens = torch.zeros_like(inputs)
        confidence = torch.zeros(len(inputs), device=inputs.device)
        active = torch.arange(len(inputs), device=inputs.device)
        for step in range(1, config.outer_steps + 1):
            z_H, z_L, output = model(z_H, z_L, inputs, vectors, canvas, cells)
            last = step == config.outer_steps
            if not last and not config.early_halting:
                continue
            leaves = torch.ones_like(active, dtype=torch.bool) if last else wants_to_halt(model, output)
            tokens[active[leaves]] = output.logits[leaves].argmax(-1).to(tokens.dtype)
            confidence[active[leaves]] = output.q_halt[leaves].sigmoid()
            stays = (~leaves).nonzero().squeeze(1)
            if not len(stays):
                break
            active, z_H, z_L, inputs, vectors, cells = (None if tensor is None else tensor[stays] for tensor in
                                                        (active, z_H, z_L, inputs, vectors, cells))
        return tokens, confidence
