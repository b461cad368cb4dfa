"""Measure the test loss: how unlikely a network finds the true outputs of test inputs."""

from __future__ import annotations

import numpy as np
import torch

from hrm_offline.common.tokens import IGNORE
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import Batch, Examples, PuzzleSet
from hrm_offline.data.tasks import Task
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.network import Network
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.predict.decoding import DecoderPredictor
from hrm_offline.predict.predictor import Predictor
from hrm_offline.train.losses import TOKEN_LOSSES


@torch.inference_mode()
def test_losses(model: Network, puzzles: PuzzleSet, recipe: AdaptConfig, tasks: tuple[Task, ...]) -> dict[str, float]:
    """Return the test loss of each task, by id, in nats per token.

    `puzzles` are the puzzles that the network learned. The first of them are those of `tasks`, which know their test
    outputs. A task's test loss is the mean of -log p over the tokens of an output, over the views that keep colours,
    and over the test outputs. p is the probability that the network gives to the true token.

    A decoder predicts each cell, each row's end and the grid's end, and sees the true tokens before. A network that
    predicts in place predicts the cells and the edge beside them, each without the others, after the outer steps that
    `recipe` gives a prediction, early halting included. Its canvas has room for the true output.
    """
    labelled = PuzzleSet(tasks, puzzles.recipe, model.config, puzzles.seed)
    owners = np.array([p for p, task in enumerate(tasks) for _ in task.test])
    of_outputs = _of_decoder if model.config.is_decoder else _of_in_place
    losses = of_outputs(model, labelled, recipe)
    return {task.id: float(losses[owners == p].mean()) for p, task in enumerate(tasks)}


def _of_decoder(model: Network, puzzles: PuzzleSet, recipe: AdaptConfig) -> np.ndarray:
    """Return the loss of each test output, float64 [tests]."""
    outputs = [pair.output for pair in puzzles.tests.pairs]
    likelihoods = DecoderPredictor(model, puzzles, recipe).likelihoods(np.arange(len(outputs)), outputs)
    tokens = []  # of each output, summed over the views in which it is judged
    for puzzle, output in zip(puzzles.tests.puzzles, outputs):
        views = puzzles.views[puzzle]
        sides = [views[v].apply(output).shape for v in range(views.plain)]
        tokens.append(sum(rows * (cols + 1) + 1 for rows, cols in sides))
    return -likelihoods / np.array(tokens)


def _of_in_place(model: RecursiveModel, puzzles: PuzzleSet, recipe: AdaptConfig) -> np.ndarray:
    """Return the loss of each test output, float64 [tests]."""
    examples = _tests_with_outputs(puzzles)
    maker, contexts = BatchMaker(puzzles, examples, model.device), puzzles.contexts(examples)
    plain = np.array([views.plain for views in puzzles.views])[examples.puzzles]  # [tests]
    predictor, sums = Predictor(model, puzzles, recipe), np.zeros(len(examples))
    for index, bucket in enumerate(puzzles.buckets(examples)):
        shown = np.repeat(bucket.members, plain[bucket.members])
        ranks = np.concatenate([np.arange(plain[member]) for member in bucket.members])
        views = puzzles.first_view[examples.puzzles[shown]] + ranks
        drawn = contexts.draw(np.random.default_rng([puzzles.seed, index]), shown)
        whole = Batch.of(index, bucket.canvas, shown, views, None, drawn)
        size = bucket.batch_size(recipe.predict_tokens)
        for start in range(0, len(whole), size):
            part = whole.rows(slice(start, start + size))
            np.add.at(sums, part.examples, _losses_of(predictor, maker, part))
    return sums / plain


def _losses_of(predictor: Predictor, maker: BatchMaker, batch: Batch) -> np.ndarray:
    """Return the mean loss of the tokens of each sequence after the outer step with which it ends, float64 [B]."""
    sequences, recipe = maker.make(batch), predictor.recipe
    found = torch.zeros(len(batch), dtype=torch.float64, device=sequences.inputs.device)
    for step in predictor.outer_steps(sequences, batch.canvas, recipe.early_halting):
        if step.ends is not None:
            rows = step.rows[step.ends]
            labels = sequences.labels[rows]
            losses = TOKEN_LOSSES[recipe.loss](step.output.logits[step.ends], labels).double()  # [E, S]
            found[rows] = losses.sum(1) / (labels != IGNORE).sum(1)
    return found.cpu().numpy()


def _tests_with_outputs(puzzles: PuzzleSet) -> Examples:
    """Return the test pairs with rooms that hold their true outputs."""
    everything = puzzles.labelled()
    is_test = [[False] * len(task.train) + [True] * len(task.test) for task in puzzles.tasks]
    found = np.flatnonzero(np.concatenate(is_test))
    pairs = tuple(everything.pairs[index] for index in found)
    return Examples(everything.puzzles[found], pairs, everything.rooms[found])
