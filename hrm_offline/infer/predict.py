"""Prediction over augmented views: outer steps without gradient, decoding, de-augmentation."""

from __future__ import annotations

import torch

from hrm_offline.batching import BatchMaker
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import Batch, PuzzleSet
from hrm_offline.infer.vote import Votes
from hrm_offline.model.halting import Sequences, wants_to_halt
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.tokens import Canvas


class Predictor:
    """Predicts batches of a puzzle set's test inputs (see `PredictionPlan`), `outer_steps` from fresh states."""

    def __init__(self, model: RecursiveModel, puzzles: PuzzleSet, config: AdaptConfig):
        self.model = model
        self.config = config
        self.maker = BatchMaker(puzzles, puzzles.tests, model.device)

    def predict(self, batch: Batch) -> Votes:
        """A vote for each row of the batch, as a grid of the original task. What does not fit into memory
        is computed in halves."""
        try:
            return self._predict(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return Votes.joined([self.predict(batch.rows(slice(half))), self.predict(batch.rows(slice(half, None)))])

    @torch.inference_mode()
    def _predict(self, batch: Batch) -> Votes:
        sequences = self.maker.make(batch)
        tokens, confidence = self._outer_steps(sequences, batch.canvas)
        plan = torch.from_numpy(batch.plan).to(self.model.device).long()
        sides, cells = self.maker.read(tokens, plan[:, 1], plan[:, 2:4], batch.canvas)
        return Votes(batch.plan[:, 0], sides.cpu().numpy(), cells.cpu().numpy(), confidence.cpu().numpy())

    def _outer_steps(self, sequences: Sequences, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted tokens [B, S] and the confidence float32 [B]. With `early_halting` a sequence that
        wants to halt leaves the batch, which costs a look at the device every outer step."""
        model, config = self.model, self.config
        vectors = model.puzzle_vectors(sequences.puzzle_identifiers)
        z_H, z_L = model.initial_states(len(sequences.inputs), canvas)
        inputs, cells = sequences.inputs, sequences.cells
        tokens = inputs.new_zeros(len(inputs), canvas[0] * canvas[1])
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
