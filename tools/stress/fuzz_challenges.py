"""Send thousands of broken challenges files through solve, and check that none brings it down.

    python tools/stress/fuzz_challenges.py --examples 10000 --seed 0

tools/stress/broken_files.py makes the files. Each goes through `hrm_offline solve --budget 0s`. The exit code must be
0 or 2, and stderr must have one line at most. If the file can be parsed at all, submission.json must answer every task
of the file. The usable tasks of every twentieth file (--learn-every) are also learned for some steps and predicted,
without a time limit. If a file fails, the tool keeps the smallest file that fails alike, and its exit code is 1.
"""

from __future__ import annotations

import script_setup

import contextlib
import faulthandler
import io
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis

from hrm_offline.cli import main as hrm_offline_command
from hrm_offline.data.tasks import Task, load_tasks
from hrm_offline.presets import preset
from tools.stress.broken_files import challenges_files
from tools.support.command_line import parser_of

ATTEMPTS = {"attempt_1", "attempt_2"}
_HANG_SECONDS = 120.0
_LEARNING_STEPS = 3
_PREDICTED_BATCHES = 3

# ----- checks of one file


class Problem(Exception):
    """Says that something happened which must never happen."""


def check_file(content: bytes, folder: Path) -> str:
    """Solve a challenges file of this content with no time at all, in the empty folder `folder`.

    Returns the kind of the file: "unreadable", "nothing usable" or "solved". Raises `Problem` if solve does what it
    must not do.
    """
    path, out = folder / "challenges.json", folder / "out"
    path.write_bytes(content)
    code, stderr = _run(["solve", "--challenges", str(path), "--out", str(out), "--budget", "0s"])
    if code not in (0, 2):
        raise Problem(f"the exit code is {code}")
    lines = len(stderr.splitlines())
    least_lines = 1 if code == 2 else 0  # an error must be told, a warning may be
    if not least_lines <= lines <= 1 or "Traceback" in stderr:
        raise Problem(f"with exit code {code} stderr is {stderr[:2000]!r}")
    expected = _expected(content)
    if expected is None:
        if code == 0 or (out / "submission.json").exists():
            raise Problem(f"the file holds no tasks, but the exit code is {code}, or there is a submission")
        return "unreadable"
    check_submission(json.loads((out / "submission.json").read_text()), expected)
    return "solved" if code == 0 else "nothing usable"


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run the command and return its exit code and stderr. The streams accept ASCII only, as on some machines."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = hrm_offline_command(arguments)
    stderr.flush()
    return code, stderr.buffer.getvalue().decode("ascii")


def _expected(content: bytes) -> dict[str, int] | None:
    """Return how many entries each task of the file must get, or None if the file holds no tasks.

    Reads the file without the package, so that an error of the package shows.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if _is_one_task(parsed):
        parsed = {"challenges": parsed}
    if not isinstance(parsed, dict) or not parsed:
        return None
    tests = {task_id: task.get("test") if isinstance(task, dict) else None for task_id, task in parsed.items()}
    return {task_id: max(1, len(test)) if isinstance(test, list) else 1 for task_id, test in tests.items()}


def _is_one_task(parsed) -> bool:
    """Return whether the file is of one task: of its parts, or RE-ARC's list of pairs. No value is a task then."""

    def has(value, keys: set[str]) -> bool:
        return isinstance(value, dict) and not keys.isdisjoint(value)

    parts, pair = {"train", "test"}, {"input", "output"}
    if isinstance(parsed, list):
        return bool(parsed) and all(has(item, pair) for item in parsed)
    return has(parsed, parts) and not any(has(value, parts) for value in parsed.values())


def check_submission(submission, expected: dict[str, int]) -> None:
    """Raise `Problem` unless the submission has, for each task, the expected number of valid entries."""
    if not isinstance(submission, dict) or submission.keys() != expected.keys():
        raise Problem("the submission's tasks are not the file's")
    for task_id, count in expected.items():
        if len(submission[task_id]) != count:
            raise Problem(f"task {task_id!r} has {len(submission[task_id])} entries, expected {count}")
        for entry in submission[task_id]:
            if entry.keys() != ATTEMPTS or not all(_is_grid(grid) for grid in entry.values()):
                raise Problem(f"task {task_id!r} has the entry {entry}")


def _is_grid(grid) -> bool:
    return (
        isinstance(grid, list)
        and 1 <= len(grid) <= 30
        and len({len(row) for row in grid}) == 1
        and 1 <= len(grid[0]) <= 30
        and all(type(cell) is int and 0 <= cell <= 9 for row in grid for cell in row)
    )


def check_learning(path: Path) -> bool:
    """Learn the usable tasks of a challenges file for some steps, predict some batches, and check the submission.

    Returns False if there is no usable task. Every exception is a failure.
    """
    import torch

    from hrm_offline.answers.submission import build_submission, fallback_submission
    from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
    from hrm_offline.model.network import build_network, training_batches
    from hrm_offline.predict.loop import collect_votes
    from hrm_offline.predict.plan import PredictionPlan
    from hrm_offline.predict.predictor import Predictor
    from hrm_offline.train.learner import Learner

    task_set = load_tasks(path)
    if not task_set.tasks:
        return False
    chosen, hidden = preset("hrm-132k"), tuple(map(Task.without_labels, task_set.tasks))
    puzzles = PuzzleSet(hidden, chosen.adapt, chosen.model, seed=0)
    model = build_network(chosen.model, puzzles.num_rows)
    learner = Learner(model, chosen.adapt, _LEARNING_STEPS, seed=0)
    offer = training_batches(ExampleSource(puzzles, seed=0), torch.device("cpu"))
    for step in range(_LEARNING_STEPS):
        learner.learn(offer(step))
    predictor, plan = Predictor(model, puzzles, chosen.adapt), PredictionPlan(puzzles, chosen.adapt)
    votes = collect_votes(predictor, plan, _PREDICTED_BATCHES)
    check_submission(build_submission(fallback_submission(task_set), votes), task_set.test_counts())
    return True


# ----- the tool


def fuzz(examples: int, seed: int | None, learn_every: int, folder: Path, watch=contextlib.nullcontext) -> Counter:
    """Check `examples` files of a seed in `folder`, and return how many there were of each kind.

    The seed None means the same files in every run. `watch` makes a context around each check. Raises whatever a file
    causes: hypothesis then looks for the smallest file that does so, and leaves it at `folder / "challenges.json"`.
    """
    kinds = Counter()

    @hypothesis.settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )
    @hypothesis.given(challenges_files())
    def check(content: bytes) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        with watch():
            kind = check_file(content, folder)
            kinds[kind] += 1
            if kind == "solved" and kinds[kind] % learn_every == 0:
                kinds["learned"] += check_learning(folder / "challenges.json")

    if seed is not None:
        check = hypothesis.seed(seed)(check)
    check()
    return kinds


@contextlib.contextmanager
def _watch_for_hangs():
    """End the process with all stack traces if a check takes too long."""
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--examples", type=int, default=1000, metavar="N", help="files to check (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    parser.add_argument(
        "--learn-every",
        type=int,
        default=20,
        metavar="K",
        help="learn the tasks of every K-th file that solve accepts (default: %(default)s)",
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_challenges_"))
    print(f"checking one file after another as {folder / 'challenges.json'}", flush=True)
    started = time.monotonic()
    try:
        kinds = fuzz(options.examples, options.seed, options.learn_every, folder, _watch_for_hangs)
    except Exception:
        print(f"FAILED: the smallest file that fails is {folder / 'challenges.json'}", file=sys.stderr)
        raise
    seconds = time.monotonic() - started
    files = kinds.total() - kinds["learned"]
    print(
        f"{files} files in {seconds:.0f} s ({files / seconds:.1f} per second), no failure: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    )
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
