"""Test learning steps: parts of a batch, frozen networks, float16, exploration, halting."""

import dataclasses

import pytest
import torch

from hrm_offline.data.puzzles import SHARED_ROWS, ExampleSource, PuzzleSet
from hrm_offline.model.network import training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import PRESETS
from hrm_offline.train.learner import Learner

SMALL = PRESETS["hrm-132k"]


def make_learner(tasks, steps=100, **changes):
    recipe = dataclasses.replace(SMALL.adapt, tokens_per_step=160, **changes)
    puzzles = PuzzleSet(tasks, recipe, SMALL.model, seed=0)
    torch.manual_seed(0)
    model = RecursiveModel(SMALL.model, puzzles.num_rows)
    return Learner(model, recipe, steps, seed=0), training_batches(ExampleSource(puzzles, seed=0), model.device)


def test_without_memory_a_batch_is_computed_in_more_parts(make_task):
    """Run out of memory: the parts are halved until they fit, and the step is not lost."""
    learner, offer = make_learner((make_task("a"), make_task("b", seed=1)))
    reference, _ = make_learner((make_task("a"), make_task("b", seed=1)), micro_batches=4)
    forward, sizes = learner.model.forward, []

    def short_of_memory(z_H, *rest):
        sizes.append(len(z_H))
        if len(z_H) > 3:
            raise torch.OutOfMemoryError("as CUDA says it")
        return forward(z_H, *rest)

    learner.model.forward = short_of_memory
    for step in range(3):
        learner.learn(offer(step))
        reference.learn(offer(step))
    assert learner.micro_batches == 4
    assert sizes[:2] == [10, 5]
    assert learner.step == 3
    for ours, theirs in zip(learner.params, reference.params):
        assert torch.equal(ours, theirs)
    with pytest.raises(torch.OutOfMemoryError):
        learner.model.forward = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("always"))
        learner.learn(offer(3))


def test_embeddings_only_leaves_the_network_alone(make_task):
    learner, offer = make_learner((make_task(),))
    learner.embeddings_only = True
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    for step in range(5):
        learner.learn(offer(step))
    changed = [name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["puzzle_emb.weights"]
    assert learner.model.puzzle_emb.weights[SHARED_ROWS].abs().max() > 0


def test_float16_scales_the_loss_and_survives_an_overflow(make_task):
    learner, offer = make_learner((make_task(),))
    learner.model.dtype = torch.float16
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows at first
    for step in range(60):
        (part,) = learner.learn(offer(step))
    assert learner.scaler.get_scale() < 2.0**40
    assert torch.isfinite(part.metrics["loss"])
    assert all(torch.isfinite(p).all() for p in learner.model.state_dict().values())


def test_exploration_draws_the_stated_share(make_task):
    learner, _ = make_learner((make_task(),))
    drawn = torch.cat([learner._min_halt_steps(200) for learner.step in range(20)])
    share = (drawn > 0).float().mean().item()
    assert share == pytest.approx(SMALL.model.halt_exploration_prob, abs=0.05)
    assert set(drawn.tolist()) == {0, 2, 3, 4}


def test_without_learned_halting_every_sequence_takes_all_outer_steps(make_task):
    learner, offer = make_learner((make_task("a"), make_task("b", seed=1)), learned_halting=False)
    with torch.no_grad():
        learner.model.q_head.bias.fill_(5)  # it would halt at once
    seen = set()
    for step in range(6):
        (part,) = learner.learn(offer(step))
        assert torch.equal(part.step.halted, part.step.steps == SMALL.model.halt_max_steps)
        seen |= set(part.step.steps.tolist())
    assert seen == {1, 2, 3, 4}
