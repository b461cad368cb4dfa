"""Does a change of the recipe learn as well? Arms of settings on the same real tasks, over several seeds.

    python tools/study/compare_learning.py --set small --arm tight --arm full canvas=full tokens_per_step=18000

Every arm offers each demonstration equally often (`--visits`), then predicts, votes and is scored against the held-back
labels. `small` is the rehearsal's 30 tasks, `larger` 20 ARC-AGI-1 training tasks with sides from 10 on, and
`arc1-eval:100:140` the 101st to 140th smallest of a set. One thread a run, `--workers` runs at a time; a line a run
goes into `--out`, and runs already there are not repeated.

An arm may begin with a pretrained network, whose recipe it then changes:

    python tools/study/compare_learning.py --set arc1-eval:100:140 --arm soon artifact=DIR embeddings_only=0 start=zeros

`start` is where new puzzles' embeddings begin: as the artifact says (mean), at zero (zeros), or each at that one of
some pretrained ones, in `puzzles.safetensors`, whose loss on its demonstrations is the least (nearest).
"""

from __future__ import annotations

import script_setup

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.solve.worker import end_with_parent
from tools.study.trial import Trial, configs_of, learn, predict, score_votes, tasks_of
from tools.support import environment


@dataclass(frozen=True)
class Run:
    """A trial of a named arm."""

    arm: str
    trial: Trial

    @property
    def key(self) -> dict:
        return {"arm": self.arm} | self.trial.key


def compare(run: Run) -> dict:
    """Adapt, predict and score one run; a line of the output."""
    tasks = tasks_of(run.trial.tasks)
    learned = learn(run.trial, tasks)
    score = score_votes(predict(learned)[0], tasks)
    return (
        run.key
        | learned.about()
        | {
            "cells": round(statistics.mean(task.cells for task in score.tasks), 4),
            "points": round(score.task_points(2), 2),
            "solved": len(score.solved),
        }
    )


def print_table(lines: list[dict]) -> None:
    """A row a run and each arm's means; `half` is the loss at half of the steps."""
    print(
        f"{'arm':<16}{'seed':>5}{'steps':>8}{'examples':>10}{'seconds':>9}{'half':>8}{'loss':>8}{'cells':>8}"
        f"{'points':>8}{'solved':>8}"
    )
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
    print(
        f"{arm:<16}{seed:>5}{run['steps']:>8.0f}{run['examples']:>10.0f}{run['seconds']:>9.1f}{run['half']:>8.4f}"
        f"{run['loss']:>8.4f}{run['cells']:>8.4f}{run['points']:>8.2f}{run['solved']:>8.1f}"
    )


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
        arms = [_parse_arm(arm) for arm in options.arm]
        runs = [
            Run(name, Trial(changes, seed, options.preset, options.set, options.visits))
            for seed in options.seeds
            for name, changes in arms
        ]
        tasks_of(options.set)
        for run in runs:
            configs_of(run.trial, f"arm {run.arm}")
    except InputError as error:
        print(f"compare_learning: error: {error}", file=sys.stderr)
        return 2
    lines = [json.loads(text) for text in options.out.read_text().splitlines()] if options.out.exists() else []
    wanted = [run for run in runs if not any(run.key.items() <= line.items() for line in lines)]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), end_with_parent) as pool:
        for future in as_completed([pool.submit(compare, run) for run in wanted]):
            lines.append(future.result())
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(json.dumps(lines[-1]), flush=True)
    print_table([line for line in lines if any(run.key.items() <= line.items() for run in runs)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
