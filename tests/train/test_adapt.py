"""Test that adaptation memorises real tasks, can be repeated, and keeps to its time."""

import dataclasses

import numpy as np
import pytest
import torch
from decoders import make_decoder
from few_shot import few_shot

from hrm_offline.common.budget import Budget
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.sets import rehearsal_tasks
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.predict.predictor import Predictor
from hrm_offline.presets import PRESETS
from hrm_offline.train.adapt import Adaptation, adapt

SMALL = PRESETS["hrm-132k"]


SAME_SIZE = {
    "hrm": {},
    "transformer": dict(architecture="transformer", H_layers=2, L_layers=0, L_cycles=0),
    "shared": dict(architecture="shared", H_layers=0, L_layers=2),
}


def learned_and_decoded(model_config: ModelConfig, recipe, visits: int):
    """Adapt to the demonstrations of four real tasks. Return the share of grids that the network then gives back."""
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


def test_memorises_demonstrations_and_predicts_them(make_task):
    """Adapt to two tasks of random grids whose test inputs are demonstrations: every view is answered right."""
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


def test_an_adaptation_that_goes_on_keeps_its_shortened_schedule(short_and_long):
    first, _, _ = adaptation_of(short_and_long)
    for step in first.run():
        if step == 40:
            break
    shortened = first.progress()["total_steps"]
    assert 40 < shortened < first.planned
    second, _, _ = adaptation_of(short_and_long, seconds=0.0)  # its pace cannot be measured
    second.resume(first.progress())
    second.learner.step = 40
    next(second.run())
    assert second.learner.total_steps == shortened


def test_an_adaptation_that_had_no_time_left_goes_on_where_there_is_more(short_and_long):
    adaptation, _, _ = adaptation_of(short_and_long, seconds=0.01, visits=4)
    adaptation.resume(adaptation.progress() | {"total_steps": 3})
    adaptation.learner.step = 3
    for _ in adaptation.run():
        pass
    assert adaptation.learner.step == adaptation.planned > 20


class Ticking:
    """A clock that goes on by so many seconds at each look."""

    def __init__(self, seconds=1.0):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


def adaptation_of(tasks, seconds=1.0, until=200.0, visits=80, **changes):
    """Return the adaptation of a small decoder whose clock ticks at each look, and the lengths that it offers."""
    model, puzzles, recipe = make_decoder(tasks, visits=visits, tokens_per_step=40, **changes)
    adaptation = Adaptation.of_model(model, puzzles, recipe, seed=0, pretrained=True)
    adaptation.clock, adaptation.until = Ticking(seconds), until
    lengths, offer = puzzles.lengths(puzzles.demonstrations), adaptation.offer
    offered = np.zeros(len(lengths))

    def counted(step):
        np.add.at(offered, adaptation.source.batch(step).examples, 1)
        return offer(step)

    adaptation.offer = counted
    return adaptation, lengths, offered


@pytest.fixture
def short_and_long(make_task):
    return make_task("short", [((3, 3), (3, 3))] * 4, seed=1), make_task("long", [((9, 9), (9, 9))] * 4, seed=2)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_short_examples_get_more_of_the_visits_that_there_is_time_for(short_and_long, power):
    adaptation, lengths, offered = adaptation_of(short_and_long, length_power=power)
    for _ in adaptation.run():
        pass
    assert 0 < adaptation.learner.step < 0.5 * adaptation.planned
    visits = [offered[lengths == length].mean() for length in np.unique(lengths)]
    ratio = np.unique(lengths).max() / np.unique(lengths).min()
    assert visits[0] / visits[1] == pytest.approx(ratio**power, rel=0.25)


def test_short_examples_take_no_visits_from_long_ones_that_they_do_not_need(short_and_long):
    adaptation, lengths, offered = adaptation_of(short_and_long, until=1000.0, visits=400, length_power=1.0)
    for _ in adaptation.run():
        pass
    assert offered.min() > 40
    assert adaptation.learner.step < 0.5 * adaptation.planned
    assert not adaptation.full_lengths
    assert offered[lengths == lengths.min()].mean() < 1.1 * offered[lengths == lengths.max()].mean()


def test_all_examples_are_offered_alike_where_there_is_time(short_and_long):
    adaptation, _, offered = adaptation_of(short_and_long, until=1e9, visits=30, length_power=1.0)
    for _ in adaptation.run():
        pass
    assert adaptation.learner.step == adaptation.planned
    assert not adaptation.full_lengths
    assert offered.max() - offered.min() <= 1


def test_an_adaptation_that_goes_on_favours_the_same_examples(short_and_long):
    first, _, _ = adaptation_of(short_and_long, length_power=1.0)
    for step in first.run():
        if step == 60:
            break
    progress = first.progress()
    assert progress["full_lengths"]
    second, _, _ = adaptation_of(short_and_long, length_power=1.0)
    second.resume(progress | {"losses": []})
    for step in range(60, 80):
        assert second.source.batch(step).examples.tolist() == first.source.batch(step).examples.tolist()
