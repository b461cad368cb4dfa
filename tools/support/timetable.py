"""Project the speed of a rehearsal to Kaggle's four L4 chips, phase by phase. Nothing here is measured on an L4."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hrm_offline.common.budget import Budget
from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import load_tasks
from hrm_offline.presets import preset
from hrm_offline.solve.gpu_recipe import gpu_recipe, is_small_decoder
from hrm_offline.solve.schedule import judged_seconds, reserved_seconds
from hrm_offline.solve.sizing import GROUPS_PER_WORKER
from tools.support.flop import L4_TFLOPS, matrix_product_tflops, outer_step_flop, visit_flop

CHIPS, BUDGET_HOURS, BUDGET = 4, 11.5, "11h30m"
# An H200 pretrained `decoder-4m` at 2.5 million tokens per second, 96 TFLOP/s or 14% of its rate of a large matrix
# product. A third of that is assumed, since an L4 has less than half as much bandwidth per FLOP. Prediction reached 0.7
# TFLOP/s there. Most of its time probably goes into launching kernels, so this rate is assumed for any chip.
SHARE_OF_SMALL, TFLOPS_OF_SMALL = 0.04, 0.7
_BASE_VIEWS = 8  # the plain views, which the base rounds predict
# What a large GPU would learn, by the rehearsed network's architecture. A pretrained decoder learns no tasks along.
_PRESETS = {"decoder": "decoder-75m", "shared": "trm-7m", "looped": "urm-14m"}
_PRESET_OF_OTHERS, _PRETRAINED_DECODER = "hrm-27m", "decoder-4m"
_BUNDLED = ("decoder-170k", "decoder-2m", "decoder-4m")  # the package's artifacts of decoders


@dataclass(frozen=True)
class Shares:
    """The shares of a large matrix product's rate that adaptation and prediction reached, 0 to 1."""

    adapt: float
    predict: float

    @classmethod
    def of_small_decoder(cls, tflops: float) -> Shares:
        """Return the shares that a small decoder is assumed to reach on a GPU with a peak of so many TFLOP/s."""
        return cls(SHARE_OF_SMALL, TFLOPS_OF_SMALL / tflops)


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
    has_companions = report.get("learned along", {}).get("tasks", 0) > 0
    projected, pretrained = _projected(report, has_companions)
    chosen = preset(projected)
    assumed = Shares.of_small_decoder(L4_TFLOPS) if is_small_decoder(chosen.model) else shares
    recipe = gpu_recipe(chosen.recipe(pretrained), chosen.model, hidden, CHIPS * GROUPS_PER_WORKER)
    along_share = report["adapt"]["along_share"] if has_companions else 0.0
    phases = _phases(chosen.model, recipe, hidden, assumed, report["seconds"]["start"], along_share)
    return [
        f"measured here: {rate:.0f} examples per second in adaptation; adaptation reached {shares.adapt:.0%} of the "
        f"rate of a large matrix product, prediction {shares.predict:.0%}",
        f"projected, not measured: {len(hidden)} tasks like ARC-AGI-2's public evaluation, preset {projected} from "
        f"{'pretrained' if pretrained else 'random'} weights, {CHIPS} L4 with {len(hidden) // CHIPS} tasks each, "
        f"budget {BUDGET}; each L4 reaches {assumed.adapt:.1%} and {assumed.predict:.1%} of its {L4_TFLOPS:.0f} TFLOP/s"
        + ("" if assumed == shares else ", by what an H200 did with so small a network"),
        f"  {'phase':<10}{'seconds':>8}  work",
        *(f"  {phase.name:<10}{phase.seconds:>8,.0f}  {phase.work}" for phase in phases),
    ]


def _projected(report: dict, has_companions: bool) -> tuple[str, bool]:
    """Return the preset that the four L4 would learn, and whether from pretrained weights."""
    artifact = report.get("artifact")
    if artifact is not None and Path(artifact).name in _BUNDLED and not has_companions:
        return _PRETRAINED_DECODER, True
    projected = _PRESETS.get(report["model"]["architecture"], _PRESET_OF_OTHERS)
    # An artifact of a small network does not serve a large one.
    is_as_large = report["model"]["hidden_size"] == preset(projected).model.hidden_size
    return projected, artifact is not None and is_as_large


def prediction_flop(config: ModelConfig, puzzles: PuzzleSet, most_views: int | None = None) -> float:
    """Return the FLOP of predicting every view of every test input, where no sequence halts early.

    `most_views` limits the views of each test input, beside the recipe's own limit.
    """
    views = np.array([len(v) for v in puzzles.views])[puzzles.tests.puzzles]  # [test inputs]
    views = np.minimum(views, min(puzzles.recipe.vote_views, most_views or puzzles.recipe.vote_views))
    return sum(
        int(views[bucket.members].sum()) * puzzles.recipe.outer_steps * outer_step_flop(config, bucket.area)
        for bucket in puzzles.buckets(puzzles.tests)
    )


@dataclass(frozen=True)
class Work:
    """The work of a recipe on some tasks, in FLOP: a visit of all demonstrations, and the rounds of all test inputs."""

    recipe: AdaptConfig
    visit: float
    base: float
    extra: float
    judges: bool

    @classmethod
    def of(cls, model: ModelConfig, recipe: AdaptConfig, tasks) -> Work:
        """Count the work on tasks. A decoder alone judges candidates, and searches for more in the plain views."""
        model = model.conditioned(recipe)
        puzzles = PuzzleSet(tasks, recipe, model, 0)
        base = prediction_flop(model, puzzles, _BASE_VIEWS)
        extra = prediction_flop(model, puzzles) - base
        if model.is_decoder and recipe.search_branches:
            extra += (1 + recipe.search_branches) * base
        return cls(recipe, visit_flop(model, ExampleSource(puzzles, 0)), base, extra, model.is_decoder)


@dataclass(frozen=True)
class Spending:
    """What a run does with its seconds. `visits` are those of the first network on each task, `views` is a share."""

    visits: float
    views: float
    networks: float
    adapt: float
    predict: float
    further: float
    left: float


def spend(work: Work, seconds: float, adapt_rate: float, predict_rate: float, groups: int) -> Spending:
    """Return how the schedule spends the seconds between start and end of a run, if nothing goes wrong.

    The rates are in FLOP per second of all chips together. Further members start one group at a time.
    """
    base, extra = work.base / predict_rate, work.extra / predict_rate
    visit, whole = work.visit / adapt_rate, judged_seconds(base, work.judges) + extra
    adapt = min(work.recipe.visits * visit, seconds - reserved_seconds(base, extra, seconds, work.judges))
    predict = min(whole, seconds - adapt)
    left = seconds - adapt - predict
    is_whole = adapt == work.recipe.visits * visit
    member = adapt + whole
    further = min(work.recipe.members - 1, int(groups * left / member) / groups) if is_whole else 0.0
    return Spending(
        adapt / visit, min(1.0, predict / whole), 1 + further, adapt, predict, further * member, left - further * member
    )


def _phases(
    model: ModelConfig, recipe: AdaptConfig, tasks, shares: Shares, start: float, along_share: float
) -> list[Phase]:
    """Return the phases of a run.

    `start` is the seconds until its workers are ready. `along_share` of its steps learn other tasks along.
    """
    budget = BUDGET_HOURS * 3600
    kept = Budget(budget).reserve
    peak = CHIPS * L4_TFLOPS * 1e12
    work = Work.of(model, recipe, tasks)
    work = dataclasses.replace(work, visit=work.visit / (1 - along_share))  # steps are about equally long
    along = f"; {along_share:.0%} of the steps learn other tasks along" if along_share else ""
    spent = spend(work, budget - start - kept, peak * shares.adapt, peak * shares.predict, CHIPS * GROUPS_PER_WORKER)
    further = f"{spent.networks - 1:.3g} more networks per task, of at most {recipe.members - 1}"
    return [
        Phase("start", start, "as measured here"),
        Phase(
            "adapt", spent.adapt, f"{spent.visits:,.0f} of at most {recipe.visits:,} visits per demonstration{along}"
        ),
        Phase(
            "predict",
            spent.predict,
            f"{spent.views:.0%} of the {recipe.vote_views} views per test input, {recipe.outer_steps} outer steps each",
        ),
        Phase("members", spent.further, further),
        Phase("reserve", kept, "kept for the last vote and the files"),
        Phase("left", spent.left, _reason_of(spent, recipe)),
    ]


def _reason_of(spent: Spending, recipe: AdaptConfig) -> str:
    """Say why a run leaves time."""
    if spent.visits < recipe.visits:
        return "a margin of prediction"
    if spent.networks < recipe.members:
        return "too little for a further member"
    return "all visits and members are made: the run ends early"


def _shares_of_peak(tasks, report: dict, workers: int) -> Shares:
    """Return the shares of a large matrix product's rate that the rehearsal reached on this machine."""
    model = from_dict(ModelConfig, report["model"], "report")
    recipe = from_dict(AdaptConfig, report["adapt"], "report")
    puzzles = PuzzleSet(tuple(tasks), recipe, model, report["seed"])
    source = ExampleSource(puzzles, report["seed"])
    torch.set_num_threads(report["threads"])
    peak = workers * matrix_product_tflops() * 1e12
    # Steps are about equally long, whether they learn these tasks or others along.
    visits = report["adapted"]["steps"] / source.steps_per_visit
    adapt_rate = visits * visit_flop(model, source) / report["seconds"]["adapt"]
    predict_rate = prediction_flop(model, puzzles) / report["seconds"]["predict"]
    return Shares(adapt_rate / peak, predict_rate / peak)
