"""What a rehearsal's speed would come to on Kaggle's four L4, phase by phase. Projected, not measured."""

from __future__ import annotations

import numpy as np
import torch

from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig, preset
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import load_tasks
from tools.support.flop import L4_TFLOPS, matrix_product_tflops, outer_step_flop, project, visit_flop

CHIPS, BUDGET_HOURS, ADAPT_SHARE = 4, 11.5, 0.6


def timetable(tasks, report: dict, workers: int) -> list[str]:
    """Lines of the timetable: start, adaptation, prediction and what is left, for 240 tasks on four L4 in 11h30m.

    `report` is the rehearsal's report.json. Assumes that each chip reaches that share of its peak which this machine
    reached of a large matrix product, in adaptation and in prediction.
    """
    if "cpu" not in report["device"]:
        return [f"no timetable: the projection compares with a CPU's matrix product, this ran on {report['device']}"]
    if not report["adapted"]["examples"] or not report["seconds"]["predict"]:
        return ["no timetable: nothing was adapted or predicted"]
    adapt_share, predict_share = _shares_of_peak(tasks, report, workers)
    rate = report["adapted"]["examples"] / report["seconds"]["adapt"]

    large, public = preset("hrm-27m"), load_tasks("arc2-eval").tasks
    hidden = public + public
    puzzles = PuzzleSet(hidden, large.adapt, large.model, 0)
    start, budget = report["seconds"]["start"], BUDGET_HOURS * 3600
    share_seconds = ADAPT_SHARE * (budget - start)
    carried = project(large.model, ExampleSource(puzzles, 0), CHIPS, L4_TFLOPS, adapt_share, share_seconds / 3600)
    done = min(1.0, large.adapt.visits / carried.visits)  # adaptation ends when the recipe's visits are made
    adapt_seconds = done * share_seconds
    room = budget - start - adapt_seconds
    wanted = prediction_flop(large.model, puzzles) / (CHIPS * L4_TFLOPS * 1e12 * predict_share)
    predict_seconds = min(wanted, room)
    phases = [
        ("start", start, "as here"),
        (
            "adapt",
            adapt_seconds,
            f"{done * carried.visits:,.0f} of the recipe's {large.adapt.visits:,} visits; "
            f"{ADAPT_SHARE:.0%} of the budget would carry {carried}",
        ),
        (
            "predict",
            predict_seconds,
            f"{predict_seconds / wanted:.0%} of the {large.adapt.vote_views} views of each "
            f"test input, {large.adapt.outer_steps} outer steps each",
        ),
        ("left", room - predict_seconds, "nothing, or more visits"),
    ]
    return [
        f"measured here: {rate:.0f} example-steps/s; of a large matrix product's rate {adapt_share:.0%} in adaptation, "
        f"{predict_share:.0%} in prediction",
        f"projected, not measured: {len(hidden)} tasks like ARC-AGI-2's public evaluation, hrm-27m, {CHIPS}x L4 with "
        f"{len(hidden) // CHIPS} tasks each, budget 11h30m, those shares of {L4_TFLOPS:.0f} TFLOP/s on each chip",
        f"  {'phase':<10}{'seconds':>8}  what it holds",
        *(f"  {name:<10}{seconds:>8,.0f}  {what}" for name, seconds, what in phases),
    ]


def prediction_flop(config: ModelConfig, puzzles: PuzzleSet) -> float:
    """Of predicting every view of every test input, without early halting."""
    views = np.array([len(v) for v in puzzles.views])[puzzles.tests.puzzles]
    views = np.minimum(views, puzzles.recipe.vote_views)
    return sum(
        int(views[bucket.members].sum()) * puzzles.recipe.outer_steps * outer_step_flop(config, bucket.area)
        for bucket in puzzles.buckets(puzzles.tests)
    )


def _shares_of_peak(tasks, report: dict, workers: int) -> tuple[float, float]:
    """The shares of a large matrix product's rate that adaptation and prediction reached here."""
    model = from_dict(ModelConfig, report["model"], "report")
    recipe = from_dict(AdaptConfig, report["adapt"], "report")
    puzzles = PuzzleSet(tuple(tasks), recipe, model, report["seed"])
    source = ExampleSource(puzzles, report["seed"])
    torch.set_num_threads(report["threads"])
    peak = workers * matrix_product_tflops() * 1e12
    visits = report["adapted"]["examples"] / len(source.examples)
    adapted = visits * visit_flop(model, source) / report["seconds"]["adapt"]
    predicted = prediction_flop(model, puzzles) / report["seconds"]["predict"]
    return adapted / peak, predicted / peak
