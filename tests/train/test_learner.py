import dataclasses

import numpy as np
import pytest
import torch

from hrm_offline.common.budget import Budget
from hrm_offline.common.tokens import IGNORE
from hrm_offline.config import PRESETS, Recipe
from hrm_offline.data.puzzles import SHARED_ROWS, ExampleSource, PuzzleSet
from hrm_offline.model.batching import training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops.sign_sgd import sparse_sign_sgd_
from hrm_offline.ops.stablemax import stablemax_cross_entropy
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.predict.predictor import Predictor
from hrm_offline.train.adapt import adapt
from hrm_offline.train.learner import Learner
from hrm_offline.train.optim import AdamATan2, Ema, lr_factor

SMALL = PRESETS["hrm-132k"]


def make_learner(tasks, steps=100, **changes):
    recipe = dataclasses.replace(SMALL.adapt, tokens_per_step=160, **changes)
    puzzles = PuzzleSet(tasks, recipe, SMALL.model, seed=0)
    torch.manual_seed(0)
    model = RecursiveModel(SMALL.model, puzzles.num_rows)
    return Learner(model, recipe, steps, seed=0), training_batches(ExampleSource(puzzles, seed=0), model.device)


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
    sparse_sign_sgd_(
        table, torch.tensor([1, 3, 1]), torch.tensor([[5.0, 1.0], [1.0, 0.0], [-1.0, -2.0]]), lr=0.1, weight_decay=0.5
    )
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
    model = RecursiveModel(SMALL.model, puzzles.num_rows)
    report = adapt(model, puzzles, recipe, Budget(1e9), seed=0, pretrained=False)
    assert report.steps == report.planned_steps
    recipe = dataclasses.replace(recipe, predict_tokens=200)
    predictor = Predictor(model, puzzles, recipe)
    truth = [pair.output for task in tasks for pair in task.test]
    for batches in PredictionPlan(puzzles, recipe).rounds:
        for batch in batches:
            votes = predictor.predict(batch)
            for i, test in enumerate(votes.tests):
                assert np.array_equal(votes.grid(i), truth[test])
            assert (votes.confidence > 0.5).all()


def make_plan(tasks, **changes):
    recipe = dataclasses.replace(SMALL.adapt, colour_permutations=2, conditioning="table", **changes)
    return PredictionPlan(PuzzleSet(tasks, recipe, dataclasses.replace(SMALL.model, puzzle_columns=1), 0), recipe)


def make_predictor(plan, **changes):
    torch.manual_seed(0)
    model = RecursiveModel(dataclasses.replace(SMALL.model, puzzle_columns=1), plan.puzzles.num_rows)
    return Predictor(model, plan.puzzles, dataclasses.replace(plan.puzzles.recipe, **changes))


def test_a_trace_ends_with_what_is_predicted_and_early_halting_saves_steps_that_are_counted(make_task):
    plan = make_plan((make_task("a"), make_task("b", seed=1)))
    batch = plan.rounds[1][0]
    fixed = make_predictor(plan, outer_steps=4)
    votes, trace = fixed.predict(batch), fixed.trace(batch)
    assert fixed.sequence_steps == 2 * 4 * len(batch)
    assert len(trace) == 4
    assert all(np.array_equal(vars(votes)[name], vars(trace[-1])[name]) for name in vars(votes))
    halting = make_predictor(plan, outer_steps=4, early_halting=True)
    with torch.no_grad():
        halting.model.q_head.bias.copy_(torch.tensor([1e6, 0.0]))  # every sequence ends at once
    first = halting.predict(batch)
    assert halting.sequence_steps == len(batch)
    assert np.array_equal(first.cells, trace[0].cells)
    assert [len(votes) for votes in halting.trace(batch)] == [len(batch)] * 4  # which it does not in a trace


def test_rounds_cover_every_view_of_every_test_input_once(make_task):
    tasks = (make_task("a", test=[((3, 3), (3, 3))] * 3), make_task("b", [((9, 9), (9, 9))] * 2, seed=1))
    plan = make_plan(tasks, predict_tokens=32, vote_views=100)
    puzzles = plan.puzzles
    rounds = [[tuple(row) for batch in batches for row in batch.plan] for batches in plan.rounds]
    assert sorted(row for rows in rounds for row in rows) == sorted(
        (test, view, 0, 0)
        for test, puzzle in enumerate(puzzles.tests.puzzles)
        for view in range(*puzzles.first_view[puzzle : puzzle + 2])
    )
    elements = [[int(puzzles.all_views.elements[view]) for _, view, *_ in rows] for rows in rounds]
    assert set(elements[0]) == {0}
    assert sorted(elements[1]) == sorted(list(range(1, 8)) * 4)
    assert plan.keys == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert len(plan.rounds[0]) == 3  # two batches of two and one of the small canvas, one of the large
    assert max(len(rows) for rows in rounds) <= 4 * 7
    fewer = make_plan(tasks, predict_tokens=32, vote_views=4)
    assert sum(len(batch) for batches in fewer.rounds for batch in batches) == 4 * 4


def test_early_halting_equals_full_halting_for_sequences_that_would_not_have_changed(make_task):
    """Each sequence leaves with the answer of the step at which it wanted to halt; whoever never wants to,
    or wants to only at the end, has the answer of full halting."""
    tasks = (make_task("a"), make_task("b", [((4, 5), (5, 4))] * 2, seed=1))
    plan = make_plan(tasks)
    full, early = (make_predictor(plan, outer_steps=4, early_halting=e) for e in (False, True))
    halted = set()
    for predictor in (full, early):
        with torch.no_grad():
            predictor.model.q_head.weight.copy_(3 * torch.randn(2, 64, generator=torch.Generator().manual_seed(1)))
            predictor.model.q_head.bias.zero_()
            predictor.model.puzzle_emb.weights.normal_(generator=torch.Generator().manual_seed(2))
    for batch in (batch for batches in plan.rounds for batch in batches):
        by_steps = []
        for steps in range(1, 5):
            full.config = dataclasses.replace(full.config, outer_steps=steps)
            by_steps.append(full.predict(batch))
        ours = early.predict(batch)
        for i in range(len(ours)):
            # Confidence is sigmoid(q_halt), and a halt-only head halts where that is above a half.
            steps = next((s for s in range(3) if by_steps[s].confidence[i] > 0.5), 3)
            halted.add(steps)
            assert np.array_equal(ours.grid(i), by_steps[steps].grid(i))
            assert ours.confidence[i] == pytest.approx(by_steps[steps].confidence[i], abs=1e-5)
    assert len(halted) > 1


def test_without_memory_a_batch_is_computed_in_more_parts(make_task):
    """An out-of-memory error halves the parts until they fit, and the step is not lost."""
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


def test_adaptation_is_repeatable_and_shortens_to_its_time(make_task):
    recipe = dataclasses.replace(SMALL.adapt, visits=100, tokens_per_step=160)
    puzzles = PuzzleSet((make_task(),), recipe, SMALL.model, 0)

    def run(budget):
        torch.manual_seed(0)
        model = RecursiveModel(SMALL.model, puzzles.num_rows)
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


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_recorded_steps_learn_as_launched_ones_do(make_task, micro_batches):
    """CUDA graphs replay several buckets to the weights and embeddings of a learner without them."""
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


@pytest.mark.parametrize(
    ("kinds", "elements", "recoloured"),
    [
        ((), {0}, False),
        (("rotations",), {0, 1, 2, 3}, False),
        (("flips",), {0, 2, 4, 5}, False),
        (("colours",), {0}, True),
        (("rotations", "flips"), set(range(8)), False),
    ],
)
def test_only_views_of_the_chosen_augmentations_vote(make_task, kinds, elements, recoloured):
    recipe = {"colour_permutations": 40, "conditioning": "table", "vote_views": 1000, "vote_augmentations": kinds}
    puzzles = PuzzleSet(
        (make_task("a"), make_task("b", seed=1)),
        dataclasses.replace(SMALL.adapt, **recipe),
        dataclasses.replace(SMALL.model, puzzle_columns=1),
        0,
    )
    rows = np.concatenate([b.plan for batches in PredictionPlan(puzzles, puzzles.recipe).rounds for b in batches])
    chosen = puzzles.all_views.colours[rows[:, 1]]
    assert set(puzzles.all_views.elements[rows[:, 1]].tolist()) == elements
    assert bool((chosen != np.arange(10)).any()) == recoloured
    assert len(np.unique(rows[:, :2], axis=0)) == len(rows)


def test_translated_votes_stand_elsewhere_where_their_answer_has_room(make_task):
    tasks = (make_task("a"), make_task("b", train=[((9, 4), (9, 4))] * 2, test=[((9, 4), (9, 4))], seed=1))
    recipe = {
        "conditioning": "table",
        "canvas": "full",
        "vote_views": 1000,
        "vote_augmentations": ("rotations", "flips", "translation"),
    }
    puzzles = PuzzleSet(
        tasks, dataclasses.replace(SMALL.adapt, **recipe), dataclasses.replace(SMALL.model, puzzle_columns=1), 0
    )
    rows = np.concatenate([b.plan for batches in PredictionPlan(puzzles, puzzles.recipe).rounds for b in batches])
    moved = rows[rows[:, 2:4].any(1)]
    assert len(rows) == 2 * len(puzzles.all_views)
    assert sorted(map(tuple, rows[~rows[:, 2:4].any(1), :2])) == sorted(map(tuple, moved[:, :2]))
    for test, view, top, left in moved:
        rows_needed, cols_needed = puzzles.tests.rooms[test]
        if puzzles.all_views.elements[view] in (1, 3, 6, 7):
            rows_needed, cols_needed = cols_needed, rows_needed
        assert top + rows_needed <= 30
        assert left + cols_needed <= 30


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
