"""The rehearsal: run the real Kaggle notebook on real tasks, offline, and score it.

    python tools/local_dryrun.py

Needs only Python: makes its own environment if packages are missing. Builds our wheel, lays out a
tree like Kaggle's (read-only input with a challenges file without labels, empty working folder),
executes `kernel/hrm_offline.ipynb` with the network cut off, then validates the submission and
scores it against the held-back labels, beside the null baseline that learns nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import environment

NOTEBOOK = environment.REPOSITORY / "kernel" / "hrm_offline.ipynb"
COMPETITION = "arc-prize"
# How much of each split the default set takes, smallest tasks first.
_DEFAULT_SET = (("arc1-train", 20), ("arc1-eval", 10))


def main() -> int:
    options = _parse_arguments()
    environment.ensure()
    sys.path.insert(0, str(environment.REPOSITORY))
    from hrm_offline.errors import InputError

    try:
        return rehearse(options)
    except InputError as error:
        print(f"local_dryrun: error: {error}", file=sys.stderr)
        return 2


def rehearse(options: argparse.Namespace) -> int:
    """Lay out, execute, validate, score; returns the exit code."""
    from build_wheel import build_wheel
    from offline import OfflineRunner

    from hrm_offline.budget import parse_duration

    started = time.monotonic()
    seconds = parse_duration(options.budget)
    tasks = choose_tasks(options.data, options.tasks)
    wheel = build_wheel()
    print(f"built {wheel.name}; {len(tasks)} tasks of {options.data}", flush=True)
    _lay_out(options.out, tasks, wheel, options.artifact)

    offline = OfflineRunner(options.out / "offline", sys.executable)
    print(f"network cut off: {offline.means}", flush=True)
    working = options.out / "kaggle" / "working"
    command = [sys.executable, str(environment.REPOSITORY / "tools" / "execute_notebook.py"), str(NOTEBOOK),
               str(working / "executed.ipynb"), str(seconds + 120)]
    try:
        code = offline.run(command, _notebook_environment(options), timeout=seconds + 180)
    except subprocess.TimeoutExpired:
        print(f"FAIL: the notebook was still running {seconds + 180:.0f} s after its start")
        return 1
    if code:
        print(f"FAIL: the notebook ended with exit code {code}")
        return 1
    return _judge(tasks, options.out, offline.attempts(), time.monotonic() - started)


def choose_tasks(data: str, count: int | None):
    """The rehearsal's tasks. `arc1`: at least three demonstrations, by (largest side over
    demonstrations and test inputs, largest area, id), the first 20 of the training split and 10
    of the evaluation split, or `count` in the same proportion. Other sets: the first `count` in
    that order. The rule sees sizes only, never a test output."""
    from hrm_offline.data.tasks import load_tasks

    def take(source: str, number: int | None):
        tasks = load_tasks(source).require_good()
        return sorted((task for task in tasks if len(task.train) >= 3), key=size_of)[:number]

    if data != "arc1":
        return take(data, count)
    split = _DEFAULT_SET
    if count is not None:
        evaluation = count // 3
        split = (("arc1-train", count - evaluation), ("arc1-eval", evaluation))
    return [task for source, number in split for task in take(source, number)]


def size_of(task) -> tuple[int, int, str]:
    """What the set is ordered by: largest side and largest area over demonstrations and test inputs, id."""
    grids = [grid for pair in task.train for grid in (pair.input, pair.output)] + [pair.input for pair in task.test]
    return max(max(grid.shape) for grid in grids), max(grid.size for grid in grids), task.id


def _lay_out(out: Path, tasks, wheel: Path, artifact: str) -> None:
    """A tree like Kaggle's: input (read-only), working and temp (empty)."""
    from hrm_offline.data.tasks import to_challenges

    root = out / "kaggle"
    if root.exists():
        _set_writable(root, True)
        shutil.rmtree(root)
    competition, dataset = root / "input" / COMPETITION, root / "input" / "hrm-offline-wheels"
    for folder in (competition, dataset, root / "working", root / "temp"):
        folder.mkdir(parents=True)
    (competition / "arc-agi_test_challenges.json").write_text(json.dumps(to_challenges(tasks)))
    shutil.copy(wheel, dataset)
    if artifact != "none":
        shutil.copytree(artifact, root / "input" / "hrm-offline-artifact",
                        ignore=shutil.ignore_patterns("state*", "puzzles.*"))
    _set_writable(root / "input", False)


def _set_writable(root: Path, writable: bool) -> None:
    for path in [root, *root.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWUSR if writable else mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def _notebook_environment(options: argparse.Namespace) -> dict[str, str]:
    arguments = ["--seed", str(options.seed)]
    for flag, value in (("--visits", options.visits), ("--preset", options.preset)):
        if value is not None:
            arguments += [flag, str(value)]
    return os.environ | {
        "HRM_OFFLINE_ROOT": str(options.out / "kaggle"),
        "HRM_OFFLINE_BUDGET": options.budget,
        "HRM_OFFLINE_SOLVE_ARGS": " ".join(arguments),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _judge(tasks, out: Path, attempts: list[str], seconds: float) -> int:
    """Print what the run came to; 1 if it used the network, an invalid submission raises."""
    from hrm_offline.files import read_json
    from hrm_offline.infer.submission import read_submission
    from hrm_offline.show import draw_predictions

    for line in attempts:
        print(f"tried to use the network: {line}")
    print(f"network connections: {len(attempts)}")
    submission = out / "kaggle" / "working" / "submission.json"
    read_submission(submission, {task.id: len(task.test) for task in tasks})
    print(f"valid submission: {submission}")
    if not (submission.parent / "report.json").exists():
        print("FAIL: solve did not end; the submission is what it had reached")
        return 1
    if all(pair.output is not None for task in tasks for pair in task.test):
        _print_scores(tasks, out, submission)
    else:
        print("not scored: some tasks have no labels")
    _print_projection(tasks, read_json(submission.parent / "report.json"))
    draw_predictions(tasks, read_json(submission), out / "predictions.png")
    print(f"picture: {out / 'predictions.png'}; {seconds:.0f} s in all")
    return 1 if attempts else 0


def _print_projection(tasks, report: dict) -> None:
    """What this run's arithmetic would come to on Kaggle's four L4, were they kept as busy."""
    import torch
    from flop import L4_TFLOPS, matrix_product_tflops, project, visit_flop

    from hrm_offline.config import AdaptConfig, ModelConfig, from_dict, preset
    from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
    from hrm_offline.data.tasks import load_tasks

    if "cpu" not in report["device"] or not report["adapted"]["steps"]:
        return
    model = from_dict(ModelConfig, report["model"], "report")
    recipe = from_dict(AdaptConfig, report["adapt"], "report")
    source = ExampleSource(PuzzleSet(tuple(tasks), recipe, model, report["seed"]), report["seed"])
    visits, seconds = report["adapted"]["steps"] / source.steps_a_visit, report["seconds"]["adapt"]
    torch.set_num_threads(report["threads"])
    share = visits * visit_flop(model, source) / seconds / 1e12 / matrix_product_tflops()
    print(f"adapted: {report['adapted']['examples'] / seconds:.0f} example-steps/s, {share:.0%} of the rate of a large "
          f"matrix product here")

    large, hidden = preset("hrm-27m"), load_tasks("arc2-eval").tasks
    source = ExampleSource(PuzzleSet(hidden + hidden, large.adapt, large.model, 0), 0)
    projection = project(large.model, source, chips=4, tflops=L4_TFLOPS, share_of_peak=share, hours=0.6 * 12)
    print(f"projected, not measured: 240 tasks on 4x L4 in 12 h: {projection}; assuming hrm-27m, tasks like "
          f"ARC-AGI-2's public evaluation, 60% of the time for adaptation, and {share:.0%} of {L4_TFLOPS:.0f} TFLOP/s "
          "on each chip")


def _print_scores(tasks, out: Path, submission: Path) -> None:
    from hrm_offline.data.tasks import TaskSet, to_solutions
    from hrm_offline.files import write_json
    from hrm_offline.infer.score import score_files
    from hrm_offline.infer.submission import fallback_submission

    solutions, null_submission = out / "solutions.json", out / "null_submission.json"
    write_json(solutions, to_solutions(tasks))
    write_json(null_submission, fallback_submission(TaskSet("rehearsal", tuple(tasks))))
    score, null = score_files(submission, solutions), score_files(null_submission, solutions)
    beyond = [task_id for task_id in score.solved if task_id not in null.solved]
    print(score.table())
    print(f"null baseline: {null.summary()}")
    print(f"solved and not by the null baseline: {len(beyond)} ({', '.join(beyond) or 'none'})")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="arc1", metavar="arc1|arc2|FILE", help="tasks to rehearse on")
    parser.add_argument("--tasks", type=int, metavar="N", help="how many of them (default: 30 of arc1, else all)")
    parser.add_argument("--budget", default="10m", help="a backstop; the work itself is set in steps (%(default)s)")
    parser.add_argument("--artifact", default="none", metavar="DIR|none", help="pretrained artifact")
    parser.add_argument("--preset", help="network and recipe (default: what suits the device)")
    parser.add_argument("--visits", type=int, metavar="N", help="times each demonstration pair is offered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=environment.REPOSITORY / "dryrun",
                        metavar="DIR", help="where the tree and the results go (default: dryrun/)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
