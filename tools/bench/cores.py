"""Measure how much faster several CPU cores solve the same tasks than one, and check that the answers are the same.

    python tools/bench/cores.py --cores 2 --set synthetic-24-sides-6

Each run of `solve` has the same groups of tasks, one per core, and takes all steps of its recipe. A machine that does
other work meanwhile, or has fewer free cores, makes the numbers worthless. The exit code is 1 if the answers differ.
"""

from __future__ import annotations

import script_setup

import argparse
import subprocess
import sys
from pathlib import Path

from hrm_offline.common import machine
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, write_json
from tools.support import environment
from tools.support.command_line import absolute_path, parser_of, run_tool, seed_number, solve_command

_BUDGET = "10h"  # no run is cut short


def main() -> int:
    options = _parse_arguments()
    _require_same_runs(options)
    reports, answers = [], []
    for workers in (1, options.cores):
        folder = make_folder(options.out / f"{workers}-workers")
        reports.append(_solve(folder, workers, options))
        answers.append(read_json(folder / "submission.json"))
    one, many = (report["seconds in all"] - report["seconds"]["start"] for report in reports)
    print(
        f"{options.cores} groups on {options.set}: {one:.1f} s on 1 core, {many:.1f} s on {options.cores}, "
        f"{one / many:.2f} times as fast (without {reports[0]['seconds']['start']:.1f} s until the first worker is "
        f"ready); this machine has {machine.physical_cores()} cores"
    )
    same = answers[0] == answers[1]
    print("the answers are the same" if same else "the answers DIFFER")
    return 0 if same else 1


def _require_same_runs(options: argparse.Namespace) -> None:
    """Note in the folder which runs it holds. Raises `InputError` where it holds others."""
    path = make_folder(options.out) / "about.json"
    about = {"set": options.set, "preset": options.preset, "seed": options.seed, "cores": options.cores}
    known = read_json(path) if path.exists() else about
    if known != about:
        raise InputError(f"{path}: holds the runs of {known}, expected {about} or another --out")
    write_json(path, about)


def _solve(folder: Path, workers: int, options: argparse.Namespace) -> dict:
    """Run solve in a folder, or read the run that is there. Return its report. Raises `InputError` if it fails."""
    report = folder / "report.json"
    if not report.exists():
        command = solve_command(
            challenges=options.set,
            out=folder,
            budget=_BUDGET,
            workers=workers,
            groups=options.cores,
            seed=options.seed,
            preset=options.preset,
            device="cpu",
            members=1,
            induce="off",
        )
        with open(folder / "solve.log", "w") as log:
            if subprocess.run(command, cwd=environment.REPOSITORY, stdout=log, stderr=log).returncode:
                raise InputError(f"solve failed, see {folder / 'solve.log'}")
    return read_json(report)


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="cores to compare with one (default: 2)")
    parser.add_argument(
        "--set", default="synthetic-24-sides-6", help="tasks: a set's name or a file (default: %(default)s)"
    )
    parser.add_argument("--preset", default="decoder-170k", help="network and recipe (default: %(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="random seed (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=absolute_path,
        default=environment.REPOSITORY / "runs" / "cores",
        metavar="DIR",
        help="folder of the runs (default: runs/cores in the repository)",
    )
    options = parser.parse_args()
    if Path(options.set).exists():
        options.set = str(absolute_path(options.set))  # solve runs in the repository
    if options.cores < 2:
        parser.error(f"--cores is {options.cores}, expected 2 or more")
    return options


if __name__ == "__main__":
    sys.exit(run_tool(main))
