"""Score a default run of solve on a whole public set, and print it as a row of the README's table.

    python tools/bench/headline.py --set arc1-eval --budget 2h --price-per-hour 0.10

No GPU is needed. The tool writes into --out the tasks without their answers, the run of solve, and headline.md. A run
that was cut off goes on with the same command, with the time that its budget has left. A finished run is not repeated.
Scores are those of the network alone, of induction alone, and of both together: first by test output, as Kaggle counts
them, then by task.
"""

from __future__ import annotations

import script_setup

import argparse
import subprocess
import sys
import time
from pathlib import Path

from hrm_offline.answers.score import Score, score_files
from hrm_offline.common.budget import parse_duration
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, write_json
from hrm_offline.data.sets import scorable_tasks, smallest
from hrm_offline.data.tasks import Task, to_challenges, to_solutions
from hrm_offline.solve.job import ALONE_FILE
from hrm_offline.solve.ledger import INDUCTION, NETWORK
from tools.support import environment
from tools.support.command_line import absolute_path, parser_of, price, run_tool, seed_number, solve_command
from tools.support.machine import describe_machine

_MIN_SECONDS = 30.0  # that are worth starting solve again
_COLUMNS = (
    "set, test outputs",
    "network alone",
    "induction alone",
    "together",
    "seconds",
    "workers",
    "cost",
    "commit",
    "machine",
)


def run(options: argparse.Namespace, tasks: tuple[Task, ...]) -> float:
    """Run solve, or what is left of it. Returns the seconds of all its attempts. Raises `InputError` where it fails."""
    about = {"set": options.set, "tasks": options.tasks, "budget": options.budget, "seed": options.seed}
    about |= {"workers": options.workers, "commit": environment.commit_of_checkout()}
    path, report = options.out / "attempts.json", options.out / "run" / "report.json"
    attempts = read_json(path) if path.exists() else about | {"seconds": []}
    other = next((name for name, value in about.items() if name != "commit" and attempts.get(name) != value), None)
    if other:
        raise InputError(f"{path}: its run has {other} {attempts.get(other)}, expected {about[other]} or another --out")
    spent = sum(attempts["seconds"])
    left = parse_duration(options.budget) - spent
    if report.exists() and (attempts.get("finished") or left < _MIN_SECONDS):
        return spent
    write_json(options.out / "challenges.json", to_challenges(tasks))
    write_json(options.out / "solutions.json", to_solutions(tasks))
    attempts["seconds"].append(0.0)
    with open(options.out / "solve.log", "a") as log:
        solve = subprocess.Popen(_command(options, max(left, 1.0)), cwd=environment.REPOSITORY, stdout=log, stderr=log)
        started = time.monotonic()
        while solve.poll() is None:  # the seconds are on disk if this tool is killed with solve
            time.sleep(1.0)
            attempts["seconds"][-1] = round(time.monotonic() - started, 1)
            write_json(path, attempts)
    attempts["finished"] = solve.returncode == 0
    write_json(path, attempts)
    if solve.returncode:
        raise InputError(f"solve ended with exit code {solve.returncode}, see {options.out / 'solve.log'}")
    return sum(attempts["seconds"])


def _command(options: argparse.Namespace, left: float) -> list[str]:
    return solve_command(
        challenges=options.out / "challenges.json",
        out=options.out / "run",
        budget=f"{left:.0f}s",
        workers=options.workers,
        seed=options.seed,
    )


def row_of(options: argparse.Namespace, seconds: float) -> str:
    """Return the row of a finished run in Markdown."""
    solutions, folder = options.out / "solutions.json", options.out / "run"
    files = [folder / ALONE_FILE.format(name) for name in (NETWORK, INDUCTION)] + [folder / "submission.json"]
    scores = [score_files(path, solutions) for path in files]
    report, attempts = read_json(folder / "report.json"), read_json(options.out / "attempts.json")
    cost = "" if options.price_per_hour is None else f"${seconds / 3600 * options.price_per_hour:.2f}"
    cells = [f"{options.set}, {scores[0].outputs}", *map(_shown, scores)]
    cells += [f"{seconds:,.0f}", f"{report.get('workers', 0)}", cost, attempts["commit"], describe_machine()]
    return f"| {' | '.join(cells)} |"


def _shown(score: Score) -> str:
    """Return a score by output and by task, within two attempts."""
    return (
        f"{score.per_output(2):.2%}; by task {score.per_task(2):.2%}, {len(score.solved)} of {len(score.tasks)} whole"
    )


def main() -> int:
    options = _parse_arguments()
    tasks = scorable_tasks(options.set)
    if options.tasks:
        tasks = tuple(smallest(tasks, options.tasks))
    make_folder(options.out)
    seconds = run(options, tasks)
    table = "\n".join([f"| {' | '.join(_COLUMNS)} |", "| --- " * len(_COLUMNS) + "|", row_of(options, seconds), ""])
    (options.out / "headline.md").write_text(table)
    print(table, end="")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--set", default="arc1-eval", help="a set's name or a file with labels (default: %(default)s)")
    parser.add_argument(
        "--tasks",
        type=int,
        default=0,
        metavar="N",
        help="take only the N smallest tasks; 0: all (default: 0)",
    )
    parser.add_argument("--budget", default="2h", metavar="TIME", help="time of solve (default: %(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="seed (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="workers (default: as solve chooses)")
    parser.add_argument(
        "--price-per-hour", type=price, metavar="DOLLARS", help="price of the machine (default: none shown)"
    )
    parser.add_argument(
        "--out",
        type=absolute_path,
        metavar="DIR",
        help="folder of the run (default: headline-SET in the repository)",
    )
    options = parser.parse_args()
    options.out = options.out or environment.REPOSITORY / f"headline-{Path(options.set).stem}"
    return options


if __name__ == "__main__":
    sys.exit(run_tool(main))
