"""Project the speed of a rehearsal to Kaggle's four L4 chips, phase by phase. Nothing here is measured on an L4."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig, preset
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import load_tasks
from tools.support.flop import L4_TFLOPS, matrix_product_tflops, outer_step_flop, project, visit_flop

CHIPS, BUDGET_HOURS, BUDGET = 4, 11.5, "11h30m"
ADAPT_SHARE = 0.6  # the largest part of the budget that adaptation may take
# What a large GPU would learn, by the rehearsed network's architecture.
_PRESETS = {"decoder": "decoder-75m", "shared": "trm-7m", "looped": "urm-14m"}
_PRESET_OF_OTHERS = "hrm-27m"


@dataclass(frozen=True)
class Shares:
    """The shares of a large matrix product's rate that adaptation and prediction reached, 0 to 1."""

    adapt: float
    predict: float


@dataclass(frozen=True)
class Phase:
    """A phase of the projected run, its seconds, and the work that it does."""

    name: str
    seconds: float
    work: str


def timetable(tasks, report: dict, workers: int) -> list[str]:
    """Return the lines of a timetable for 240 tasks on four L4 in 11h30m.

    `report` is the rehearsal's report.json; `tasks` are its tasks and `workers` its number of workers. Each chip is
    assumed to reach the share of its peak that this machine reached of its own.
    """
    if "cpu" not in report["device"]:
        return [f"No projection: it compares with a CPU's matrix product, and this ran on {report['device']}."]
    if not report["adapted"]["examples"] or not report["seconds"]["predict"]:
        return ["No projection: nothing was adapted or predicted."]
    shares = _shares_of_peak(tasks, report, workers)
    rate = report["adapted"]["examples"] / report["seconds"]["adapt"]

    public = load_tasks("arc2-eval").tasks
    hidden = public + public  # the hidden set of a competition has 240 tasks, twice the public one
    projected = _PRESETS.get(report["model"]["architecture"], _PRESET_OF_OTHERS)
    chosen = preset(projected)
    recipe = chosen.recipe(pretrained=report.get("artifact") is not None)
    phases = _phases(chosen.model, recipe, hidden, shares, report["seconds"]["start"])
    return [
        f"measured here: {rate:.0f} examples per second in adaptation; adaptation reached {shares.adapt:.0%} of the "
        f"rate of a large matrix product, prediction {shares.predict:.0%}",
        f"projected, not measured: {len(hidden)} tasks like ARC-AGI-2's public evaluation, preset {projected}, {CHIPS} "
        f"L4 with {len(hidden) // CHIPS} tasks each, budget {BUDGET}; each L4 reaches the same shares of its "
        f"{L4_TFLOPS:.0f} TFLOP/s",
        f"  {'phase':<10}{'seconds':>8}  work",
        *(f"  {phase.name:<10}{phase.seconds:>8,.0f}  {phase.work}" for phase in phases),
    ]


def prediction_flop(config: ModelConfig, puzzles: PuzzleSet) -> float:
    """Return the FLOP of predicting every view of every test input, where no sequence halts early."""
    views = np.array([len(v) for v in puzzles.views])[puzzles.tests.puzzles]  # [test inputs]
    views = np.minimum(views, puzzles.recipe.vote_views)
    return sum(
        int(views[bucket.members].sum()) * puzzles.recipe.outer_steps * outer_step_flop(config, bucket.area)
        for bucket in puzzles.buckets(puzzles.tests)
    )


def _phases(model: ModelConfig, recipe: AdaptConfig, tasks, shares: Shares, start: float) -> list[Phase]:
    """Return the phases of a run; `start` is the seconds until its workers are ready."""
    puzzles = PuzzleSet(tasks, recipe, model, 0)
    budget = BUDGET_HOURS * 3600
    most_seconds = ADAPT_SHARE * (budget - start)
    possible = project(model, ExampleSource(puzzles, 0), CHIPS, L4_TFLOPS, shares.adapt, most_seconds / 3600)
    done = min(1.0, recipe.visits / possible.visits)  # adaptation ends when the recipe's visits are made
    adapt_seconds = done * most_seconds

    room = budget - start - adapt_seconds
    wanted = prediction_flop(model, puzzles) / (CHIPS * L4_TFLOPS * 1e12 * shares.predict)
    predict_seconds = min(wanted, room)
    return [
        Phase("start", start, "as measured here"),
        Phase(
            "adapt",
            adapt_seconds,
            f"{done * possible.visits:,.0f} of the recipe's {recipe.visits:,} visits per demonstration; "
            f"{possible.hours:.1f} h would be enough for {possible.visits:,.0f}, in {possible.steps:,.0f} steps of "
            f"{possible.examples_per_step:,.0f} examples",
        ),
        Phase(
            "predict",
            predict_seconds,
            f"{predict_seconds / wanted:.0%} of the {recipe.vote_views} views per test input, "
            f"{recipe.outer_steps} outer steps each",
        ),
        Phase("left", room - predict_seconds, "unused, or more visits"),
    ]


def _shares_of_peak(tasks, report: dict, workers: int) -> Shares:
    """Return the shares of a large matrix product's rate that the rehearsal reached on this machine."""
    model = from_dict(ModelConfig, report["model"], "report")
    recipe = from_dict(AdaptConfig, report["adapt"], "report")
    puzzles = PuzzleSet(tuple(tasks), recipe, model, report["seed"])
    source = ExampleSource(puzzles, report["seed"])
    torch.set_num_threads(report["threads"])
    peak = workers * matrix_product_tflops() * 1e12
    visits = report["adapted"]["examples"] / len(source.examples)
    adapt_rate = visits * visit_flop(model, source) / report["seconds"]["adapt"]
    predict_rate = prediction_flop(model, puzzles) / report["seconds"]["predict"]
    return Shares(adapt_rate / peak, predict_rate / peak)
