"""Plans of a prediction by the smallest preset."""

import dataclasses

from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.presets import PRESETS

SMALL = PRESETS["hrm-132k"]


def make_plan(tasks, **changes):
    """Return the plan that predicts the tasks, by the recipe of the smallest preset with some changes."""
    recipe = dataclasses.replace(SMALL.adapt, colour_permutations=2, conditioning="table", **changes)
    return PredictionPlan(PuzzleSet(tasks, recipe, dataclasses.replace(SMALL.model, puzzle_columns=1), 0), recipe)
