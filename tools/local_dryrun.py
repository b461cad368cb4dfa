"""The rehearsal: run the real Kaggle notebook on real tasks, offline, and score it.

    python tools/local_dryrun.py

Needs only Python: makes its own environment if packages are missing. Builds the bundle that tools/build_kernel.py
would upload (or takes a ready one, `--bundle`), lays out a tree like Kaggle's (read-only input with a challenges file
without labels, empty working folder), executes the bundle's notebook with the network cut off, then validates the
submission and scores it against the held-back labels, beside the null baseline that learns nothing. With `--kill-at`
solve is killed on its way and the notebook executed again, as a user would. Exit code 1 if anything fails.
"""

from __future__ import annotations

import script_setup

import argparse
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.support import environment

# A name for the bundle that the rehearsal builds itself.
_USER, _COMPETITION = "rehearsal", "arc-prize"
# What a cell, and then the whole notebook, may take longer than solve's budget before it is stopped.
_CELL_GRACE, _NOTEBOOK_GRACE = 120, 180


def main() -> int:
    options = _parse_arguments()
    environment.ensure()
    from hrm_offline.common.errors import InputError

    try:
        return rehearse(options)
    except InputError as error:
        print(f"local_dryrun: error: {error}", file=sys.stderr)
        return 2


def rehearse(options: argparse.Namespace) -> int:
    """Lay out, execute once or twice, judge; returns the exit code."""
    from hrm_offline.common.budget import parse_duration
    from tools.support.offline import OfflineRunner
    from tools.support.rehearsal_report import Rehearsal, build_twice, judge

    started = time.monotonic()
    seconds = parse_duration(options.budget)
    tasks = choose_tasks(options.data, options.tasks)
    bundle, builds = _bundle(options), build_twice()
    mounted = _lay_out(options.out, tasks, bundle)
    offline = OfflineRunner(options.out / "offline", sys.executable)
    print(f"{bundle.notebook}; {len(tasks)} tasks of {options.data}; network cut off: {offline.means}", flush=True)

    rehearsal = Rehearsal(
        tasks, options.out, seconds, options.workers or 1, mounted, options.bundle is None, builds, offline.means
    )
    rehearsal.runs.append(_execute(bundle, options, offline, seconds, "executed.ipynb", options.kill_at))
    if options.kill_at is not None:
        rehearsal.left_by_kill = rehearsal.problem_of_submission()
        print("executing the notebook again on the same working folder", flush=True)
        rehearsal.runs.append(_execute(bundle, options, offline, seconds, "executed_again.ipynb"))
    rehearsal.attempts = offline.attempts()
    code = judge(rehearsal)
    print(f"{'FAIL' if code else 'PASS'}; {time.monotonic() - started:.0f} s in all")
    return code


def choose_tasks(data: str, count: int | None):
    """The rehearsal's tasks: those of `rehearsal_tasks` for `arc1`, of other sets the `count` smallest."""
    from hrm_offline.data.sets import load_set, rehearsal_tasks, smallest

    return list(rehearsal_tasks(count)) if data == "arc1" else smallest(load_set(data).require_good(), count)


def _bundle(options: argparse.Namespace):
    """The bundle to rehearse: the one given, or one built now, without the vendored wheels where they cannot be had."""
    from tools.build_kernel import build, read_bundle
    from tools.vendor_wheels import DownloadError

    if options.bundle is not None:
        return read_bundle(options.bundle)
    folder = options.out / "bundle"
    artifact = None if options.artifact in ("bundled", "none") else Path(options.artifact)
    try:
        build(folder, _USER, _COMPETITION, artifact)
    except DownloadError as error:
        print(f"going on without the vendored wheels, the installed packages serve: {error}", flush=True)
        build(folder, _USER, _COMPETITION, artifact, lock=None)
    return read_bundle(folder)


def _lay_out(out: Path, tasks, bundle) -> Path | None:
    """A tree like Kaggle's: input (read-only), working and temp (empty). Returns where the dataset is mounted."""
    from hrm_offline.data.tasks import to_challenges
    from tools.support.kaggle_metadata import DATASET_FILE

    root = out / "kaggle"
    if root.exists():
        _set_writable(root, True)
        shutil.rmtree(root)
    competition_name, dataset_name = bundle.mounts
    competition = root / "input" / competition_name
    for folder in (competition, root / "working", root / "temp"):
        folder.mkdir(parents=True)
    (competition / "arc-agi_test_challenges.json").write_text(json.dumps(to_challenges(tasks)))
    mounted = None
    if bundle.dataset is not None:
        mounted = root / "input" / dataset_name
        shutil.copytree(bundle.dataset, mounted, ignore=shutil.ignore_patterns(DATASET_FILE))  # is never uploaded
    _set_writable(root / "input", False)
    return mounted


def _set_writable(root: Path, writable: bool) -> None:
    for path in [root, *root.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWUSR if writable else mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def _execute(bundle, options: argparse.Namespace, offline, budget: float, name: str, kill_at: float | None = None):
    """Execute the notebook once; with `kill_at`, solve is killed that many seconds after it started."""
    from tools.support.kill_solve import kill_solve
    from tools.support.rehearsal_report import Run

    command = [
        sys.executable,
        str(environment.REPOSITORY / "tools" / "support" / "execute_notebook.py"),
        str(bundle.notebook),
        str(options.out / "kaggle" / "working" / name),
        str(budget + _CELL_GRACE),
    ]
    started, over, code = time.monotonic(), threading.Event(), None
    with ThreadPoolExecutor(max_workers=1) as pool:
        killing = pool.submit(kill_solve, kill_at, over) if kill_at is not None else None
        try:
            code = offline.run(command, _notebook_environment(options), timeout=budget + _NOTEBOOK_GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            over.set()
    return Run(code, time.monotonic() - started, killing.result() if killing else None)


def _notebook_environment(options: argparse.Namespace) -> dict[str, str]:
    arguments = ["--seed", str(options.seed)]
    artifact = "none" if options.artifact == "none" else None  # else the notebook finds what there is
    for flag, value in (
        ("--visits", options.visits),
        ("--preset", options.preset),
        ("--workers", options.workers),
        ("--artifact", artifact),
    ):
        if value is not None:
            arguments += [flag, str(value)]
    return os.environ | {
        "HRM_OFFLINE_ROOT": str(options.out / "kaggle"),
        "HRM_OFFLINE_BUDGET": options.budget,
        "HRM_OFFLINE_SOLVE_ARGS": " ".join(arguments),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="arc1", metavar="arc1|arc2|FILE", help="tasks to rehearse on")
    parser.add_argument("--tasks", type=int, metavar="N", help="how many of them (default: 30 of arc1, else all)")
    parser.add_argument("--budget", default="10m", help="a backstop; the work itself is set in steps (%(default)s)")
    parser.add_argument(
        "--artifact",
        default="bundled",
        metavar="DIR|bundled|none",
        help="pretrained network: a folder, the package's own (default), none for random weights",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="rehearse what tools/build_kernel.py wrote there")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that solve shares the tasks among")
    parser.add_argument(
        "--kill-at",
        type=float,
        metavar="SECONDS",
        help="kill solve that long after its start, then execute the notebook again",
    )
    parser.add_argument("--preset", help="network and recipe (default: what suits the device)")
    parser.add_argument("--visits", type=int, metavar="N", help="times each demonstration pair is offered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).resolve(),
        default=environment.REPOSITORY / "dryrun",
        metavar="DIR",
        help="where the tree and the results go (default: dryrun/)",
    )
    options = parser.parse_args()
    if options.bundle is not None and options.artifact not in ("bundled", "none"):
        parser.error("--bundle has its own artifact or none, so --artifact cannot be a folder with it")
    return options


if __name__ == "__main__":
    sys.exit(main())
