"""Test which views of which test inputs are predicted, and in which order."""

import dataclasses

import numpy as np
import pytest
import torch
from decoders import make_decoder
from few_shot import few_shot
from plans import make_plan

from hrm_offline.common.tokens import PAD
from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.model.batching import BatchMaker
from hrm_offline.predict.plan import PredictionPlan, tokens_of
from hrm_offline.presets import PRESETS


def test_a_test_inputs_context_may_hold_every_demonstration_and_rows_that_lack_are_blank(make_task):
    puzzles = few_shot((make_task("t"),), pairs=5)
    batch = PredictionPlan(puzzles, puzzles.recipe).rounds[0][0]
    count = len(puzzles.tasks[0].train)
    assert sorted(batch.contexts[0].tolist()) == [NO_PAIR] * (5 - count) + list(range(count))
    area = batch.canvas[0] * batch.canvas[1]
    tokens = BatchMaker(puzzles, puzzles.tests, torch.device("cpu")).make(batch).inputs[0].view(11, area)
    assert (tokens[2 * count : 10] == PAD).all()


SMALL = PRESETS["hrm-132k"]


def test_rounds_cover_every_view_of_every_test_input_once(make_task):
    tasks = (make_task("a", test=[((3, 3), (3, 3))] * 3), make_task("b", [((9, 9), (9, 9))] * 2, seed=1))
    plan = make_plan(tasks, predict_tokens=32, vote_views=100)
    puzzles = plan.puzzles
    rounds = [[tuple(row) for batch in batches for row in batch.packed] for batches in plan.rounds]
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


def test_a_search_has_several_rounds_which_keep_the_views_of_a_test_input_together(make_task):
    tasks = tuple(make_task(f"t{i}", [((2 + i, 3), (3, 3))] * 2, seed=i) for i in range(6))
    _, puzzles, recipe = make_decoder(tasks, search_branches=4, predict_tokens=200, vote_views=8)
    plan = PredictionPlan(puzzles, recipe)
    search = plan.rounds[2:]
    assert 4 < len(search) <= 8
    assert plan.judging_points == set(range(2, len(plan.rounds) + 1))
    shown = [batch for batches in search for batch in batches]
    rows = [row for batch in shown for row in zip(batch.examples.tolist(), batch.views.tolist())]
    tests = [test for test, _ in rows]
    assert len(rows) == len(set(rows)) == 6 * 8
    assert [test for i, test in enumerate(tests) if i == 0 or test != tests[i - 1]] == list(dict.fromkeys(tests))
    lengths = [batch.canvas[1] for batch in shown]
    assert lengths == sorted(lengths)


def test_a_decoder_costs_as_many_steps_as_its_longest_output_has_tokens_and_more_with_more_rows(make_task):
    """Two batches cost more than the batch of all their rows, and a search more than the grids that it starts from."""
    tasks = (make_task("a"), make_task("b", seed=1))
    _, puzzles, recipe = make_decoder(tasks, search_branches=4)
    plan = PredictionPlan(puzzles, recipe)
    batch, searched = plan.rounds[1][0], plan.rounds[-1][0]
    cost, one = plan.cost_of(batch), plan.cost_of(batch.rows(slice(1)))
    assert one < cost < len(batch) * one
    assert plan.cost_of(searched) > plan.cost_of(batch.rows(slice(len(searched))))
    in_place = make_plan(tasks)
    assert in_place.cost_of(in_place.rounds[1][0]) == tokens_of(in_place.rounds[1][0])

    shrinking = (make_task("c", [((20, 20), (2, 2))] * 3), make_task("d", [((20, 20), (20, 20))] * 3))
    _, puzzles, recipe = make_decoder(shrinking)
    plan = PredictionPlan(puzzles, recipe)
    small, large = (plan.cost_of(batch) for batch in plan.rounds[0])
    assert large > 20 * small


def test_the_cost_of_a_step_is_fitted_to_the_seconds_of_two_batches(make_task):
    _, puzzles, recipe = make_decoder((make_task("a"),))
    plan = PredictionPlan(puzzles, recipe, rows_per_step=200.0)
    batch = plan.rounds[1][0]
    few, many = batch.rows(np.zeros(1, dtype=np.int64)), batch.rows(np.arange(90) % len(batch))
    seconds = [1e-4 * plan.cost_of(part) for part in (few, many)]
    assert plan.fit_rows_per_step(few, seconds[0], many, seconds[1]) == pytest.approx(200.0, rel=0.02)
    assert plan.fit_rows_per_step(few, 1.0, many, 1.0) == plan.fit_rows_per_step(few, 1.0, many, 0.5) > 1000
    assert plan.fit_rows_per_step(few, 1.0, many, 1000.0) == 1.0


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
    plan = PredictionPlan(puzzles, puzzles.recipe)
    pairs = [pair for batches in plan.rounds for batch in batches for pair in zip(batch.examples, batch.views)]
    views = [view for _, view in pairs]
    assert set(puzzles.all_views.elements[views].tolist()) == elements
    assert bool((puzzles.all_views.colours[views] != np.arange(10)).any()) == recoloured
    assert len(set(pairs)) == len(pairs)


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
    plan = PredictionPlan(puzzles, puzzles.recipe)
    votes = [
        (test, view, *corner)
        for batches in plan.rounds
        for batch in batches
        for test, view, corner in zip(batch.examples, batch.views, batch.corners.tolist())
    ]
    moved = [vote for vote in votes if any(vote[2:])]
    assert len(votes) == 2 * len(puzzles.all_views)
    assert sorted(vote[:2] for vote in votes if not any(vote[2:])) == sorted(vote[:2] for vote in moved)
    for test, view, top, left in moved:
        rows_needed, cols_needed = puzzles.tests.rooms[test]
        if puzzles.all_views.elements[view] in (1, 3, 6, 7):
            rows_needed, cols_needed = cols_needed, rows_needed
        assert top + rows_needed <= 30
        assert left + cols_needed <= 30
