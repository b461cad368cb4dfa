import dataclasses

import numpy as np
import pytest
import torch

from hrm_offline.budget import Budget
from hrm_offline.config import PRESETS, Recipe
from hrm_offline.data.puzzles import SHARED_ROWS, ExampleSource, PuzzleSet
from hrm_offline.infer.predict import Predictor
from hrm_offline.model.hrm import HRM
from hrm_offline.ops.sign_sgd import sparse_sign_sgd_
from hrm_offline.ops.stablemax import stablemax_cross_entropy
from hrm_offline.tokens import IGNORE
from hrm_offline.train.adapt import adapt
from hrm_offline.train.learner import Learner
from hrm_offline.train.optim import AdamATan2, Ema, lr_factor

SMALL = PRESETS["hrm-132k"]


def make_learner(tasks, steps=100, **changes):
    recipe = dataclasses.replace(SMALL.adapt, tokens_per_step=160, **changes)
    puzzles = PuzzleSet(tasks, recipe, SMALL.model, seed=0)
    torch.manual_seed(0)
    model = HRM(SMALL.model, puzzles.num_rows)
    return Learner(model, recipe, steps, seed=0), ExampleSource(puzzles, seed=0)


def test_stablemax_gradient_is_finite_at_the_logits_that_break_a_naive_one():
    logits = torch.tensor([[[1.0, 0.0, -1.0, 1e4, -1e4, 1.0]]], requires_grad=True)
    loss = stablemax_cross_entropy(logits, torch.tensor([[4]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    ignored = stablemax_cross_entropy(logits, torch.tensor([[IGNORE]]))
    assert ignored.item() == 0


def test_sign_sgd_sums_duplicates_first_and_leaves_other_rows():
    table = torch.ones(4, 2)
    sparse_sign_sgd_(table, torch.tensor([1, 3, 1]), torch.tensor([[5.0, 1.0], [1.0, 0.0], [-1.0, -2.0]]),
                     lr=0.1, weight_decay=0.5)
    decayed = 1 - 0.1 * 0.5
    expected = [[1, 1], [decayed - 0.1, decayed + 0.1], [1, 1], [decayed - 0.1, decayed]]
    assert torch.allclose(table, torch.tensor(expected))


def test_adam_atan2_reaches_a_minimum_and_ignores_the_gradients_scale():
    paths = []
    for scale in (1.0, 1e-12):
        x = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
        optimizer = AdamATan2([x], lr=0.05, weight_decay=0.0)
        for _ in range(300):
            optimizer.zero_grad()
            (scale * x.square().sum()).backward()
            optimizer.step()
        paths.append(x.detach().clone())
    assert paths[0].abs().max() < 0.1
    assert torch.allclose(paths[0], paths[1])
    with pytest.raises(ValueError, match="out of range"):
        AdamATan2([x], lr=-1)


def test_learning_rate_warms_up_stays_and_falls():
    recipe = Recipe(warmup_steps=10, constant_fraction=0.5, final_lr_ratio=0.1)
    factors = [lr_factor(recipe, step, 100) for step in (1, 5, 10, 50, 75, 100)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1])
    assert lr_factor(Recipe(warmup_steps=0), 1, 100) == 1.0


def test_ema_forgets_the_start_and_swap_is_undone():
    param = torch.nn.Parameter(torch.tensor([100.0]))
    ema = Ema([param], 0.99)
    with torch.no_grad():
        param.fill_(1.0)
    for step in range(1, 2000):
        ema.update(step)
    ema.swap()
    assert param.item() == pytest.approx(1.0, abs=1e-3)
    ema.swap()
    assert param.item() == 1.0


def test_memorises_demonstrations_and_predicts_them(make_task):
    """Adaptation to two tasks of random grids ends with every test input, a demonstration's copy,
    answered right in every view."""
    tasks = []
    for seed in range(2):
        task = make_task(f"t{seed}", [((2, 3), (3, 2))] * 2, seed=seed)
        tasks.append(dataclasses.replace(task, test=task.train))
    recipe = dataclasses.replace(SMALL.adapt, visits=1500, tokens_per_step=240)
    puzzles = PuzzleSet(tuple(t.without_labels() for t in tasks), recipe, SMALL.model, seed=0)
    torch.manual_seed(0)
    model = HRM(SMALL.model, puzzles.num_rows)
    report = adapt(model, puzzles, recipe, Budget(1e9), seed=0, pretrained=False)
    assert report.steps == report.planned_steps
    predictor = Predictor(model, puzzles, outer_steps=2)
    for batches in predictor.rounds(max_views=8, tokens=200):
        for batch in batches:
            for query, vote in zip(batch.queries, predictor.predict(batch)):
                assert np.array_equal(vote.grid, tasks[query.puzzle].test[query.test].output)
                assert vote.confidence > 0.5


def test_rounds_cover_every_view_of_every_test_input_once(make_task):
    tasks = (make_task("a", test=[((3, 3), (3, 3))] * 3), make_task("b", [((9, 9), (9, 9))] * 2, seed=1))
    recipe = dataclasses.replace(SMALL.adapt, colour_permutations=2)
    puzzles = PuzzleSet(tasks, recipe, SMALL.model, 0)
    predictor = Predictor(HRM(SMALL.model, puzzles.num_rows), puzzles, 1)
    rounds = list(predictor.rounds(100, tokens=32))
    queries = [(q.puzzle, q.test, q.view) for batches in rounds for b in batches for q in b.queries]
    assert sorted(queries) == sorted((p, t, v) for p, task in enumerate(tasks) for t in range(len(task.test))
                                     for v in range(len(puzzles.views[p])))
    assert {q.view for b in rounds[0] for q in b.queries} == {0}
    assert len(rounds[0]) == 3  # two batches of two and one of the small canvas, one of the large
    assert max(q.view for batches in predictor.rounds(4, 32) for b in batches for q in b.queries) == 3


def test_embeddings_only_leaves_the_network_alone(make_task):
    learner, source = make_learner((make_task(),))
    learner.embeddings_only = True
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    for step in range(5):
        learner.learn(source.batch(step))
    changed = [name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["puzzle_emb.weights"]
    assert learner.model.puzzle_emb.weights[SHARED_ROWS].abs().max() > 0


def test_adaptation_is_repeatable_and_shortens_to_its_time(make_task):
    recipe = dataclasses.replace(SMALL.adapt, visits=100, tokens_per_step=160)
    puzzles = PuzzleSet((make_task(),), recipe, SMALL.model, 0)

    def run(budget):
        torch.manual_seed(0)
        model = HRM(SMALL.model, puzzles.num_rows)
        return adapt(model, puzzles, recipe, budget, 0, pretrained=False), model

    (first, a), (second, b) = run(Budget(1e9)), run(Budget(1e9))
    assert first == second
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))

    ticks = iter(range(10**9))  # every look at this clock takes a second
    short, _ = run(Budget(100.0, clock=lambda: float(next(ticks))))
    assert short.planned_steps == first.planned_steps
    assert 5 < short.steps < 60
    none, _ = run(Budget(0.0))
    assert none.steps == 0


def test_float16_scales_the_loss_and_survives_an_overflow(make_task):
    learner, source = make_learner((make_task(),))
    learner.model.dtype = torch.float16
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows at first
    for step in range(60):
        part, = learner.learn(source.batch(step))
    assert learner.scaler.get_scale() < 2.0**40
    assert torch.isfinite(part.metrics["loss"])
    assert all(torch.isfinite(p).all() for p in learner.model.state_dict().values())


def test_exploration_draws_the_stated_share(make_task):
    learner, _ = make_learner((make_task(),))
    drawn = torch.cat([learner._min_halt_steps(200) for learner.step in range(20)])
    share = (drawn > 0).float().mean().item()
    assert share == pytest.approx(SMALL.model.halt_exploration_prob, abs=0.05)
    assert set(drawn.tolist()) == {0, 2, 3, 4}
