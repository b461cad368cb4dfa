"""Test that steps recorded as CUDA graphs learn what launched ones do."""

import dataclasses

import pytest
import torch

from hrm_offline.config import PRESETS
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.network import training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.train.learner import Learner

SMALL = PRESETS["hrm-132k"]


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_recorded_steps_learn_as_launched_ones_do(make_task, micro_batches):
    """Replay several buckets as CUDA graphs: weights and embeddings equal those of a learner without graphs."""
    tasks = tuple(make_task(f"t{side}", [((side, side), (side, side))] * 3, seed=side) for side in (2, 4))
    weights = []
    for cuda_graphs in (False, True):
        recipe = dataclasses.replace(
            SMALL.adapt, tokens_per_step=160, cuda_graphs=cuda_graphs, micro_batches=micro_batches
        )
        puzzles = PuzzleSet(tasks, recipe, SMALL.model, seed=0)
        torch.manual_seed(0)
        model = RecursiveModel(SMALL.model, puzzles.num_rows).cuda()
        learner = Learner(model, recipe, 100, seed=0)
        offer = training_batches(ExampleSource(puzzles, seed=0), model.device)
        for step in range(30):
            learner.learn(offer(step))
        if cuda_graphs:
            assert not learner.graphs.failed
            assert len(learner.graphs.recorded) == 2 * micro_batches
        weights.append(torch.cat([tensor.flatten() for tensor in (*learner.params, model.puzzle_emb.weights)]))
    assert torch.isfinite(weights[0]).all()
    assert torch.equal(*weights)
