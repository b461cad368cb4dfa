"""Test greedy decoding and judging: grids are well formed, likelihoods agree, memory and leaving change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from decoders import lean_towards, make_decoder
from fake_cuda import FakeCuda

from hrm_offline.answers.invariants import DOUBT_WEIGHT, Invariants
from hrm_offline.answers.vote import Votes
from hrm_offline.model.graphs import GraphChoice
from hrm_offline.ops import dispatch
from hrm_offline.ops.dispatch import Decision
from hrm_offline.ops.faults import KernelFault
from hrm_offline.predict import decoding, greedy
from hrm_offline.predict.plan import PredictionPlan

TASKS = [((3, 3), (2, 4)), ((2, 3), (3, 2)), ((4, 2), (4, 4))]


@pytest.fixture
def predictor(make_task):
    tasks = (make_task("a", TASKS, test=TASKS[:2], seed=1), make_task("b", TASKS, seed=2))
    model, puzzles, recipe = make_decoder(tasks)
    lean_towards(model, 14, 3.0)
    lean_towards(model, 1, 3.0)
    return decoding.new_predictor(model, puzzles, recipe)


def predict_all(predictor) -> Votes:
    """Return all votes, the same way round however large the batches are. Nothing was written before."""
    predictor._written.clear()
    plan = PredictionPlan(predictor.puzzles, predictor.recipe)
    batches = [batch for batches in plan.rounds for batch in batches]
    return Votes.joined([predictor.predict(batch) for batch in batches])


def test_the_confidence_is_the_likelihood_that_judging_finds(predictor):
    plan = PredictionPlan(predictor.puzzles, predictor.recipe)
    ended = 0
    for batch in (batch for batches in plan.rounds for batch in batches):
        votes = predictor.predict(batch)
        done = [i for i in range(len(batch)) if votes.grid(i).size]
        ended += len(done)
        grids = [votes.grid(i) for i in done]
        with torch.inference_mode():
            found = predictor._likelihoods((batch.examples[done], batch.views[done], grids))
        np.testing.assert_allclose(np.exp(found), votes.confidence[done], rtol=1e-4)
    assert ended >= 5


def test_drafts_change_no_grid_and_save_steps(predictor, monkeypatch):
    """A draft may be right, wrong in one place, of another shape, or end too early."""
    model, steps = predictor.model, []
    batch = PredictionPlan(predictor.puzzles, predictor.recipe).rounds[1][0]
    prompts, room = predictor.maker.prompts(batch), predictor._room(batch)
    extend = type(model).extend
    monkeypatch.setattr(model, "extend", lambda *given: steps.append(1) or extend(model, *given))

    def write(drafts=None):
        steps.clear()
        with torch.inference_mode():
            return greedy.write_grids(model, prompts, room, drafts), len(steps)

    plain, most_steps = write()
    grids = [greedy.grid_of(tokens) for tokens in plain.tokens.numpy()]
    assert sum(grid is not None for grid in grids) >= 3
    wrong = [
        grid if grid is None else np.where(np.arange(grid.size).reshape(grid.shape) == 1, 9, grid) for grid in grids
    ]
    turned = [grid if grid is None else grid.T for grid in grids]
    shorter = [grid if grid is None else grid[:1] for grid in grids]
    for number, guesses in enumerate((grids, wrong, turned, shorter)):
        drafted, count = write(greedy.Drafts.of_grids(guesses, model.device))
        assert torch.equal(drafted.tokens, plain.tokens)
        assert torch.equal(drafted.others[plain.tokens > 0], plain.others[plain.tokens > 0])
        torch.testing.assert_close(drafted.scores, plain.scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(drafted.turns, plain.turns, rtol=1e-4, atol=1e-4)
        if number < 2 and all(grid is not None for grid in grids):
            assert count < most_steps


def test_a_rehearsal_fills_the_room_of_every_grid_each_time_and_keeps_nothing(predictor, monkeypatch):
    model, steps = predictor.model, []
    extend = type(model).extend
    monkeypatch.setattr(model, "extend", lambda *given: steps.append(1) or extend(model, *given))
    lean_towards(model, 1, 30.0)  # grids end as soon as they may
    batch = PredictionPlan(predictor.puzzles, predictor.recipe).rounds[1][0]
    longest = int(predictor._room(batch).max())
    votes = predict_all(predictor)
    assert (votes.sides[:, 0] == 1).any()
    for _ in range(2):
        steps.clear()
        predictor.rehearse(batch)
        assert len(steps) == longest - 1
    steps.clear()
    predictor.predict(batch)
    assert len(steps) < longest - 1


def test_leaving_sequences_and_short_memory_change_no_vote(predictor, monkeypatch):
    expected = predict_all(predictor)
    monkeypatch.setitem(greedy._LEAVING_SHARE, "cpu", 0.01)  # every one leaves at once
    eager = predict_all(predictor)
    forward, sizes = predictor.model.prefill, []

    def short_of_memory(prompts, room):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("as CUDA says it")
        return forward(prompts, room)

    predictor.model.prefill = short_of_memory
    halved = predict_all(predictor)
    assert max(sizes) > 2
    for found in (eager, halved):
        assert np.array_equal(found.cells, expected.cells)
        assert np.array_equal(found.sides, expected.sides)
        np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-4)


def test_a_score_is_the_sum_over_the_puzzles_plain_views_less_its_doubt_whatever_is_judged_beside_it(predictor):
    rng = np.random.default_rng(0)
    tests = np.array([0, 1, 2, 0, 2])
    grids = [rng.integers(0, 10, (2 + i % 3, 3)).astype(np.uint8) for i in range(5)]
    grids[2] = predictor.puzzles.tests.pairs[2].input  # no demonstration leaves its input as it is
    scores = predictor.judge(tests, grids)
    small = decoding.new_predictor(
        predictor.model, predictor.puzzles, dataclasses.replace(predictor.recipe, predict_tokens=30)
    )
    np.testing.assert_allclose(small.judge(tests, grids), scores, rtol=1e-5)
    puzzle = predictor.puzzles.tests.puzzles[2]
    views = predictor.puzzles.first_view[puzzle] + np.arange(8)
    with torch.inference_mode():
        one_by_one = [predictor._likelihoods((np.array([2]), np.array([view]), [grids[2]]))[0] for view in views]
    task, test = predictor.puzzles.tasks[puzzle], predictor.puzzles.tests.pairs[2]
    doubt = Invariants.of(task.train).doubt(test.input, grids[2])
    assert doubt > 0
    assert scores[2] == pytest.approx(sum(one_by_one) - DOUBT_WEIGHT * doubt, rel=1e-5)


def test_an_output_has_the_room_that_its_task_lets_one_expect(make_task):
    """Outputs are 2 x 2 in all demonstrations: no sequence may write more than their tokens."""
    model, puzzles, recipe = make_decoder((make_task("a", [((3, 3), (2, 2))] * 3, seed=3),))
    lean_towards(model, 14, -50.0)
    predictor = decoding.new_predictor(model, puzzles, recipe)
    votes = predict_all(predictor)
    assert predictor.sequence_steps == 8 * (2 * 3 + 1)
    assert not votes.sides.any()  # none has ended


def test_a_search_finds_other_grids_than_the_greedy_ones_and_knows_their_likelihood(predictor):
    config = dataclasses.replace(predictor.recipe, search_branches=5, search_bound=1e-3)
    searching = decoding.new_predictor(predictor.model, predictor.puzzles, config)
    plan = PredictionPlan(predictor.puzzles, config)
    assert len(plan.rounds) > 2
    more = 0
    for batch in (batch for batches in plan.rounds[2:] for batch in batches):
        alone = dataclasses.replace(batch, canvas=(1, batch.canvas[1]))
        greedy_votes, votes = searching.predict(alone), searching.predict(batch)
        known = {(test, greedy_votes.grid(i).tobytes()) for i, test in enumerate(greedy_votes.tests)}
        done = [i for i in range(len(votes)) if votes.grid(i).size]
        more += sum((votes.tests[i], votes.grid(i).tobytes()) not in known for i in done)
        assert max(np.bincount(votes.tests)) <= 5 * max(np.bincount(batch.examples))
        # The likelihood is of the view in which the grid was found.
        with torch.inference_mode():
            views = [range(*searching.puzzles.first_view[p : p + 2]) for p in searching.puzzles.tests.puzzles]
            for i in done[:3]:
                test, grid = int(votes.tests[i]), votes.grid(i)
                all_views = np.array(views[test])
                scores = searching._likelihoods((np.full(len(all_views), test), all_views, [grid] * len(all_views)))
                assert np.isclose(np.exp(scores), votes.confidence[i], rtol=1e-3).any()
    assert more > 10


def test_a_search_takes_the_likeliest_turns_that_no_path_has_taken():
    tokens = torch.tensor([[2, 3, 14, 1, 0], [2, 4, 14, 1, 0]])
    others = torch.tensor([[5, 6, 7, 8, 0], [0, 9, 0, 0, 0]])
    turns = torch.log(torch.tensor([[0.3, 0.05, 0.2, 0.001, 1e-9], [1e-9, 0.25, 1e-9, 1e-9, 1e-9]]))
    paths, taken = greedy.Written(tokens, torch.zeros(2), turns, others), set()
    owners = np.array([7, 7])
    found = decoding._best_turns(paths, owners, 2, np.log(0.01), taken)
    assert found == [(0, 0, 5), (1, 1, 9)]
    assert decoding._best_turns(paths, owners, 5, np.log(0.01), taken) == [(0, 2, 7), (0, 1, 6)]


@pytest.fixture
def serving(monkeypatch):
    """Let steps be recorded, as where our attention serves. Plain attention would wait for a GPU."""
    monkeypatch.setattr(decoding, "decide", lambda *_: Decision(op_serves["cached_attention"], ""))
    op_serves = {"cached_attention": True}
    return op_serves


@pytest.mark.parametrize("leaving_share", [0.25, 0.01])
def test_recorded_steps_write_what_plain_ones_do(serving, predictor, monkeypatch, leaving_share):
    monkeypatch.setitem(greedy._LEAVING_SHARE, "cpu", leaving_share)
    expected, cuda = predict_all(predictor), FakeCuda()
    recording = decoding.new_predictor(predictor.model, predictor.puzzles, predictor.recipe, GraphChoice(cuda, True))
    found = predict_all(recording)
    assert cuda.captures > 1 and cuda.replays > cuda.captures
    assert np.array_equal(found.cells, expected.cells)
    assert np.array_equal(found.confidence, expected.confidence)


@pytest.mark.parametrize(
    ("cuda", "serves", "reason"),
    [
        (FakeCuda(), True, "same numbers, faster"),
        (FakeCuda(recorded_seconds=2.0), False, "no faster"),
        (FakeCuda([None, RuntimeError("not permitted")]), False, "recording failed: RuntimeError: not permitted"),
        (FakeCuda([None, torch.OutOfMemoryError("CUDA out of memory")]), False, "the trial failed"),
    ],
)
def test_a_trial_decides_whether_steps_of_writing_are_recorded(serving, predictor, cuda, serves, reason):
    choice = GraphChoice(cuda, None)
    recording = decoding.new_predictor(predictor.model, predictor.puzzles, predictor.recipe, choice)
    recording.try_graphs(PredictionPlan(predictor.puzzles, predictor.recipe).rounds[1][0])
    assert (choice.serves, recording.records) == (serves, serves) and reason in choice.reason
    expected, captures = predict_all(predictor), cuda.captures
    assert np.array_equal(predict_all(recording).cells, expected.cells)
    assert (cuda.captures > captures) == serves


def test_a_recording_that_fails_in_the_middle_of_a_grid_costs_nothing(serving, predictor):
    expected = predict_all(predictor)
    choice = GraphChoice(FakeCuda([None, None, RuntimeError("not permitted")]), True)
    recording = decoding.new_predictor(predictor.model, predictor.puzzles, predictor.recipe, choice)
    assert np.array_equal(predict_all(recording).cells, expected.cells)
    assert choice.serves is False and not recording.records


def test_plain_attention_is_never_recorded(serving, predictor):
    """It reads the device at every token. A recording of that fails, and PyTorch frees no memory afterwards."""
    serving["cached_attention"] = False
    choice = GraphChoice(FakeCuda(), True)
    recording = decoding.new_predictor(predictor.model, predictor.puzzles, predictor.recipe, choice)
    assert choice.serves is False and not recording.records
    predict_all(recording)
    assert choice.cuda.captures == 0


def test_a_kernel_that_fails_later_ends_recordings_and_the_batch_is_written_again(serving, predictor, monkeypatch):
    expected, choice = predict_all(predictor), GraphChoice(FakeCuda(), True)
    recording = decoding.new_predictor(predictor.model, predictor.puzzles, predictor.recipe, choice)
    extend, calls = type(predictor.model).extend, []

    def failing(*given):
        calls.append(1)
        if len(calls) == 3:
            serving["cached_attention"] = False
            raise KernelFault("cached_attention", RuntimeError("out of resources"))
        return extend(predictor.model, *given)

    monkeypatch.setattr(predictor.model, "extend", failing)
    monkeypatch.setattr(dispatch, "demote_after", lambda fault: None)
    assert np.array_equal(predict_all(recording).cells, expected.cells)
    assert choice.serves is False and not recording.records


def test_a_recording_that_does_not_fit_into_memory_gives_way_to_a_single_row(serving, predictor):
    batch = PredictionPlan(predictor.puzzles, predictor.recipe).rounds[1][0].rows(slice(1))
    predictor._written.clear()
    expected = predictor.predict(batch)
    choice = GraphChoice(FakeCuda([None, torch.OutOfMemoryError("CUDA out of memory")]), True)
    recording = decoding.new_predictor(predictor.model, predictor.puzzles, predictor.recipe, choice)
    assert np.array_equal(recording.predict(batch).cells, expected.cells)
    assert choice.serves is False and "fit into memory" in choice.reason


@pytest.mark.gpu
def test_recorded_steps_write_what_launched_ones_do_on_a_gpu(predictor):
    model = predictor.model.to("cuda")
    model.dtype = torch.bfloat16
    plain = decoding.new_predictor(model, predictor.puzzles, predictor.recipe)
    choice = GraphChoice.of("yes", model.device)
    recording = decoding.new_predictor(model, predictor.puzzles, predictor.recipe, choice)
    expected, found = predict_all(plain), predict_all(recording)
    assert choice.serves == recording._may_record, choice.reason
    assert np.array_equal(found.cells, expected.cells)
    assert np.array_equal(found.confidence, expected.confidence)
