"""Test learning a decoder: parts of a batch, embeddings alone, dropout, memory, and saved states."""

import dataclasses

import pytest
import torch
from decoders import make_decoder
from networks import DECODER

from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.model.network import training_batches
from hrm_offline.train.adapt import Adaptation
from hrm_offline.train.decoder_learner import new_learner
from hrm_offline.train.distributed import World
from hrm_offline.train.learner import sum_metrics
from hrm_offline.train.state import load_state, save_state

TASKS = [((3, 3), (2, 4)), ((2, 3), (3, 2)), ((4, 2), (4, 4))]


@pytest.fixture
def tasks(make_task):
    return make_task("a", TASKS, seed=1), make_task("b", TASKS, seed=2)


def make_learner(tasks, steps=40, **changes):
    model, puzzles, recipe = make_decoder(tasks, tokens_per_step=400, warmup_steps=4, **changes)
    learner = new_learner(model, recipe, steps, seed=0)
    return learner, training_batches(ExampleSource(puzzles, 0), model.device)


def weights_after(learner, offer, steps=4):
    for step in range(learner.step, learner.step + steps):
        learner.learn(offer(step))
    return [param.detach().clone() for param in learner.params]


def same(ours, theirs, tolerance=0.0):
    return all(torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(ours, theirs))


def test_parts_of_a_batch_learn_what_the_whole_batch_learns(tasks):
    """Parts may be empty, where there are more of them than sequences."""
    expected = weights_after(*make_learner(tasks))
    assert same(weights_after(*make_learner(tasks, micro_batches=3)), expected, 1e-4)
    assert same(weights_after(*make_learner(tasks, micro_batches=64)), expected, 1e-4)


def test_the_loss_is_the_mean_over_output_tokens(tasks):
    learner, offer = make_learner(tasks)
    batch = offer(0)
    pairs = batch.sequences(slice(None))
    with torch.no_grad():
        logits = learner.model(pairs, pairs.answers)
        expected = torch.nn.functional.cross_entropy(logits, pairs.targets[pairs.answers]).item()
    metrics = sum_metrics(learner.learn(batch))
    assert metrics["lm_loss"].item() / batch.size == pytest.approx(expected, rel=1e-5)
    assert metrics["count"] == batch.size


def test_a_decoder_learns_by_heart_what_it_sees(tasks):
    model, puzzles, recipe = make_decoder(tasks, visits=100, rotations=False, flips=False, tokens_per_step=300)
    adaptation = Adaptation.of_model(model, puzzles, recipe, 0, False)
    for _ in adaptation.run():
        pass
    report = adaptation.finish()
    assert report.losses[0] > 1
    assert report.loss < 0.3 * report.losses[0]


def test_embeddings_alone_leave_the_rest_as_it_is(tasks):
    learner, offer = make_learner(tasks)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.embeddings_only = True
    weights_after(learner, offer)
    changed = [name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["puzzle_emb.weights"]
    assert learner.embeddings_only


def test_dropout_and_a_loss_on_the_input_change_what_is_learned_and_repeat(tasks):
    plain = weights_after(*make_learner(tasks))
    for change in ({"dropout": 0.2}, {"loss_on_input": True}):
        first = weights_after(*make_learner(tasks, **change))
        torch.rand(3)  # dropout does not depend on what else draws random numbers
        assert same(weights_after(*make_learner(tasks, **change)), first)
        assert not same(first, plain, 1e-3)


def test_each_piece_of_a_batch_has_dropout_of_its_own_whoever_computes_it(tasks):
    """Check that two processes with one part each leave out what one process with two parts does."""

    def gradients(world, **changes):
        learner, offer = make_learner(tasks, dropout=0.2, **changes)
        learner.world = world
        learner._compute_gradients(offer(0))
        return [param.grad for param in learner.params]

    first, second = (gradients(World(rank, 2)) for rank in range(2))
    assert same([a + b for a, b in zip(first, second)], gradients(World(), micro_batches=2), 1e-6)


def test_a_saved_state_goes_on_as_if_nothing_had_been(tasks, tmp_path):
    for change in ({"dropout": 0.1}, {"optimizer": "adam-atan2", "ema": 0.9}):
        folder = tmp_path / str(len(change))
        expected = weights_after(*make_learner(tasks, **change), steps=8)
        first, offer = make_learner(tasks, **change)
        weights_after(first, offer)
        save_state(folder, first, {"run": 1}, {"note": 2})
        second, offer = make_learner(tasks, **change)
        assert load_state(folder, second, {"run": 1}) == {"note": 2}
        assert same(weights_after(second, offer), expected)


def test_without_memory_a_batch_is_computed_in_more_parts(tasks):
    learner, offer = make_learner(tasks)
    forward, sizes = learner.model.forward, []

    def short_of_memory(pairs, *rest):
        sizes.append(len(pairs))
        if len(pairs) > 3:
            raise torch.OutOfMemoryError("as CUDA says it")
        return forward(pairs, *rest)

    learner.model.forward = short_of_memory
    found = weights_after(learner, offer)
    assert sizes[0] > 3
    assert learner.micro_batches > 1
    assert same(found, weights_after(*make_learner(tasks, micro_batches=learner.micro_batches)), 1e-4)


def test_a_looped_decoder_learns_too(tasks):
    model, puzzles, recipe = make_decoder(tasks, dataclasses.replace(DECODER, H_cycles=2), tokens_per_step=400)
    learner = new_learner(model, recipe, 40, seed=0)
    offer = training_batches(ExampleSource(puzzles, 0), model.device)
    losses = [sum_metrics(learner.learn(offer(step)))["lm_loss"].item() / offer(step).size for step in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
