"""Test the loop that predicts and votes, which is the API for use from Python."""

import dataclasses

import pytest
import torch
from decoders import lean_towards, make_decoder
from plans import make_plan

from hrm_offline.answers.submission import build_submission, fallback_submission
from hrm_offline.answers.vote import Tally
from hrm_offline.data.tasks import TaskSet
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.predict.loop import collect_votes, predict_votes
from hrm_offline.predict.predictor import Predictor
from hrm_offline.presets import PRESETS


@pytest.fixture
def plan(make_task):
    """Return a plan of two tasks with three test inputs, in batches of two or three canvases."""
    tasks = (make_task("a", test=[((3, 3), (3, 3))] * 2), make_task("b", seed=1))
    return make_plan(tasks, predict_tokens=48)


@pytest.fixture
def model(plan):
    torch.manual_seed(0)
    return RecursiveModel(dataclasses.replace(PRESETS["hrm-132k"].model, puzzle_columns=1), plan.puzzles.num_rows)


def ballots(votes):
    return {key: [(c.grid.tolist(), c.count, c.confidence) for c in pool.ranking()] for key, pool in votes.items()}


def test_every_test_input_gets_a_vote_from_each_of_its_views(plan, model):
    puzzles = plan.puzzles
    votes = predict_votes(model, puzzles, puzzles.recipe)
    assert list(votes) == [("a", 0), ("a", 1), ("b", 0)]
    assert {pool.count for pool in votes.values()} == {min(8, puzzles.recipe.vote_views)}
    submission = build_submission(fallback_submission(TaskSet("x", puzzles.tasks)), votes)
    assert {task_id: len(entries) for task_id, entries in submission.items()} == {"a": 2, "b": 1}


def test_the_votes_are_those_that_a_run_of_solve_collects_batch_by_batch(plan, model):
    puzzles = plan.puzzles
    predictor, tally = Predictor(model, puzzles, puzzles.recipe), Tally()
    for number, batches in enumerate(plan.rounds):
        for index, batch in enumerate(batches):
            tally.add((0, number, index), predictor.predict(batch))
    found = {plan.keys[test]: pool for test, pool in tally.pools(0).items()}
    assert ballots(predict_votes(model, puzzles, puzzles.recipe)) == ballots(found)


def test_a_part_of_the_plan_may_be_predicted_and_its_steps_are_counted(plan, model):
    recipe = plan.puzzles.recipe
    predictor = Predictor(model, plan.puzzles, recipe)
    votes = collect_votes(predictor, plan, max_batches=1)
    first = plan.rounds[0][0]
    assert sum(pool.count for pool in votes.values()) == len(first)
    assert predictor.sequence_steps == recipe.outer_steps * len(first)


def test_a_decoder_judges_its_candidates(make_task):
    model, puzzles, recipe = make_decoder((make_task("a", seed=1), make_task("b", seed=2)))
    lean_towards(model, 14, 3.0)
    lean_towards(model, 1, 3.0)
    pools = predict_votes(model, puzzles, recipe)
    ranked = [candidate for pool in pools.values() for candidate in pool.ranking() if candidate.grid.size]
    assert ranked
    assert all(candidate.score is not None and candidate.score < 0 for candidate in ranked[:8])
