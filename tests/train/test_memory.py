"""Test that batches are computed in parts before memory runs out, with other numbers in the place of a GPU's."""

import dataclasses

import pytest
import torch

from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.network import training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import PRESETS
from hrm_offline.train.learner import Learner
from hrm_offline.train.memory import MemoryPlan, tokens_by_bucket

SMALL = PRESETS["hrm-132k"]
BYTES_PER_TOKEN = 10_000  # that a step takes while it is computed


class FakeMemory:
    """Memory in which a learner's carries, moments and gradients and the part at hand are all that counts."""

    def __init__(self, limit):
        self.bytes, self.learner = limit, None

    def used(self):
        states = self.learner.optimizer.state.values()
        moments = sum(value.nbytes for state in states for value in state.values() if torch.is_tensor(value))
        gradients = sum(4 * param.numel() for param in self.learner.params if param.grad is not None)
        return self.learner.carry_bytes() + moments + gradients

    def forget_peak(self):
        pass

    def peak(self):
        return self.used() + BYTES_PER_TOKEN * self.tokens // self.learner.micro_batches

    def limit(self):
        return self.bytes


@pytest.fixture
def make_learner(make_task):
    tasks = tuple(make_task(f"t{side}", [((side, side), (side, side))] * 3, seed=side) for side in (2, 6))

    def make(limit=None, **changes):
        recipe = dataclasses.replace(SMALL.adapt, tokens_per_step=160, **changes)
        puzzles = PuzzleSet(tasks, recipe, SMALL.model, seed=0)
        torch.manual_seed(0)
        model = RecursiveModel(SMALL.model, puzzles.num_rows)
        learner, source = Learner(model, recipe, 100, seed=0), ExampleSource(puzzles, seed=0)
        if limit is not None:
            learner.memory = MemoryPlan(FakeMemory(limit), tokens_by_bucket(source, SMALL.model))
            learner.memory.device.learner = learner
        return learner, training_batches(source, model.device)

    return make


def learn(learner, offer, steps=5):
    """Learn, and return the parts in which each step was computed, and the buckets."""
    parts, buckets = [], []
    for step in range(steps):
        batch = offer(step)
        if learner.memory is not None:
            learner.memory.device.tokens = learner.memory.tokens[batch.bucket]
        learner.learn(batch)
        parts.append(learner.micro_batches)
        buckets.append(batch.bucket)
    return parts, buckets


def weights_of(learner):
    return torch.cat([tensor.flatten() for tensor in (*learner.params, learner.model.puzzle_emb.weights)])


def bytes_of(learner):
    """Return the bytes of moments and gradients, of all carries, and of the largest step."""
    tokens = learner.memory.tokens.values()
    states = 2 * 4 * SMALL.model.hidden_size * sum(tokens)
    return sum(12 * param.numel() for param in learner.params), states, BYTES_PER_TOKEN * max(tokens)


def test_a_bucket_that_would_not_fit_is_computed_in_parts_from_the_start(make_learner):
    fixed, carries, step = bytes_of(make_learner(1)[0])
    learner, offer = make_learner(int(fixed + carries + 0.8 * step))
    parts, buckets = learn(learner, offer)
    assert len(set(buckets)) == 2
    assert parts == [1, 2, 2, 2, 2]  # the first step shows what a step takes
    reference, _ = make_learner()
    for number in range(5):
        if number == 1:
            reference._halve_parts()
        reference.learn(offer(number))
    assert torch.equal(weights_of(learner), weights_of(reference))


def test_carries_of_buckets_to_come_count(make_learner):
    fixed, carries, step = bytes_of(make_learner(1)[0])
    learner, offer = make_learner(int(fixed + 1.1 * step + 0.5 * carries))
    assert learn(learner, offer)[0] == [1, 2, 2, 2, 2]
    learner, offer = make_learner(int(fixed + carries + 1.2 * step))
    assert learn(learner, offer)[0] == [1] * 5


def test_moments_that_the_optimiser_never_takes_do_not_count(make_learner):
    """Muon has one moment per matrix. While embeddings learn alone, it has yet to take them."""
    fixed, carries, step = bytes_of(make_learner(1)[0])
    learner, offer = make_learner(1, optimizer="muon")
    saved = sum(4 * param.numel() for param in learner.params if param.ndim == 2)
    learner.memory.device.bytes = int(fixed - saved + carries + 1.2 * step)
    learner.embeddings_only = True
    assert learn(learner, offer, 3)[0] == [1] * 3
    learner.embeddings_only = False
    assert learn(learner, offer)[0] == [1] * 5
    assert learner.memory.device.used() <= fixed - saved + carries


def test_what_parts_cannot_help_is_left_to_the_device(make_learner):
    fixed, _, _ = bytes_of(make_learner(1)[0])
    learner, offer = make_learner(fixed // 2)
    assert learn(learner, offer)[0] == [1] * 5


def test_a_cpu_plans_nothing(make_learner):
    assert make_learner()[0].memory is None
