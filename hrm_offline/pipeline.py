"""The test-time job: a valid fallback first, then adapt, predict, vote and write.

`solve` is what the Kaggle notebook calls. Whatever happens later, `submission.json` is complete
and valid from the first second on, and it is only ever replaced atomically.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hrm_offline import __version__
from hrm_offline.artifact import Artifact, load_artifact
from hrm_offline.budget import Budget
from hrm_offline.config import PRESETS, AdaptConfig, ModelConfig, preset
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import TaskSet, load_tasks
from hrm_offline.device import Runtime, choose_runtime
from hrm_offline.files import make_folder, write_json
from hrm_offline.infer.predict import Predictor
from hrm_offline.infer.submission import Submission, build_submission, fallback_submission
from hrm_offline.infer.vote import Pool
from hrm_offline.model.hrm import HRM
from hrm_offline.ops import dispatch
from hrm_offline.train.adapt import AdaptReport, adapt

SUBMISSION_FILE, REPORT_FILE = "submission.json", "report.json"

# Shares of the budget. What is left over is for writing and for the interpreter to end.
_ADAPT_SHARE, _END_SHARE = 0.6, 0.97
# GPU-seconds a task below which the small network is adapted: the large one would see each
# demonstration too rarely.
_SECONDS_FOR_LARGE = 60.0
_BYTES_FOR_LARGE = 12 * 2**30


@dataclass(frozen=True)
class SolveOptions:
    """What `solve` was asked for. `artifact` is a folder or None for random weights; `preset`,
    `visits` and `threads` are chosen when None; `price_per_hour` is of the whole machine."""

    challenges: Path
    out: Path
    artifact: Path | None = None
    preset: str | None = None
    seed: int = 0
    visits: int | None = None
    device: str | None = None
    dtype: str | None = None
    price_per_hour: float | None = None
    threads: int | None = None


def solve(options: SolveOptions, budget: Budget, say: Callable[[str], None] = print) -> dict:
    """Run the whole job and return the report that is also written to `report.json`.

    Tasks that cannot be used keep their fallback entries and are named in the report. Raises
    `InputError` when nothing can be done at all: an unreadable challenges file (nothing is
    written) or not one usable task, or an artifact that cannot be used (the fallback is written).
    """
    task_set = load_tasks(options.challenges)
    out = make_folder(options.out)
    fallback = fallback_submission(task_set)
    write_json(out / SUBMISSION_FILE, fallback)
    say(f"{len(fallback)} tasks; a valid fallback is in {out / SUBMISSION_FILE}")
    for bad in task_set.bad:
        say(f"left out, keeps its fallback: task {bad.id}: {bad.reason}")
    if not task_set.tasks:
        task_set.require_good()

    runtime = choose_runtime(options.device, options.dtype)
    say(f"computing on {runtime}")
    say(f"operations: {dispatch.summary(runtime.device, runtime.dtype)}")
    model_config, adapt_config, artifact = _choose_model(options, runtime, len(task_set.tasks), budget, say)
    threads = _set_threads(runtime, model_config, options.threads)
    torch.manual_seed(options.seed)
    hidden = tuple(task.without_labels() for task in task_set.tasks)
    puzzles = PuzzleSet(hidden, adapt_config, model_config, options.seed)
    model = _build(model_config, artifact, puzzles.num_rows, runtime)
    seconds = {"start": budget.elapsed()}

    adapted = _adapt(model, puzzles, adapt_config, budget, options.seed, artifact is not None, say)
    seconds["adapt"] = budget.elapsed() - sum(seconds.values())
    votes = _predict(model, puzzles, adapt_config, budget, fallback, out, say)
    seconds["predict"] = budget.elapsed() - sum(seconds.values())

    report = _report(options, task_set, runtime, model_config, adapt_config, adapted, votes, seconds, budget)
    report["threads"] = threads
    write_json(out / REPORT_FILE, report, indent=2)
    say(f"done in {budget.elapsed():.0f} s of {budget.total:.0f} s")
    return report


def pick_preset(runtime: Runtime, num_tasks: int, seconds: float) -> tuple[str, str]:
    """The preset that suits a device, a number of tasks and a budget in seconds, and why."""
    if runtime.device.type == "cpu":
        return "hrm-132k", "a CPU carries no more"
    if runtime.memory < _BYTES_FOR_LARGE:
        return "hrm-3m", f"{runtime.memory / 2**30:.0f} GiB of GPU memory"
    if seconds / num_tasks < _SECONDS_FOR_LARGE:
        return "hrm-3m", f"{seconds / num_tasks:.0f} s a task are too few for the large network"
    return "hrm-27m", f"{seconds / num_tasks:.0f} s a task"


def nearest_preset(config: ModelConfig) -> str:
    """The preset whose network is nearest in width: its recipe suits."""
    return min(PRESETS, key=lambda name: abs(PRESETS[name].model.hidden_size - config.hidden_size))


def _choose_model(options: SolveOptions, runtime: Runtime, num_tasks: int, budget: Budget,
                  say) -> tuple[ModelConfig, AdaptConfig, Artifact | None]:
    artifact = load_artifact(options.artifact) if options.artifact is not None else None
    name, reason = options.preset, "asked for"
    if name is None and artifact is not None:
        name, reason = nearest_preset(artifact.config), "nearest in size"
    elif name is None:
        name, reason = pick_preset(runtime, num_tasks, budget.total)
    model_config, adapt_config = preset(name).model, preset(name).adapt
    if artifact is not None:
        model_config = artifact.config
        adapt_config = _conditioned(adapt_config, artifact)
        say(f"network of {options.artifact}, adapted by the recipe of {name} ({reason})")
    else:
        say(f"preset {name} ({reason}), from random weights")
    if options.visits is not None:
        adapt_config = dataclasses.replace(adapt_config, visits=options.visits)
    return model_config, adapt_config, artifact


def _conditioned(recipe: AdaptConfig, artifact: Artifact) -> AdaptConfig:
    """The recipe with the artifact's conditioning; a factored one recolours where it can name colours."""
    if artifact.conditioning == "factored":
        named = artifact.config.puzzle_columns == 3
        permutations = max(1, recipe.colour_permutations) if named else 0
        recipe = dataclasses.replace(recipe, colour_permutations=permutations)
    return dataclasses.replace(recipe, conditioning=artifact.conditioning)


def _set_threads(runtime: Runtime, model: ModelConfig, asked: int | None) -> int:
    """A small network gains nothing from a second CPU thread, and one makes runs repeatable."""
    if asked is not None or (runtime.device.type == "cpu" and model.hidden_size <= 128):
        torch.set_num_threads(asked or 1)
    return torch.get_num_threads()


def _build(config: ModelConfig, artifact: Artifact | None, num_rows: int, runtime: Runtime) -> HRM:
    model = artifact.build(num_rows, runtime.dtype) if artifact else HRM(config, num_rows, runtime.dtype)
    return model.to(runtime.device)


def _adapt(model, puzzles, config, budget, seed, pretrained, say) -> AdaptReport:
    def progress(step: int, total: int, loss: float) -> None:
        if step % 500 == 0 or step == total:
            say(f"adapt: step {step} of {total}, loss {loss:.3f}, {budget.elapsed():.0f} s")

    return adapt(model, puzzles, config, budget.part(_ADAPT_SHARE * budget.remaining()), seed, pretrained, progress)


def _predict(model: HRM, puzzles: PuzzleSet, config: AdaptConfig, budget: Budget, fallback: Submission,
             out: Path, say) -> dict[tuple[str, int], Pool]:
    """Vote round by round until the views or the time are used up; the file is renewed each round."""
    predictor = Predictor(model, puzzles, config)
    end = _END_SHARE * budget.total
    pools: dict[int, Pool] = {}

    def write() -> dict[tuple[str, int], Pool]:
        votes = {predictor.keys[test]: pool for test, pool in pools.items()}
        write_json(out / SUBMISSION_FILE, build_submission(fallback, votes))
        return votes

    seconds_a_token = 0.0
    for number, batches in enumerate(predictor.rounds(), start=1):
        for batch in batches:
            tokens = len(batch) * batch.canvas[0] * batch.canvas[1]
            # A larger canvas costs more a token than the last one did; twice is a safe guess.
            if budget.elapsed() + 2 * seconds_a_token * tokens > end:
                say(f"predict: out of time in round {number}")
                return write()
            before = budget.elapsed()
            predictor.predict(batch).add_to(pools)
            seconds_a_token = (budget.elapsed() - before) / tokens
        votes = write()
    return votes


def _report(options: SolveOptions, task_set: TaskSet, runtime: Runtime, model: ModelConfig, adapt_config: AdaptConfig,
            adapted: AdaptReport, votes: dict, seconds: dict[str, float], budget: Budget) -> dict:
    tests = [(task.id, i) for task in task_set.tasks for i in range(len(task.test))]
    counts = [votes[test].count if test in votes else 0 for test in tests]
    report = {
        "tasks": len(task_set.test_counts()),
        "left out": {bad.id: bad.reason for bad in task_set.bad},
        "test inputs": len(tests),
        "test inputs without a vote": sum(count == 0 for count in counts),
        "votes a test input": {"least": min(counts), "mean": float(np.mean(counts)), "most": max(counts)},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "seconds in all": round(budget.elapsed(), 2),
        "budget seconds": budget.total,
        "device": str(runtime),
        "operations": dispatch.summary(runtime.device, runtime.dtype),
        "model": dataclasses.asdict(model),
        "artifact": str(options.artifact) if options.artifact else None,
        "adapt": dataclasses.asdict(adapt_config),
        "adapted": dataclasses.asdict(adapted),
        "seed": options.seed,
        "versions": {"hrm_offline": __version__, "python": platform.python_version(), "torch": torch.__version__,
                     "numpy": np.__version__, "platform": sys.platform},
    }
    if options.price_per_hour is not None:
        report["price"] = options.price_per_hour * budget.elapsed() / 3600
        report["price a task"] = report["price"] / report["tasks"]
    return report
