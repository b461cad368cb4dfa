"""Compare how well networks learn with different settings, on the same real tasks and with several seeds.

    python tools/study/compare_learning.py --set small --arm tight --arm full canvas=full tokens_per_step=18000

Every arm offers each demonstration equally often (--visits) or learns equally long (--core-seconds), then predicts,
votes and is scored against the labels. The set "small" is the rehearsal's 30 tasks, "larger" 20 ARC-AGI-1 training
tasks with sides of 10 or more, and "arc1-eval:100:140" the 101st to 140th smallest task of a set;
"rehearsal:0:30+deep-30:0:30" joins sets. Each run has one thread. A finished run is a line of --out and is never
repeated, so the same command goes on after a kill.

An arm may begin with a pretrained network, whose recipe the arm then changes:

    python tools/study/compare_learning.py --set arc1-eval:100:140 --arm soon artifact=DIR embeddings_only=0 start=zeros

An arm may learn other tasks along (see `Trial` in trial.py for all settings of an arm):

    python tools/study/compare_learning.py --preset decoder-170k --core-seconds 60 --arm plain artifact=bundled \
        --arm along artifact=bundled along=arc2-train along_share=0.5

The setting "start" says where the embeddings of new puzzles begin: "mean" as the artifact says, "zeros" at zero, or
"nearest" at the pretrained embedding of puzzles.safetensors with the least loss on the puzzle's demonstrations.
"""

from __future__ import annotations

import script_setup

import argparse
import json
import math
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from hrm_offline.common.errors import InputError
from hrm_offline.solve.pool import end_with_parent
from tools.study.trial import (
    Trial,
    add_length,
    companions_of,
    configs_of,
    learn,
    predict,
    score_votes,
    tasks_of,
    test_losses_of,
    visits_of,
)
from tools.support import environment
from tools.support.command_line import absolute_path, add_seeds, parser_of, run_tool
from tools.support.run_lines import RunLines


@dataclass(frozen=True)
class Run:
    """A trial of the arm `arm`."""

    arm: str
    trial: Trial

    @property
    def key(self) -> dict:
        """What tells a run from others; a line of the output holds all of it."""
        return {"arm": self.arm} | self.trial.key


def compare(run: Run) -> dict:
    """Adapt, predict and score. Returns a line of the output."""
    tasks = tasks_of(run.trial.tasks)
    learned = learn(run.trial, tasks)
    score = score_votes(predict(learned)[0], tasks)
    return (
        run.key
        | learned.about()
        | {
            "test": round(statistics.mean(test_losses_of(learned, tasks).values()), 4),
            "cells": round(statistics.mean(task.cells for task in score.tasks), 4),
            "points": round(score.task_points(2), 2),
            "solved": len(score.solved),
        }
    )


def print_table(lines: list[dict]) -> None:
    """Print a row for each run and the means of each arm.

    The column `half` is the loss at half of the steps, and `test` is the mean test loss of the tasks.
    """
    print(
        f"{'arm':<16}{'seed':>5}{'steps':>8}{'examples':>10}{'seconds':>9}{'half':>8}{'loss':>8}{'test':>8}{'cells':>8}"
        f"{'points':>8}{'solved':>8}"
    )
    arms: dict[str, list[dict]] = {}
    for line in lines:
        arms.setdefault(line["arm"], []).append(line)
    for arm, runs in arms.items():
        for run in sorted(runs, key=lambda run: run["seed"]):
            _print_row(arm, run["seed"], run)
        if len(runs) > 1:
            names = ("steps", "examples", "seconds", "half", "loss", "test", "cells", "points", "solved")
            _print_row(arm, "mean", {name: statistics.mean(run.get(name, math.nan) for run in runs) for name in names})


def _print_row(arm: str, seed: int | str, run: dict) -> None:
    print(
        f"{arm:<16}{seed:>5}{run['steps']:>8.0f}{run['examples']:>10.0f}{run['seconds']:>9.1f}{run['half']:>8.4f}"
        f"{run['loss']:>8.4f}{run.get('test', math.nan):>8.4f}{run['cells']:>8.4f}"
        f"{run['points']:>8.2f}{run['solved']:>8.1f}"
    )


def _parse_arm(words: list[str]) -> tuple[str, dict]:
    """Return ("full", {"canvas": "full"}) for ["full", "canvas=full"]. Raises `InputError`."""
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
    options = _parse_arguments()
    arms = [_parse_arm(arm) for arm in options.arm]
    runs = [
        Run(name, Trial(changes, seed, options.preset, options.set, visits_of(options), options.core_seconds))
        for seed in options.seeds
        for name, changes in arms
    ]
    tasks = tasks_of(options.set)  # raises its error before any run begins, as the following do
    for run in runs[: len(arms)]:  # the first seed's
        _, recipe, _ = configs_of(run.trial, f"arm {run.arm}")
        if companions := companions_of(run.trial.changes, tasks, recipe.along):
            print(f"arm {run.arm}, learned along: {companions}")
    done = RunLines(options.out)
    missing = [run for run in runs if not _lines_of(run, done.lines)]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), end_with_parent) as pool:
        for future in as_completed([pool.submit(compare, run) for run in missing]):
            line = future.result()
            done.add(line)
            print(json.dumps(line), flush=True)
    print_table([line for line in done.lines if any(_lines_of(run, [line]) for run in runs)])
    return 0


def _lines_of(run: Run, lines: list[dict]) -> list[dict]:
    """Return the lines of a run. Those of an older version have no "core_seconds", and none were set."""
    return [line for line in lines if run.key.items() <= ({"core_seconds": None} | line).items()]


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "SETTING=VALUE"),
        help="an arm and the settings that it changes; repeat the flag for more arms",
    )
    parser.add_argument(
        "--set", default="small", metavar="small|larger|SET:FIRST:LAST[+...]", help="tasks (default: %(default)s)"
    )
    parser.add_argument(
        "--preset", default="hrm-132k", help="network and recipe that the arms change (default: %(default)s)"
    )
    add_length(parser)
    add_seeds(parser, [0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=absolute_path,
        default=environment.REPOSITORY / "compare_learning.jsonl",
        metavar="FILE",
        help="file of finished runs (default: compare_learning.jsonl in the repository)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
