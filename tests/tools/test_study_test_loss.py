"""Test the test loss: known probabilities, and outputs that were learned."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import Pair, Task
from hrm_offline.model.network import build_network
from hrm_offline.presets import preset
from tools.study import trial
from tools.study.test_loss import test_losses
from tools.study.trial import Trial

# Their names must not make pytest take the measure for a test.
measure = test_losses
del test_losses


def grid(*rows):
    return np.array(rows, dtype=np.uint8)


DEMONSTRATIONS = (Pair(grid([1, 2]), grid([2, 1], [2, 1])), Pair(grid([3, 4]), grid([4, 3], [4, 3])))
TASKS = tuple(
    Task(name, DEMONSTRATIONS, (Pair(grid([5, colour]), grid([colour, 5], [colour, 5])),))
    for name, colour in (("first", 6), ("second", 7))
)
DOUBTFUL = Task("doubtful", DEMONSTRATIONS, (Pair(grid([5, 6]), grid([9])),))  # unlike all that is demonstrated


@pytest.mark.parametrize(("name", "vocabulary"), [("hrm-132k", 12), ("decoder-170k", 15)])
def test_a_network_that_knows_nothing_has_the_loss_of_a_guess(name, vocabulary):
    chosen, tasks = preset(name), (*TASKS, DOUBTFUL)
    recipe = chosen.recipe(False)
    puzzles = PuzzleSet(tuple(task.without_labels() for task in tasks), recipe, chosen.model, 0)
    network = build_network(chosen.model, puzzles.num_rows)
    with torch.no_grad():
        network.lm_head.weight.zero_()
    losses = measure(network, puzzles, recipe, tasks)
    assert losses == pytest.approx({task.id: math.log(vocabulary) for task in tasks})


@pytest.mark.parametrize(("name", "visits"), [("hrm-132k", 400), ("decoder-170k", 200)])
def test_an_output_that_was_learned_is_likelier_than_another(name, visits):
    known = Task("first", DEMONSTRATIONS, (DEMONSTRATIONS[0],))
    other = Task("first", DEMONSTRATIONS, (Pair(DEMONSTRATIONS[0].input, grid([1, 1], [2, 2])),))
    learned = trial.learn(Trial({"ema": 0.0}, 0, name, "", visits), (known,))
    found = [trial.test_losses_of(learned, (task,))["first"] for task in (known, other)]
    assert found[0] < 0.5 < 1 < found[1]


def test_the_test_loss_is_that_of_the_outer_step_with_which_a_prediction_ends():
    chosen = preset("hrm-132k")
    puzzles = PuzzleSet(tuple(task.without_labels() for task in TASKS), chosen.recipe(False), chosen.model, 0)
    torch.manual_seed(0)
    network = build_network(chosen.model, puzzles.num_rows)

    def losses(halts, **changes):
        with torch.no_grad():
            network.q_head.bias.copy_(torch.tensor([1.0, 0.0] if halts else [-1.0, 0.0]))
        return measure(network, puzzles, dataclasses.replace(chosen.recipe(False), **changes), TASKS)

    first, last = (losses(False, outer_steps=steps) for steps in (1, 3))
    assert first != pytest.approx(last, abs=1e-4)
    assert losses(True, outer_steps=3, early_halting=True) == pytest.approx(first)
    assert losses(False, outer_steps=3, early_halting=True) == pytest.approx(last)
