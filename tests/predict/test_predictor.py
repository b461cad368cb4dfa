"""Test predictions: traces, outer steps, early halting and recordings."""

import dataclasses

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda
from plans import make_plan

from hrm_offline.answers.invariants import Invariants
from hrm_offline.model.graphs import WARM_UP, GraphChoice
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops.dispatch import override
from hrm_offline.predict.predictor import Predictor
from hrm_offline.presets import PRESETS

SMALL = PRESETS["hrm-132k"]


def make_predictor(plan, graphs=None, **changes):
    torch.manual_seed(0)
    model = RecursiveModel(dataclasses.replace(SMALL.model, puzzle_columns=1), plan.puzzles.num_rows)
    return Predictor(model, plan.puzzles, dataclasses.replace(plan.puzzles.recipe, **changes), graphs)


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


def test_a_vote_counts_less_where_its_grid_breaks_what_the_demonstrations_have_in_common(make_task):
    tasks = (make_task("a"), make_task("b", seed=1))
    plan = make_plan(tasks)
    batch = plan.rounds[1][0]
    plain, doubting = (
        make_predictor(plan, outer_steps=2, vote_doubts=doubts).predict(batch) for doubts in (False, True)
    )
    assert np.array_equal(plain.cells, doubting.cells) and (plain.weight == 1).all()
    doubts = []
    for i, test in enumerate(batch.examples):
        puzzle = plan.puzzles.tests.puzzles[test]
        given = plan.puzzles.tests.pairs[test].input
        doubts.append(Invariants.of(tasks[puzzle].train).doubt(given, plain.grid(i)) if plain.grid(i).size else 60.0)
    assert max(doubts) > 1 and doubting.weight == pytest.approx(np.exp(-np.minimum(doubts, 60.0)), rel=1e-5)
    assert (doubting.weight > 0).all()


@pytest.mark.gpu
def test_on_a_gpu_kernels_and_plain_pytorch_predict_the_same(make_task):
    plan = make_plan((make_task("a"), make_task("b", [((9, 8), (8, 9))] * 2, seed=1)))
    predictor = make_predictor(plan, outer_steps=4)
    gpu = Predictor(predictor.model.cuda(), plan.puzzles, predictor.recipe)
    for batch in plan.rounds[1]:
        with override("triton"):
            ours, again = gpu.predict(batch), gpu.predict(batch)
        with override("reference"):
            plain = gpu.predict(batch)
        assert all(np.array_equal(vars(ours)[name], vars(again)[name]) for name in vars(ours))
        assert np.allclose(ours.confidence, plain.confidence, atol=1e-4)
        assert np.mean([np.array_equal(ours.grid(i), plain.grid(i)) for i in range(len(ours))]) > 0.9


def test_early_halting_equals_full_halting_for_sequences_that_would_not_have_changed(make_task):
    """Compare early halting with runs of 1, 2, 3 and 4 outer steps.

    A sequence has the answer of the step at which it wanted to halt. A sequence that never wanted to has the answer
    of the last step.
    """
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
            full.recipe = dataclasses.replace(full.recipe, outer_steps=steps)
            by_steps.append(full.predict(batch))
        ours = early.predict(batch)
        for i in range(len(ours)):
            # Confidence is sigmoid(q_halt), and a halt-only head halts where that is above a half.
            steps = next((s for s in range(3) if by_steps[s].confidence[i] > 0.5), 3)
            halted.add(steps)
            assert np.array_equal(ours.grid(i), by_steps[steps].grid(i))
            assert ours.confidence[i] == pytest.approx(by_steps[steps].confidence[i], abs=1e-5)
    assert len(halted) > 1


def recorded_votes(plan, graphs):
    """Return the votes of all batches, each predicted often enough to be recorded, and the predictor."""
    predictor = make_predictor(plan, graphs, outer_steps=2)
    predictor.try_graphs(plan.rounds[1][0])
    return predictor, [predictor.predict(batch) for batch in plan.rounds[1] for _ in range(WARM_UP + 2)]


def test_recorded_predictions_equal_plain_ones_or_do_not_serve(make_task):
    plan = make_plan((make_task("a"), make_task("b", seed=1)))
    _, expected = recorded_votes(plan, GraphChoice(None, False))
    for cuda, serves in (
        (FakeCuda(), True),
        (FakeCuda(recorded_seconds=2.0), False),
        (FakeCuda([RuntimeError("not permitted")]), False),
        (FakeCuda([torch.OutOfMemoryError("CUDA out of memory")]), False),
    ):
        choice = GraphChoice(cuda, None)
        predictor, votes = recorded_votes(plan, choice)
        assert choice.serves is serves, choice.reason
        assert bool(predictor.recorder.recorded) is serves
        for ours, theirs in zip(votes, expected, strict=True):
            assert all(np.array_equal(vars(ours)[name], vars(theirs)[name]) for name in vars(ours))


def test_recordings_that_memory_has_no_room_for_are_given_up(make_task):
    plan = make_plan((make_task("a"),))
    choice = GraphChoice(FakeCuda([torch.OutOfMemoryError("CUDA out of memory")]), True)
    votes = recorded_votes(plan, choice)[1]
    assert choice.serves is False
    assert "do not fit" in choice.reason
    assert {len(vote) for vote in votes} == {len(batch) for batch in plan.rounds[1]}


def test_early_halting_is_never_recorded(make_task):
    plan = make_plan((make_task("a"),))
    choice = GraphChoice(FakeCuda(), True)
    predictor = make_predictor(plan, choice, early_halting=True)
    for _ in range(WARM_UP + 2):
        predictor.predict(plan.rounds[0][0])
    assert choice.cuda.captures == 0
