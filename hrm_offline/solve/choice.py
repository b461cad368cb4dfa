"""Which network and recipe a run uses, and why."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.config import PRESETS, AdaptConfig, ModelConfig, preset
from hrm_offline.model.artifact import Artifact, bundled_artifact, load_artifact
from hrm_offline.model.device import Runtime
from hrm_offline.solve.messages import Setup

# GPU-seconds a task below which the small network is adapted: the large one would see each
# demonstration too rarely.
_SECONDS_FOR_LARGE = 60.0
_BYTES_FOR_LARGE = 12 * 2**30


@dataclass(frozen=True)
class Choice:
    """A network's configuration, the recipe that adapts it, the artifact it starts from, the reason in words,
    and what of the request could not be had."""

    model: ModelConfig
    recipe: AdaptConfig
    artifact: Artifact | None
    reason: str
    warning: str | None = None


def choose(setup: Setup, runtime: Runtime) -> Choice:
    """The asked-for network, or what suits the device. An artifact that cannot be used is a warning, not the
    end: random weights solve some tasks, a run that ends solves none."""
    artifact, warning = _load(setup.artifact)
    name, reason = setup.preset, "asked for"
    if name is None and artifact is not None:
        name, reason = nearest_preset(artifact.config), "nearest in size"
    elif name is None:
        name, reason = pick_preset(runtime, setup.seconds_per_task)
    if setup.bundled and setup.artifact is None:
        artifact, warning = _load(bundled_artifact(name))
    model, recipe = preset(name).model, preset(name).recipe(artifact is not None)
    words = f"preset {name} ({reason}), from random weights"
    if artifact is not None:
        model, recipe = artifact.config, _conditioned(recipe, artifact)
        words = f"network of {artifact.folder}, adapted by the recipe of {name} ({reason})"
    recipe = dataclasses.replace(recipe, **setup.overrides)
    if artifact is None:  # an override may ask for another conditioning than the preset's
        model = model.conditioned(recipe)
    if setup.model is not None:  # chosen by the run's first worker
        model, recipe = setup.model, setup.recipe
    return Choice(model, recipe, artifact, words, warning)


def _load(folder: Path | None) -> tuple[Artifact | None, str | None]:
    """The artifact, or None and, where one was asked for, what is wrong with it."""
    if folder is None:
        return None, None
    try:
        return load_artifact(folder), None
    except InputError as error:
        return None, f"the artifact cannot be used, random weights are adapted instead: {error}"


def pick_preset(runtime: Runtime, seconds_per_task: float) -> tuple[str, str]:
    """The preset that suits a device and the seconds that one device has for each task, and why."""
    if runtime.device.type == "cpu":
        return "hrm-132k", "a CPU carries no more"
    if runtime.memory < _BYTES_FOR_LARGE:
        return "hrm-3m", f"{runtime.memory / 2**30:.0f} GiB of GPU memory"
    if seconds_per_task < _SECONDS_FOR_LARGE:
        return "hrm-3m", f"{seconds_per_task:.0f} s a task are too few for the large network"
    return "hrm-27m", f"{seconds_per_task:.0f} s a task"


def nearest_preset(config: ModelConfig) -> str:
    """The preset whose network is nearest in width, of those of the same architecture if there are any: its recipe
    suits."""

    def distance(name: str) -> tuple[bool, int]:
        model = PRESETS[name].model
        return model.architecture != config.architecture, abs(model.hidden_size - config.hidden_size)

    return min(PRESETS, key=distance)


def _conditioned(recipe: AdaptConfig, artifact: Artifact) -> AdaptConfig:
    """The recipe with the artifact's conditioning; a factored one recolours where it can name colours."""
    if artifact.conditioning == "factored":
        named = artifact.config.puzzle_columns == 3
        permutations = max(1, recipe.colour_permutations) if named else 0
        recipe = dataclasses.replace(recipe, colour_permutations=permutations)
    elif artifact.conditioning == "few-shot":
        recipe = dataclasses.replace(recipe, context_pairs=artifact.config.context_pairs)
    return dataclasses.replace(recipe, conditioning=artifact.conditioning)
