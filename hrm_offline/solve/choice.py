"""Choose the network and the recipe that a run uses, and say why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hrm_offline.common.errors import InputError
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.tasks import Task
from hrm_offline.model.artifact import Artifact, bundled_artifact, load_artifact
from hrm_offline.model.device import Runtime
from hrm_offline.presets import PRESETS, preset
from hrm_offline.solve.gpu_recipe import (
    GPU_SETTINGS,
    LARGE_WIDTH,
    STEPS_PER_SECOND,
    gpu_recipe,
    is_small_decoder,
    tokens_per_visit,
)
from hrm_offline.solve.messages import NetworkChoice, Setup
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.sizing import cores_for, gpu_groups

# With fewer GPU-seconds per task, a large network would see each demonstration too rarely. Without public tasks it has
# only the hidden demonstrations to learn from. mdlARC's network solved 24% of ARC-AGI-1's public evaluation with each
# task alone and 44% with all public tasks; `decoder-2m` solved 28% in three minutes of an H200, without induction
# (LOG.md, 2026-11-27).
_MIN_SECONDS_FOR_LARGE = 60.0
_MIN_BYTES_FOR_LARGE = 12 * 2**30
# The presets to choose from: pretrained ones, of which a device gets the largest that suits it where there is time, and
# those that learn from random weights.
_WITH_TIME, _IN_HASTE = {"cpu": "decoder-2m", "cuda": "decoder-4m"}, "decoder-170k"
_FROM_RANDOM, _LARGE_FROM_RANDOM = "decoder-170k", "decoder-75m"
# The tokens per second that this network learns. One core of an AMD EPYC server makes 1.2 steps of 2,000 tokens of
# `decoder-2m` per second. An H200 learned 2.5 million of `decoder-4m`; a smaller GPU is assumed to learn a tenth.
_TOKENS_PER_SECOND, _STEPS_PER_SECOND = {"cpu": 2_400.0, "cuda": 225_000.0}, {"cpu": math.inf, "cuda": STEPS_PER_SECOND}
# In the same time as `decoder-170k`, `decoder-2m` solves less of 40 tasks in 108 and 118 steps (8 and 13 visits), and
# more in 356 and 570 steps. It solves more of 80 tasks where the estimate is 11 visits, in 286 steps: see LOG.md of
# 2026-11-27.
_MIN_VISITS, _MIN_STEPS = 10.0, 200.0
_ADAPTING_SHARE = 0.5  # of a budget; in so short a run prediction takes about as long


@dataclass(frozen=True)
class Choice:
    """The network that a worker adapts, its pretrained weights, the reason in words, and a wish that was not met."""

    network: NetworkChoice
    artifact: Artifact | None
    reason: str
    warning: str | None = None

    @property
    def model(self) -> ModelConfig:
        return self.network.model

    @property
    def recipe(self) -> AdaptConfig:
        return self.network.recipe


def choose(setup: Setup, runtime: Runtime, tasks: Sequence[Task]) -> Choice:
    """Choose the network that was asked for, or the one that suits the device and the time for the `tasks`.

    An artifact that cannot be used costs a warning, and the package's network is adapted in its place.
    """
    if setup.network is not None:
        artifact, warning = _load(setup.network.artifact)
        artifact = artifact and artifact.conditioned(setup.network.recipe)
        return Choice(setup.network, artifact, "as the first worker chose", warning)
    artifact, warning = _load(setup.options.artifact)
    if warning is not None:
        setup = dataclasses.replace(setup, options=dataclasses.replace(setup.options, artifact=None, bundled=True))
    options = setup.options
    name, reason = _name_preset(setup, artifact, runtime, tasks)
    if options.bundled and options.artifact is None:
        artifact, problem = _load(bundled_artifact(name))
        warning = warning or problem
    recipe = preset(name).recipe(artifact is not None)
    if artifact is not None:
        recipe = _final(_conditioned(recipe, artifact), artifact.config, setup, runtime, tasks)
        artifact = artifact.conditioned(recipe)
        words = f"network of {artifact.folder}, adapted by the recipe of {name} ({reason})"
        return Choice(NetworkChoice(artifact.config, recipe, artifact.folder), artifact, words, warning)
    model = preset(name).model
    recipe = _final(recipe, model, setup, runtime, tasks)
    network = NetworkChoice(model.conditioned(recipe), recipe, None)  # an override may ask for another conditioning
    if warning is None and options.preset is None and not options.along and model.hidden_size >= LARGE_WIDTH:
        warning = (
            f"preset {name} learns from RANDOM weights and from the hidden tasks alone, and solves few of them in the "
            "time of one run. Attach an artifact, or leave out --artifact none"
        )
    return Choice(network, None, f"preset {name} ({reason}), from random weights", warning)


def _name_preset(setup: Setup, artifact: Artifact | None, runtime: Runtime, tasks: Sequence[Task]) -> tuple[str, str]:
    """Return the name of the preset, and why: asked for, an artifact's nearest, this run's own, or what suits."""
    if setup.options.preset is not None:
        return setup.options.preset, "asked for"
    if artifact is not None:
        return nearest_preset(artifact.config), "nearest in size"
    return _past_preset(setup, runtime) or _pick_preset(setup, runtime, tasks)


def _final(
    recipe: AdaptConfig, model: ModelConfig, setup: Setup, runtime: Runtime, tasks: Sequence[Task]
) -> AdaptConfig:
    """Return a preset's recipe as it suits the device (see `_recipe_for_device`), with the tasks to learn along."""
    recipe = _recipe_for_device(recipe, model, setup, runtime, tasks)
    along = setup.options.along
    return recipe if along is None else dataclasses.replace(recipe, along=along)


def _past_preset(setup: Setup, runtime: Runtime) -> tuple[str, str] | None:
    """Return the preset that was chosen when this run began, None for a new run. A CPU cannot carry the large one."""
    names = {_FROM_RANDOM, *((*_WITH_TIME.values(), _IN_HASTE) if setup.options.bundled else ())}
    if runtime.device.type != "cpu":
        names.add(_LARGE_FROM_RANDOM)
    name = next((name for name in sorted(names) if _is_of(setup.past, PRESETS[name].model)), None)
    return name and (name, "as this run began")


def _is_of(past: dict | None, model: ModelConfig) -> bool:
    """Return whether a run, by its identity in the journal, began with this network."""
    known = (past or {}).get("model", {})
    return all(known.get(name) == getattr(model, name) for name in ("architecture", "hidden_size"))


def _pick_preset(setup: Setup, runtime: Runtime, tasks: Sequence[Task]) -> tuple[str, str]:
    """Return the preset that suits a device and the time for the tasks, and the reason."""
    options = setup.options
    is_cpu = runtime.device.type == "cpu"
    devices = cores_for(options, len(tasks)) if is_cpu else _gpus(options)
    seconds_per_task = setup.seconds_per_task * devices
    is_large = not is_cpu and runtime.memory >= _MIN_BYTES_FOR_LARGE and seconds_per_task >= _MIN_SECONDS_FOR_LARGE
    if is_large and (options.along or not options.bundled):
        beside = ", and public tasks along" if options.along else ""
        return _LARGE_FROM_RANDOM, f"{seconds_per_task:.0f} s per task{beside}"
    if not options.bundled:
        return _FROM_RANDOM, "the network from random weights that learns in minutes"
    large = _WITH_TIME[runtime.device.type]
    visits, steps = _affordable(large, setup, devices, runtime, tasks)
    if visits < _MIN_VISITS or steps < _MIN_STEPS:
        return _IN_HASTE, f"{large} would learn too little"
    return large, f"the largest that comes pretrained for a {'CPU' if is_cpu else 'GPU'}"


def _affordable(name: str, setup: Setup, devices: int, runtime: Runtime, tasks: Sequence[Task]) -> tuple[float, float]:
    """Return how many visits, and how many steps per device, a preset would make. Devices share the tasks."""
    chosen, kind = PRESETS[name], runtime.device.type
    recipe = _recipe_for_device(chosen.recipe(pretrained=True), chosen.model, setup, runtime, tasks)
    visit = tokens_per_visit(tasks) / devices
    share = _ADAPTING_SHARE * (1.0 - (recipe.along_share if setup.options.along else 0.0))
    seconds = share * setup.seconds_per_task * len(tasks)
    pace = min(_TOKENS_PER_SECOND[kind], _STEPS_PER_SECOND[kind] * recipe.tokens_per_step)
    visits = min(recipe.visits, seconds * pace / max(1.0, visit))
    return visits, visits * max(1.0, visit / recipe.tokens_per_step)


def _recipe_for_device(
    recipe: AdaptConfig, model: ModelConfig, setup: Setup, runtime: Runtime, tasks: Sequence[Task]
) -> AdaptConfig:
    """Return a preset's recipe as it suits the device, or as this run began with it, with what the user overrides."""
    options, is_small = setup.options, is_small_decoder(model)
    if is_small and _is_of(setup.past, model):
        known = setup.past.get("recipe", {})
        recipe = dataclasses.replace(recipe, **{name: known[name] for name in GPU_SETTINGS if name in known})
    elif is_small and runtime.device.type == "cuda":
        visits = options.overrides.get("visits", recipe.visits)
        limit = options.overrides.get("group_tasks", recipe.group_tasks)
        groups = gpu_groups(options, _gpus(options), len(tasks), limit)
        recipe = gpu_recipe(dataclasses.replace(recipe, visits=visits), model, tasks, groups)
    return dataclasses.replace(recipe, **options.overrides)


def _gpus(options: SolveOptions) -> int:
    """Return how many GPUs share the tasks: all of them, unless one was named."""
    return max(1, torch.cuda.device_count()) if options.device in (None, "cuda") else 1


def _load(folder: Path | None) -> tuple[Artifact | None, str | None]:
    """Return the artifact, or None and the reason why it cannot be used."""
    if folder is None:
        return None, None
    try:
        return load_artifact(folder), None
    except InputError as error:
        return None, f"the artifact cannot be used: {error}"


def nearest_preset(config: ModelConfig) -> str:
    """Return the preset whose recipe suits a network: nearest by ratio in width.

    Presets of the network's architecture come before others. Of these, presets with an outer loop come first for a
    network with an outer loop, and presets without for a network without.
    """

    def distance(name: str) -> tuple[bool, bool, float]:
        model = PRESETS[name].model
        width = abs(math.log(model.hidden_size / config.hidden_size))
        loops = [each.halt_max_steps > 1 for each in (model, config)]
        return model.architecture != config.architecture, loops[0] != loops[1], width

    return min(PRESETS, key=distance)


def _conditioned(recipe: AdaptConfig, artifact: Artifact) -> AdaptConfig:
    """Return the recipe with the artifact's conditioning."""
    changes: dict = {"conditioning": artifact.conditioning}
    if artifact.conditioning == "factored":
        # The third column names what becomes of each colour. Without it, recoloured views look all alike. A decoder
        # that has the other two gets it where the recipe has recoloured views.
        columns = artifact.config.puzzle_columns
        if columns == 3:
            changes["colour_permutations"] = max(1, recipe.colour_permutations)
        elif columns == 0 or not artifact.config.is_decoder:
            changes["colour_permutations"] = 0
    elif artifact.conditioning == "few-shot":
        changes["context_pairs"] = artifact.config.context_pairs
    return dataclasses.replace(recipe, **changes)
