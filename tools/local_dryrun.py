"""Rehearse a Kaggle run on this machine: the real notebook on real tasks, without a network, and scored.

    python tools/local_dryrun.py                       # 30 small ARC-AGI-1 tasks
    python tools/local_dryrun.py --bundle bundle       # the files that tools/build_kernel.py wrote
    python tools/local_dryrun.py --kill-at 20          # kill solve after 20 s, then run the notebook again

Needs only Python and no GPU: missing packages are installed into .venv. The rehearsal has these steps:

1. Build the bundle (notebook and dataset) that would be uploaded to Kaggle, or take a ready one (--bundle).
2. Lay out folders like Kaggle's: a read-only input with the tasks but without labels, and an empty working folder.
3. Execute the notebook with the network cut off.
4. Score the submission against the labels, beside a null baseline that learns nothing, and check the run.

The results lie in dryrun/. The exit code is 1 if a check failed. The same seed gives the same answers, because the
work is set in steps and not in seconds.
"""

from __future__ import annotations

import script_setup

import argparse
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hrm_offline.common.files import make_folder
from hrm_offline.common.lock import FolderLock
from hrm_offline.solve.options import INDUCE, SolveOptions
from tools.support import environment
from tools.support.command_line import absolute_path, flags, parser_of, run_tool, seed_number

# The names in the bundle that the rehearsal builds.
_USER, _COMPETITION = "rehearsal", "arc-prize"
_QUICK_PRESET = "decoder-170k"  # where a run has time, solve takes a larger network
# Seconds beyond solve's budget after which a cell, and the whole notebook, is stopped.
_CELL_GRACE, _NOTEBOOK_GRACE = 120, 180


def main() -> int:
    options = _parse_arguments()
    environment.ensure()
    with FolderLock(make_folder(options.out), print):  # a second rehearsal would remove the folders of the first
        return rehearse(options)


def rehearse(options: argparse.Namespace) -> int:
    """Lay out the folders, execute the notebook once or twice, and print the report. Returns the exit code."""
    from hrm_offline.common.budget import parse_duration
    from tools.support.offline import OfflineRunner
    from tools.support.rehearsal_report import Rehearsal, build_twice, heading, judge

    started = time.monotonic()
    seconds = parse_duration(options.budget)
    _require_possible(options)
    tasks = choose_tasks(options.data, options.tasks)
    bundle, builds = _bundle(options), build_twice()
    mounted = _lay_out(options.out, tasks, bundle)
    offline = OfflineRunner(options.out / "offline", sys.executable)
    print(f"Rehearsing on {len(tasks)} tasks of {options.data}, with a budget of {seconds:.0f} s.")
    print(f"The network is cut off by {offline.means}.")

    rehearsal = Rehearsal(
        tasks, options.out, seconds, max(1, options.workers), mounted, options.bundle is None, builds, offline.means
    )
    heading(f"Output of the notebook {bundle.notebook}")
    rehearsal.runs.append(_execute(bundle, options, offline, seconds, "executed.ipynb", options.kill_at))
    if options.kill_at is not None:
        rehearsal.left_by_kill = rehearsal.problem_of_submission()
        heading("The same notebook again, after the kill, on the same working folder")
        rehearsal.runs.append(_execute(bundle, options, offline, seconds, "executed_again.ipynb"))
    rehearsal.attempts = offline.attempts()
    code = judge(rehearsal)
    result = "FAILED: see the checks above" if code else "PASSED: every check"
    print(f"{result}. The rehearsal took {time.monotonic() - started:.0f} s.")
    return code


def _require_possible(options: argparse.Namespace) -> None:
    """Raise `InputError` for a flag that `solve` would refuse in the notebook, and for a number that makes no sense."""
    from hrm_offline.common.budget import parse_duration
    from hrm_offline.common.errors import InputError
    from hrm_offline.common.settings import parse_setting
    from hrm_offline.config import AdaptConfig

    overrides = {"members": options.members} | dict(parse_setting(AdaptConfig, text) for text in options.settings)
    if options.visits is not None:
        overrides["visits"] = options.visits
    SolveOptions(
        Path(),
        Path(),
        seed=options.seed,
        workers=options.workers,
        preset=options.preset,
        induce=options.induce,
        overrides=overrides,
    )
    if options.tasks is not None and options.tasks < 1:
        raise InputError(f"tasks is {options.tasks}, expected 1 or more")
    if options.kill_at is not None and not 0 <= options.kill_at <= parse_duration(options.budget):
        raise InputError(f"kill_at is {options.kill_at}, expected 0 or more seconds, within the budget")


def choose_tasks(data: str, count: int | None):
    """Return the tasks to rehearse on: for "arc1" those of `rehearsal_tasks`, for another set its `count` smallest.

    Of another set the tasks that cannot be solved and scored are left out, which is said. Raises `InputError`.
    """
    from hrm_offline.common.errors import InputError
    from hrm_offline.data.sets import MIN_DEMONSTRATIONS, rehearsal_tasks, scorable_tasks, smallest

    if data == "arc1":
        return list(rehearsal_tasks(count))
    tasks = scorable_tasks(data)
    chosen = smallest(tasks, None)
    few = f"tasks with fewer than {MIN_DEMONSTRATIONS} demonstrations"
    if not chosen:
        raise InputError(f"{data}: has only {few}")
    if len(chosen) < len(tasks):
        print(f"{data}: left out {len(tasks) - len(chosen)} {few}")
    return chosen[:count]


def _bundle(options: argparse.Namespace):
    """Return the bundle that was given, or build one.

    If the vendored wheels cannot be downloaded, the bundle is built without them: the notebook then uses the packages
    that are installed here.
    """
    from tools.build_kernel import build, read_bundle
    from tools.vendor_wheels import DownloadError

    if options.bundle is not None:
        return read_bundle(options.bundle)
    folder = options.out / "bundle"
    artifact = None if options.artifact in ("bundled", "none") else Path(options.artifact)
    try:
        build(folder, _USER, _COMPETITION, artifact)
    except DownloadError as error:
        print(f"Going on without the vendored wheels, because the installed packages serve: {error}", flush=True)
        build(folder, _USER, _COMPETITION, artifact, lock=None)
    return read_bundle(folder)


def _lay_out(out: Path, tasks, bundle) -> Path | None:
    """Make folders like Kaggle's in `out`: input (read-only), working and temp (both empty).

    Returns the folder where the dataset is mounted, or None if the bundle has no dataset.
    """
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
        # Kaggle's client reads the metadata but does not upload that file.
        shutil.copytree(bundle.dataset, mounted, ignore=shutil.ignore_patterns(DATASET_FILE))
    _set_writable(root / "input", False)
    return mounted


def _set_writable(root: Path, writable: bool) -> None:
    """Allow or forbid writing to a folder and to everything in it."""
    for path in [root, *root.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWUSR if writable else mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def _execute(bundle, options: argparse.Namespace, offline, budget: float, name: str, kill_at: float | None = None):
    """Execute the notebook once and save the result as `name`. If `kill_at` is given, solve is killed that many
    seconds after its start."""
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
            pass  # `code` stays None, which the report tells
        finally:
            over.set()
    return Run(code, time.monotonic() - started, killing.result() if killing else None)


def _notebook_environment(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment variables of the notebook: this process' own, and those that the notebook reads."""
    arguments = flags(
        seed=options.seed,
        visits=options.visits,
        members=options.members,
        preset=options.preset,
        workers=options.workers,
        induce=options.induce,
        artifact="none" if options.artifact == "none" else None,  # else the notebook finds what there is
    )
    if options.settings:
        arguments += ["--set", *options.settings]
    return os.environ | {
        "HRM_OFFLINE_ROOT": str(options.out / "kaggle"),
        "HRM_OFFLINE_BUDGET": options.budget,
        "HRM_OFFLINE_SOLVE_ARGS": shlex.join(arguments),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--data",
        default="arc1",
        metavar="arc1|SET|FILE",
        help="tasks to rehearse on: arc1 for the rehearsal's own, or a set's name or a file (default: %(default)s)",
    )
    parser.add_argument("--tasks", type=int, metavar="N", help="number of tasks (default: 30 of arc1, else all)")
    parser.add_argument(
        "--budget",
        default="10m",
        metavar="TIME",
        help="solve's budget, such as 90s or 10m; only a limit, as the work is set in steps (default: %(default)s)",
    )
    parser.add_argument(
        "--artifact",
        default="bundled",
        metavar="DIR|bundled|none",
        help="pretrained network: a folder, the package's own (bundled, the default), or none for random weights",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="rehearse the bundle that tools/build_kernel.py wrote into this folder (default: build one)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="worker processes of solve; fixed, so that a seed repeats its answers anywhere (default: %(default)s)",
    )
    parser.add_argument(
        "--kill-at",
        type=float,
        metavar="SECONDS",
        help="kill solve this long after its start, then execute the notebook again (default: no kill)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"network and recipe (default: {_QUICK_PRESET}, which learns in a minute; with an artifact of yours, "
        "the nearest)",
    )
    parser.add_argument(
        "--induce",
        default=SolveOptions.induce,
        choices=INDUCE,
        help="whether programs are searched beside the network, not at all, or alone (default: %(default)s)",
    )
    parser.add_argument(
        "--visits",
        type=int,
        metavar="N",
        help="how often adaptation offers each demonstration (default: as the recipe says)",
    )
    parser.add_argument(
        "--members",
        type=int,
        default=1,
        metavar="N",
        help="networks that learn the same tasks and vote together, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the recipe, as solve takes them; a large network rehearses on a CPU with smaller ones",
    )
    parser.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="random seed of solve (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=absolute_path,
        default=environment.REPOSITORY / "dryrun",
        metavar="DIR",
        help="folder for Kaggle's folders and the results (default: dryrun/ in the repository)",
    )
    options = parser.parse_args()
    has_own_artifact = options.artifact not in ("bundled", "none")
    if options.bundle is not None:
        has_own_artifact = any(options.bundle.rglob("model.safetensors"))
    if options.preset is None and not has_own_artifact:
        options.preset = _QUICK_PRESET
    if options.bundle is not None and options.artifact not in ("bundled", "none"):
        parser.error("--artifact cannot be a folder beside --bundle, because the bundle has its own artifact or none")
    return options


if __name__ == "__main__":
    sys.exit(run_tool(main))
