"""Does a change of the recipe learn as well? Arms of settings on the same real tasks, over several seeds.

    python tools/compare_learning.py --set small --arm tight --arm full canvas=full tokens_per_step=18000

Every arm offers each demonstration equally often (`--visits`), then predicts, votes and is scored against the held-back
labels. `small` is the rehearsal's 30 tasks, `larger` 20 ARC-AGI-1 training tasks with sides from 10 on, and
`arc1-eval:100:140` the 101st to 140th smallest of a set. One thread a run, `--workers` runs at a time; a line a run
goes into `--out`, and runs already there are not repeated.

An arm may begin with a pretrained network, whose recipe it then changes:

    python tools/compare_learning.py --set arc1-eval:100:140 --arm soon artifact=DIR embeddings_only=0 start=zeros

`start` is where new puzzles' embeddings begin: as the artifact says (mean), at zero (zeros), or each at that one of
some pretrained ones, in `puzzles.safetensors`, whose loss on its demonstrations is the least (nearest).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import environment

environment.ensure()
sys.path.insert(0, str(environment.REPOSITORY))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from hrm_offline.artifact import PUZZLES_FILE, Artifact, load_artifact, read_safetensors  # noqa: E402
from hrm_offline.batching import BatchMaker  # noqa: E402
from hrm_offline.budget import Budget  # noqa: E402
from hrm_offline.config import AdaptConfig, ModelConfig, from_dict, preset  # noqa: E402
from hrm_offline.data.puzzles import SHARED_ROWS, Batch, PuzzleSet  # noqa: E402
from hrm_offline.data.sets import load_set, rehearsal_tasks, size_of, smallest  # noqa: E402
from hrm_offline.data.tasks import TaskSet  # noqa: E402
from hrm_offline.errors import InputError  # noqa: E402
from hrm_offline.infer.plan import PredictionPlan  # noqa: E402
from hrm_offline.infer.predict import Predictor  # noqa: E402
from hrm_offline.infer.score import Score, score_attempts  # noqa: E402
from hrm_offline.infer.submission import ATTEMPTS, build_submission, fallback_submission  # noqa: E402
from hrm_offline.infer.vote import Pool  # noqa: E402
from hrm_offline.model.recursive import RecursiveModel  # noqa: E402
from hrm_offline.train.adapt import adapt  # noqa: E402
from hrm_offline.train.losses import softmax_cross_entropy  # noqa: E402

_LARGER_SIDE, _LARGER_COUNT = 10, 20
_STARTS = ("mean", "zeros", "nearest")
_CANDIDATES = 32  # pretrained embeddings that a probe tries


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm and seed. `changes` are settings of the recipe or the network, as JSON values by name, and `artifact` and
    `start` where it begins with pretrained weights."""

    arm: str
    changes: dict
    seed: int
    preset: str
    tasks: str
    visits: int

    @property
    def key(self) -> dict:
        return dataclasses.asdict(self)


def tasks_of(name: str):
    """The rehearsal's set, the one of larger grids, or some of a set by rank; all by sizes alone.
    Raises `InputError`."""
    if name == "small":
        return rehearsal_tasks()
    if name == "larger":
        tasks = load_set("arc1-train").require_good()
        return smallest((task for task in tasks if size_of(task)[0] >= _LARGER_SIDE), _LARGER_COUNT)
    ranks = re.fullmatch(r"(.+):(\d+):(\d+)", name)
    tasks = smallest(load_set(ranks[1]).require_good(), int(ranks[3]))[int(ranks[2]) :] if ranks else []
    if not tasks:
        raise InputError(f"set '{name}' is none, expected small, larger or SET:FIRST:LAST with a task between the two")
    return tasks


def configs_of(run: Run) -> tuple[ModelConfig, AdaptConfig, Artifact | None]:
    """The preset's network and recipe, or the artifact's and the preset's recipe for it, with the arm's changes.
    Raises `InputError` for one that is neither's."""
    changes, where = dict(run.changes), f"arm {run.arm}"
    folder, start = changes.pop("artifact", None), changes.pop("start", "mean")
    if start not in _STARTS:
        raise InputError(f"{where}: start is '{start}', expected one of {', '.join(_STARTS)}")
    chosen, artifact = preset(run.preset), None if folder is None else load_artifact(folder)
    model = dataclasses.asdict(artifact.config if artifact else chosen.model)
    recipe = dataclasses.asdict(chosen.recipe(artifact is not None)) | {"visits": run.visits}
    for name, value in changes.items():
        (model if name in model else recipe)[name] = value
    adapt_config = from_dict(AdaptConfig, recipe, where)
    model_config = from_dict(ModelConfig, model | {"puzzle_columns": adapt_config.puzzle_columns}, where)
    return model_config, adapt_config, artifact


def learn(run: Run) -> dict:
    """Adapt, predict and score one run; a line of the output."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    tasks = tuple(tasks_of(run.tasks))
    model_config, recipe, artifact = configs_of(run)
    puzzles = PuzzleSet(tuple(task.without_labels() for task in tasks), recipe, model_config, run.seed)
    started = time.monotonic()
    model = artifact.build(puzzles.num_rows, torch.float32) if artifact else \
        RecursiveModel(model_config, puzzles.num_rows)
    _start_embeddings(model, puzzles, artifact, run.changes.get("start", "mean"))
    report = adapt(model, puzzles, recipe, Budget(1e9), run.seed, pretrained=artifact is not None)
    seconds = time.monotonic() - started
    score = predict_and_score(model, puzzles, recipe, tasks)
    return run.key | {
        "steps": report.steps, "examples": report.examples, "seconds": round(seconds, 1), "loss": round(report.loss, 4),
        "half": round(_loss_at(report.losses, 0.5), 4),
        "cells": round(statistics.mean(task.cells for task in score.tasks), 4),
        "points": round(score.task_points(2), 2), "solved": len(score.solved),
    }


def _loss_at(losses: tuple[float, ...], share: float) -> float:
    """Mean over the tenth of the run before that share of it."""
    last = max(1, round(share * len(losses)))
    return statistics.mean(losses[max(0, last - max(1, len(losses) // 10)) : last])


@torch.inference_mode()
def _start_embeddings(model: RecursiveModel, puzzles: PuzzleSet, artifact: Artifact | None, start: str) -> None:
    """Set the rows of new puzzles, which are at the artifact's mean, elsewhere (factored conditioning)."""
    if start == "zeros":
        model.puzzle_emb.weights[SHARED_ROWS:] = 0
    elif start == "nearest":
        pretrained = read_safetensors(artifact.folder / PUZZLES_FILE)["puzzle_emb.weights"][SHARED_ROWS:]
        candidates = pretrained[:: -(-len(pretrained) // _CANDIDATES)]
        losses = torch.stack([_demonstration_losses(model, puzzles, candidate) for candidate in candidates])
        model.puzzle_emb.weights[SHARED_ROWS:] = candidates[losses.argmin(0)]


def _demonstration_losses(model: RecursiveModel, puzzles: PuzzleSet, row: torch.Tensor) -> torch.Tensor:
    """Token loss of each puzzle's demonstrations, summed, if all had this embedding: one outer step of plain views."""
    model.puzzle_emb.weights[SHARED_ROWS:] = row
    maker, examples = BatchMaker(puzzles, puzzles.demonstrations, model.device), puzzles.demonstrations
    losses = torch.zeros(len(puzzles.tasks))
    for bucket in puzzles.buckets(examples):
        owners = examples.puzzles[bucket.members]
        corners = np.zeros((len(owners), 2), dtype=np.int64)
        plan = np.column_stack([bucket.members, puzzles.first_view[owners], corners]).astype(np.int32)
        sequences = maker.make(Batch(0, bucket.canvas, plan))
        states = model.initial_states(len(plan), bucket.canvas)
        output = model(*states, sequences.inputs, model.puzzle_vectors(sequences.puzzle_identifiers), bucket.canvas,
                       sequences.cells)[2]
        losses.index_add_(0, torch.from_numpy(owners), softmax_cross_entropy(output.logits, sequences.labels).mean(1))
    return losses


def predict_and_score(model: RecursiveModel, puzzles: PuzzleSet, recipe: AdaptConfig, tasks) -> Score:
    predictor, plan = Predictor(model, puzzles, recipe), PredictionPlan(puzzles, recipe)
    pools: dict[int, Pool] = {}
    for batches in plan.rounds:
        for batch in batches:
            predictor.predict(batch).add_to(pools)
    votes = {plan.keys[test]: pool for test, pool in pools.items()}
    submission = build_submission(fallback_submission(TaskSet("compared", tasks)), votes)
    attempts = {task_id: [[np.array(entry[name]) for name in ATTEMPTS] for entry in entries]
                for task_id, entries in submission.items()}
    return score_attempts(attempts, {task.id: [pair.output for pair in task.test] for task in tasks})


def print_table(lines: list[dict]) -> None:
    """A row a run and each arm's means; `half` is the loss at half of the steps."""
    print(f"{'arm':<16}{'seed':>5}{'steps':>8}{'examples':>10}{'seconds':>9}{'half':>8}{'loss':>8}{'cells':>8}"
          f"{'points':>8}{'solved':>8}")
    arms: dict[str, list[dict]] = {}
    for line in lines:
        arms.setdefault(line["arm"], []).append(line)
    for arm, runs in arms.items():
        for run in sorted(runs, key=lambda run: run["seed"]):
            _print_row(arm, run["seed"], run)
        if len(runs) > 1:
            names = ("steps", "examples", "seconds", "half", "loss", "cells", "points", "solved")
            _print_row(arm, "mean", {name: statistics.mean(run[name] for run in runs) for name in names})


def _print_row(arm: str, seed: int | str, run: dict) -> None:
    print(f"{arm:<16}{seed:>5}{run['steps']:>8.0f}{run['examples']:>10.0f}{run['seconds']:>9.1f}{run['half']:>8.4f}"
          f"{run['loss']:>8.4f}{run['cells']:>8.4f}{run['points']:>8.2f}{run['solved']:>8.1f}")


def _parse_arm(words: list[str]) -> tuple[str, dict]:
    changes = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"arm {words[0]}: '{word}' is not a setting, expected NAME=VALUE")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return words[0], changes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", nargs="+", action="append", required=True, metavar="NAME [SETTING=VALUE ...]")
    parser.add_argument("--set", default="small", metavar="small|larger|SET:FIRST:LAST")
    parser.add_argument("--preset", default="hrm-132k")
    parser.add_argument("--visits", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=environment.REPOSITORY / "compare_learning.jsonl")
    options = parser.parse_args()
    try:
        runs = [Run(*_parse_arm(arm), seed, options.preset, options.set, options.visits)
                for seed in options.seeds for arm in options.arm]
        tasks_of(options.set)
        for run in runs:
            configs_of(run)
    except InputError as error:
        print(f"compare_learning: error: {error}", file=sys.stderr)
        return 2
    lines = [json.loads(text) for text in options.out.read_text().splitlines()] if options.out.exists() else []
    wanted = [run for run in runs if not any(run.key.items() <= line.items() for line in lines)]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(learn, run) for run in wanted]):
            lines.append(future.result())
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(json.dumps(lines[-1]), flush=True)
    print_table([line for line in lines if any(run.key.items() <= line.items() for run in runs)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
