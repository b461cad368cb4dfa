"""The three architectures behind one model, and conditioning on demonstrations in the sequence."""

import dataclasses

import numpy as np
import pytest
import torch

import hrm_offline
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import PAD
from hrm_offline.config import PRESETS, ModelConfig
from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.grids import encode
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.sets import rehearsal_tasks
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch, launch
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.predict.predictor import Predictor
from hrm_offline.train.adapt import adapt

SMALL = PRESETS["hrm-132k"]
TINY = {
    "hrm": ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=1, puzzle_emb_ndim=32, halt_max_steps=3),
    "transformer": ModelConfig(
        architecture="transformer",
        hidden_size=32,
        num_heads=2,
        H_layers=2,
        L_layers=0,
        H_cycles=2,
        L_cycles=0,
        puzzle_emb_ndim=32,
        halt_max_steps=3,
    ),
    "shared": ModelConfig(
        architecture="shared",
        hidden_size=32,
        num_heads=2,
        H_layers=0,
        L_layers=1,
        H_cycles=2,
        L_cycles=3,
        puzzle_emb_ndim=32,
        halt_max_steps=3,
    ),
}
SAME_SIZE = {
    "hrm": {},
    "transformer": dict(architecture="transformer", H_layers=2, L_layers=0, L_cycles=0),
    "shared": dict(architecture="shared", H_layers=0, L_layers=2),
}
needs_triton = pytest.mark.skipif(launch.triton is None, reason="Triton is not installed")


def parameters(preset: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in hrm_offline.build_model(preset).parameters())


def test_the_transformer_is_as_large_as_the_published_model_and_the_shared_one_a_quarter():
    assert parameters("transformer-27m") == pytest.approx(parameters("hrm-27m"), rel=0.02)
    assert parameters("shared-7m") == pytest.approx(7e6, rel=0.05)


def by_hand(model: RecursiveModel, z_H, z_L, embedded, table):
    """States after an outer step, and which of its passes carry gradient, written out for each architecture."""
    level = {name: module for name, module in model.named_children() if name.endswith("_level")}
    if model.config.architecture == "transformer":
        with torch.no_grad():
            z_H = level["H_level"](z_H, embedded, table)
        return level["H_level"](z_H, embedded, table), z_L
    net = level["L_level"]
    with torch.no_grad():
        for _ in range(3):
            z_L = net(z_L, z_H + embedded, table)
        z_H = net(z_H, z_L, table)
    for _ in range(3):
        z_L = net(z_L, z_H + embedded, table)
    return net(z_H, z_L, table), z_L


@pytest.mark.parametrize("architecture", ["transformer", "shared"])
def test_an_outer_step_is_the_one_written_out_with_its_gradients(architecture):
    torch.manual_seed(0)
    model = RecursiveModel(TINY[architecture], 2)
    tokens, ids = torch.randint(0, 12, (2, 9), dtype=torch.int32), torch.zeros(2, 1, dtype=torch.long)
    states = model.initial_states(2, (3, 3))
    vectors = model.puzzle_vectors(ids)
    z_H, z_L, output = model(*states, tokens, vectors, (3, 3))
    output.logits.square().sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected_H, expected_L = by_hand(model, *states, model._embed(tokens, vectors, (3, 3)), model._rope_table((3, 3)))
    assert torch.allclose(z_H, expected_H, atol=1e-6)
    assert torch.equal(z_L, expected_L)
    model.lm_head(expected_H)[:, 1:].square().sum().backward()
    assert len(ours) == sum(p.grad is not None for p in model.parameters())
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(ours[name], p.grad, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("architecture", TINY)
def test_counted_layer_passes_are_those_made(architecture, monkeypatch):
    model = RecursiveModel(TINY[architecture], 1)
    made = []
    block = type(next(m for m in model.modules() if type(m).__name__ == "Block"))
    forward = block.forward
    monkeypatch.setattr(
        block, "forward", lambda self, *args: made.append(torch.is_grad_enabled()) or forward(self, *args)
    )
    tokens = torch.zeros(1, 4, dtype=torch.int32)
    model(*model.initial_states(1, (2, 2)), tokens, model.puzzle_vectors(torch.zeros(1, 1, dtype=torch.long)), (2, 2))
    assert len(made) == model.config.layer_passes
    assert sum(made) == model.config.gradient_passes


@needs_triton
@pytest.mark.parametrize("architecture", TINY)
def test_the_fused_operations_serve_every_architecture(architecture):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY[architecture], puzzle_columns=0, context_pairs=1)
    model = RecursiveModel(config, 1)
    tokens, results = torch.randint(0, 12, (2, 3 * 6), dtype=torch.int32), []
    for mode in ("reference", "triton"):
        model.zero_grad()
        with dispatch.override(mode):
            output = model(*model.initial_states(2, (2, 3)), tokens, None, (2, 3), torch.tensor([3, 6]).int())[2]
            output.logits[:, :3].square().sum().backward()
        results.append((output.logits[:, :3].detach(), model.embed_canvas.embedding_weight.grad.clone()))
    for plain, fused in zip(*results):
        assert torch.allclose(plain, fused, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "rnn"},
        {"architecture": "transformer"},
        {"architecture": "shared"},
        {"L_cycles": 0},
        {"architecture": "transformer", "L_layers": 0, "L_cycles": 1},
        {"context_pairs": 2},
        {"context_pairs": -1},
    ],
)
def test_an_architecture_with_another_ones_modules_is_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(TINY["hrm"], **change)


def learned_and_decoded(model_config: ModelConfig, recipe, visits: int):
    """Adapt to the demonstrations of four real tasks; the share of their grids that the network then gives back."""
    tasks = rehearsal_tasks(30)[:4]
    recipe = dataclasses.replace(recipe, rotations=False, flips=False, visits=visits, tokens_per_step=400)
    model_config = dataclasses.replace(model_config.conditioned(recipe), halt_exploration_prob=0.0)
    puzzles = PuzzleSet(tasks, recipe, model_config, seed=0)
    torch.manual_seed(0)
    model = RecursiveModel(model_config, puzzles.num_rows)
    adapt(model, puzzles, recipe, Budget(1e9), seed=0, pretrained=False)
    source = ExampleSource(puzzles, seed=1)
    right = []
    for index in range(len(source.buckets)):
        batch = source.batch_of(index, step=0)
        sequences = BatchMaker(puzzles, source.examples, model.device).make(batch)
        with torch.inference_mode():
            output = model(
                *model.initial_states(len(batch), batch.canvas),
                sequences.inputs,
                model.puzzle_vectors(sequences.puzzle_identifiers),
                batch.canvas,
                sequences.cells,
            )[2]
        known = sequences.labels >= 0
        right.append(((output.logits.argmax(-1) == sequences.labels) | ~known).all(1))
    return torch.cat(right).float().mean().item()


@pytest.mark.parametrize("architecture", SAME_SIZE)
def test_every_architecture_memorises_four_real_tasks(architecture):
    model = dataclasses.replace(SMALL.model, **SAME_SIZE[architecture])
    assert learned_and_decoded(model, SMALL.adapt, visits=400 if architecture == "shared" else 150) == 1.0


def few_shot(tasks, pairs: int = 2, **changes):
    recipe = dataclasses.replace(SMALL.adapt, conditioning="few-shot", context_pairs=pairs, **changes)
    return PuzzleSet(tasks, recipe, SMALL.model.conditioned(recipe), seed=0)


def test_a_context_holds_other_demonstrations_of_the_same_task():
    puzzles = few_shot(rehearsal_tasks(30)[:6], pairs=3, tokens_per_step=5000)
    source = ExampleSource(puzzles, seed=0)
    seen = set()
    for step in range(20):
        for example, *_, first, second, third in source.batch(step).plan.tolist():
            context = [c for c in (first, second, third) if c != NO_PAIR]
            owner = source.examples.puzzles[example]
            assert example not in context
            assert len(set(context)) == len(context) == min(3, len(puzzles.tasks[owner].train) - 1)
            assert all(puzzles.demonstrations.puzzles[c] == owner for c in context)
            seen.add((first, second))
    assert any((b, a) in seen for a, b in seen)  # the order varies


def test_a_test_inputs_context_may_hold_every_demonstration_and_rows_that_lack_are_blank(make_task):
    puzzles = few_shot((make_task("t"),), pairs=5)
    batch = PredictionPlan(puzzles, puzzles.recipe).rounds[0][0]
    count = len(puzzles.tasks[0].train)
    assert sorted(batch.plan[0, 4:].tolist()) == [NO_PAIR] * (5 - count) + list(range(count))
    area = batch.canvas[0] * batch.canvas[1]
    tokens = BatchMaker(puzzles, puzzles.tests, torch.device("cpu")).make(batch).inputs[0].view(11, area)
    assert (tokens[2 * count : 10] == PAD).all()


def test_a_sequence_is_its_context_turned_like_the_input_and_then_the_input():
    puzzles = few_shot(rehearsal_tasks(30)[:6], colour_permutations=4, tokens_per_step=3000)
    source = ExampleSource(puzzles, seed=0)
    maker = BatchMaker(puzzles, source.examples, torch.device("cpu"))
    for step in range(10):
        batch = source.batch(step)
        made = maker.make(batch)
        for row, tokens in zip(batch.plan, made.inputs.numpy()):
            view = puzzles.all_views[row[1]]
            pairs = [puzzles.demonstrations.pairs[c] for c in row[4:] if c != NO_PAIR]
            shown = [grid for pair in pairs for grid in (pair.input, pair.output)]
            expected = [encode(view.apply(grid), batch.canvas) for grid in shown]
            expected += [np.full(batch.canvas[0] * batch.canvas[1], PAD)] * (4 - len(shown))
            expected.append(encode(view.apply(source.examples.pairs[row[0]].input), batch.canvas))
            assert np.array_equal(tokens, np.concatenate(expected))


def test_the_context_is_what_a_few_shot_network_answers_from():
    """Cells beyond a sequence's own are not seen, everything in the context is, at its own place."""
    torch.manual_seed(0)
    puzzles = few_shot(rehearsal_tasks(30)[:2])
    config = SMALL.model.conditioned(puzzles.recipe)
    model = RecursiveModel(config, puzzles.num_rows)
    tokens = torch.randint(2, 12, (1, 5 * 4), dtype=torch.int32)

    def logits(change: int | None, cells: int = 4) -> torch.Tensor:
        changed = tokens.clone()
        if change is not None:
            changed[0, change] = (changed[0, change] - 1) % 10 + 2
        with torch.inference_mode():
            return model(*model.initial_states(1, (2, 2)), changed, None, (2, 2), torch.tensor([cells]).int())[2].logits

    assert logits(None).shape == (1, 4, 12)
    assert all(not torch.equal(logits(None)[:, 0], logits(place)[:, 0]) for place in (0, 5, 15))
    assert torch.equal(logits(None, cells=2)[:, :2], logits(18, cells=2)[:, :2])
    swapped = torch.cat([tokens[:, 8:16], tokens[:, :8], tokens[:, 16:]], dim=1)
    assert not torch.equal(logits(None), model(*model.initial_states(1, (2, 2)), swapped, None, (2, 2))[2].logits)


def test_a_few_shot_network_memorises_too_and_answers_tasks_it_never_trained():
    recipe = dataclasses.replace(SMALL.adapt, conditioning="few-shot", context_pairs=2)
    assert learned_and_decoded(SMALL.model, recipe, visits=300) == 1.0
    puzzles = few_shot(rehearsal_tasks(30)[4:6])
    model = RecursiveModel(SMALL.model.conditioned(recipe), puzzles.num_rows)
    report = adapt(model, puzzles, dataclasses.replace(puzzles.recipe, visits=0), Budget(1e9), 0, pretrained=True)
    assert report.steps == 0
    plan = PredictionPlan(puzzles, puzzles.recipe)
    votes = [Predictor(model, puzzles, puzzles.recipe).predict(batch) for batch in plan.rounds[0]]
    assert sum(len(v) for v in votes) == sum(len(task.test) for task in puzzles.tasks)


def test_few_shot_conditioning_needs_a_network_for_it_and_the_other_way_round(make_task):
    recipe = dataclasses.replace(SMALL.adapt, conditioning="few-shot")
    with pytest.raises(InputError, match="few-shot"):
        PuzzleSet((make_task("t"),), recipe, dataclasses.replace(SMALL.model, puzzle_columns=0), 0)
    with pytest.raises(InputError, match="factored"):
        PuzzleSet((make_task("t"),), SMALL.adapt, SMALL.model.conditioned(recipe), 0)
