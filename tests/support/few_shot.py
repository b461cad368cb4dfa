"""Tasks for a network that is conditioned on demonstrations in its sequence."""

import dataclasses

from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.presets import PRESETS


def few_shot(tasks, pairs: int = 2, **changes):
    """Return the puzzles of tasks whose sequences hold up to `pairs` demonstrations."""
    recipe = dataclasses.replace(PRESETS["hrm-132k"].adapt, conditioning="few-shot", context_pairs=pairs, **changes)
    return PuzzleSet(tasks, recipe, PRESETS["hrm-132k"].model.conditioned(recipe), seed=0)
