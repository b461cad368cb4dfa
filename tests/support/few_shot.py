"""Tasks for a network that is conditioned on demonstrations in its sequence."""

import dataclasses

from hrm_offline.config import PRESETS
from hrm_offline.data.puzzles import PuzzleSet


def few_shot(tasks, pairs: int = 2, **changes):
    recipe = dataclasses.replace(PRESETS["hrm-132k"].adapt, conditioning="few-shot", context_pairs=pairs, **changes)
    return PuzzleSet(tasks, recipe, PRESETS["hrm-132k"].model.conditioned(recipe), seed=0)
