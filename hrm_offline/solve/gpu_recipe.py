"""Suit the recipe of a small decoder to a GPU. The presets of these networks name a CPU's batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.canvas import sequence_length
from hrm_offline.data.tasks import Task

LARGE_WIDTH = 512  # of a network whose recipe is made for a GPU
GPU_SETTINGS = ("tokens_per_step", "predict_tokens", "members")  # the settings that `gpu_recipe` changes
# An H200 makes 24 to 29 steps per second of `decoder-2m` where kernels are launched one by one, of 2,000 tokens as well
# as of 32,000. With recorded steps it makes 82 of 32,000 tokens and 89 of 8,000. The number taken is that of plain
# launches. On 220 tasks 640 steps of 32,000 tokens (160 visits) solved as much as 2,125 of 8,000 (133 visits). See
# LOG.md of 2026-11-27.
STEPS_PER_SECOND = 24.0
_TOKENS_PER_STEP, _STEPS = 32_000, 640
# A step of writing takes a GPU about as long for one sequence as for hundreds. With these batches all views of 400
# tasks take a sixth of the steps that they take with batches for a CPU, and the cache of `decoder-4m` takes 1.6 GB.
_PREDICT_TOKENS = 2**18
# A network of 4M parameters makes all its visits in minutes. The number is that of the large presets.
_MEMBERS = 16


def gpu_recipe(recipe: AdaptConfig, model: ModelConfig, tasks: Sequence[Task], groups: int) -> AdaptConfig:
    """Return the recipe of a small decoder with larger steps and batches, and with more members; any other as it is.

    `groups` is how many networks share the tasks. A step has as many tokens as leave each network enough steps.
    """
    if not is_small_decoder(model):
        return recipe
    tokens = recipe.visits * tokens_per_visit(tasks) / groups
    return dataclasses.replace(
        recipe,
        tokens_per_step=max(recipe.tokens_per_step, min(_TOKENS_PER_STEP, int(tokens / _STEPS))),
        predict_tokens=max(recipe.predict_tokens, _PREDICT_TOKENS),
        members=max(recipe.members, _MEMBERS),
    )


def is_small_decoder(model: ModelConfig) -> bool:
    """Return whether the network is a decoder whose recipe names a CPU's batches."""
    return model.is_decoder and model.hidden_size < LARGE_WIDTH


def tokens_per_visit(tasks: Sequence[Task]) -> int:
    """Return the tokens of all demonstrations as a decoder's sequences."""
    pairs = (pair for task in tasks for pair in task.train)
    return sum(sequence_length(pair.input.shape, pair.output.shape) for pair in pairs)
