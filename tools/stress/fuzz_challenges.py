"""Thousands of broken challenges files through the real command: no traceback, no hang, no entry missing.

    python tools/stress/fuzz_challenges.py --examples 10000 --seed 0

Files start from small tasks and are broken in structure (keys, types, shapes, numbers, sizes), in their
text (equal keys, depth, digits) and in their bytes (encodings, truncation, flips). Each goes through
`hrm_offline solve --budget 0s`: the exit code is 0 or 2, stderr has one line at most, and where the file
can be parsed at all, `submission.json` answers every task in it. Of every `--learn-every`-th file the
usable tasks are learned for some steps and predicted, without a clock. Where one fails, the smallest such
file is kept and the exit code is 1.
"""

from __future__ import annotations

import script_setup

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from hrm_offline.cli import main as hrm_offline_command
from hrm_offline.config import preset
from hrm_offline.data.tasks import Task, load_tasks

ATTEMPTS = {"attempt_1", "attempt_2"}
_HANG_SECONDS = 120.0
_LEARNING_STEPS = 3
_PREDICTED_BATCHES = 3

# Files to start from.

_TASKS = (
    {
        "train": [
            {"input": [[1, 0], [0, 2]], "output": [[2, 0], [0, 1]]},
            {"input": [[3, 0], [5, 2]], "output": [[2, 0], [5, 3]]},
            {"input": [[0]], "output": [[0]]},
        ],
        "test": [{"input": [[4, 0], [0, 2]]}],
    },
    {
        "train": [{"input": [[7, 7, 7]], "output": [[7], [7], [7]]}, {"input": [[1, 2]], "output": [[1], [2]]}],
        "test": [{"input": [[3, 4, 5]]}, {"input": [[6, 6]]}],
    },
    {
        "train": [{"input": [[0, 8, 0], [8, 0, 8]], "output": [[8]]}, {"input": [[9, 9], [9, 0]], "output": [[9]]}],
        "test": [{"input": [[1, 1, 1, 1]], "output": [[1]]}],
    },
)
_IDS = ("007bbfb7", "00d62c1b", "017c7c7b")

# Text that stands for what JSON's writer refuses to write, and what becomes of it.
_STAND_INS = {
    "<digits>": "9" * 5000,
    "<depth>": "[" * 100 + "]" * 100,
    "<too deep>": "[" * 100_000 + "]" * 100_000,
    "<deep object>": '{"input":' * 100 + "1" + "}" * 100,
    "<float>": "1e999",
    "<tiny>": "1e-999",
    "<minus zero>": "-0",
    "<leading zero>": "01",
    "<comment>": "/* */",
    "<raw control>": '"\x01"',
    "<half escape>": '"\\ud83d"',
}
_NUMBERS = (
    -1,
    0,
    1,
    9,
    10,
    11,
    255,
    256,
    257,
    2**31,
    2**63,
    2**64 + 1,
    -(2**63) - 1,
    10**400,
    -(10**400),
    1.0,
    2.5,
    -0.0,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
)
_TEXTS = (
    "",
    "3",
    "input",
    "\0",
    "\n",
    "ü",
    "\u2028",
    "\ud800",
    "\udfff\ud800",
    "🧩",
    "x" * 50_000,
    "__proto__",
    "../../x",
    "arc1",
    "NaN",
)
_GRIDS = (
    [[9]],
    [[0] * 30],
    [[0]] * 30,
    [[5] * 30] * 30,
    [[0] * 31],
    [[0]] * 31,
    [[0] * 300] * 300,
    [[]],
    [[], []],
    [[[]]],
    [[[0]]],
    [[0], [0, 0]],
    [[0, 0], [0]],
    [0],
    [[None]],
    [[True]],
    [["0"]],
    [list(range(10))],
)
_OTHERS = (
    None,
    True,
    False,
    [],
    {},
    {"input": [[1]]},
    {"input": [[1]], "output": [[1]]},
    {"train": [], "test": []},
    {"input": None, "output": None},
    {"a": {"b": {"c": []}}},
)

_STRANGE = st.one_of(
    st.sampled_from(_NUMBERS),
    st.sampled_from(_TEXTS),
    st.sampled_from(_GRIDS),
    st.sampled_from(_OTHERS),
    st.sampled_from([name for name in _STAND_INS if name != "<too deep>"]),
    st.sampled_from(_TASKS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    ),
)
_VALID_GRID = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9)).map(
    lambda size: [[(r * c + size[2]) % 10 for c in range(size[1])] for r in range(size[0])]
)


def _seldom(times: int):
    """True once in so many times. Not at an end of the range, which hypothesis tries more often."""
    return st.integers(0, times - 1).map(lambda number: number == times // 2)


def _strange(draw):
    """Something that is seldom right, to be changed further at will."""
    return copy.deepcopy(draw(_STRANGE))


@st.composite
def challenges_files(draw) -> bytes:
    """The bytes of a challenges file that is broken in some way, or strange and valid."""
    count = draw(st.integers(1, 3))
    value = {_IDS[i]: copy.deepcopy(_TASKS[i]) for i in range(count)}
    for _ in range(draw(st.integers(0, 4))):
        value = _break_structure(draw, value)
    text = _break_text(draw, _to_text(draw, value))
    return _break_bytes(draw, text)


def _break_structure(draw, value):
    """One change at one place. Every depth (task, part, pair, grid, row, cell) is hit as often as any other."""
    by_depth = {}
    for depth, place in _places(value):
        by_depth.setdefault(depth, []).append(place)
    if not by_depth or draw(_seldom(40)):
        return _strange(draw)
    container, key = draw(st.sampled_from(by_depth[draw(st.sampled_from(sorted(by_depth)))]))
    change = draw(st.sampled_from(_CHANGES))
    change(draw, container, key)
    return value


def _places(value, depth: int = 0):
    """(depth, (container, key)) of everything in a JSON value, but few of what is repeated often."""
    keys = list(value)[:8] if isinstance(value, dict) else range(min(8, len(value))) if isinstance(value, list) else ()
    for key in keys:
        yield depth, (value, key)
        if depth < 8:
            yield from _places(value[key], depth + 1)


def _replace(draw, container, key):
    container[key] = _strange(draw)


def _replace_by_a_grid(draw, container, key):
    container[key] = draw(_VALID_GRID)


def _drop(draw, container, key):
    del container[key]


def _rename(draw, container, key):
    """Another name for the key of an object; a strange neighbour in a list."""
    if isinstance(container, dict):
        container[draw(st.sampled_from(_TEXTS) | st.text(max_size=8))] = container.pop(key)
    else:
        container.insert(key, _strange(draw))


def _add_key(draw, container, key):
    if isinstance(container, dict):
        container[draw(st.sampled_from(("test", "train", "input", "output", "name", *_TEXTS)))] = _strange(draw)
    else:
        container.append(copy.deepcopy(container[key]))


def _wrap(draw, container, key):
    container[key] = draw(st.sampled_from(([container[key]], {"input": container[key]}, {"": container[key]})))


def _repeat(draw, container, key):
    """A list many times as long; a list of pairs, but no grid of it, even a thousand times."""
    if isinstance(container[key], list) and len(container[key]) < 10:
        most = (300, 1000) if key in ("train", "test") else ()
        container[key] = container[key] * draw(st.sampled_from((2, 3, 11, 31, *most)))


_CHANGES = (_replace, _replace, _replace_by_a_grid, _drop, _rename, _add_key, _wrap, _repeat)


def _to_text(draw, value) -> str:
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from((None, None, 1))))
    for name, stands_for in _STAND_INS.items():
        text = text.replace(json.dumps(name), stands_for)
    return text


def _break_text(draw, text: str) -> str:
    """Seldom: another word or sign somewhere, which makes keys equal or the text no JSON; extreme depth."""
    if not draw(_seldom(8)):
        return text
    kind = draw(st.sampled_from(("word", "word", "equal task", "cut", "sign", "deep")))
    if kind == "word":
        old, new = draw(st.permutations(("train", "test", "input", "output")))[:2]
        return text.replace(f'"{old}"', f'"{new}"', draw(st.integers(1, 3)))
    if kind == "equal task":
        first = json.dumps({_IDS[0]: draw(st.sampled_from(_TASKS) | _STRANGE)})
        return first[:-1] + "," + text.lstrip()[1:] if draw(st.booleans()) else text.rstrip()[:-1] + "," + first[1:]
    if kind == "deep":
        return text.replace("[[", _STAND_INS["<too deep>"] + ",[", 1)
    start = draw(st.integers(0, max(0, len(text) - 1)))
    return text[:start] if kind == "cut" else text[:start] + draw(st.sampled_from(',:[]{}"\\0-eN ')) + text[start + 1 :]


def _break_bytes(draw, text: str) -> bytes:
    encoding = draw(st.sampled_from(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1")))
    content = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    if not draw(_seldom(10)):
        return content
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        content = content[:start] + draw(st.binary(max_size=8)) + content[end:]
    return content


# What must hold of a run.


class Problem(Exception):
    """Something that must never happen, and did."""


def check_file(content: bytes, folder: Path) -> str:
    """Solve one challenges file with no time at all, in an empty folder. Returns what it was: "unreadable",
    "nothing usable" or "solved". Raises `Problem`."""
    path, out = folder / "challenges.json", folder / "out"
    path.write_bytes(content)
    code, stderr = _run(["solve", "--challenges", str(path), "--out", str(out), "--budget", "0s"])
    if code not in (0, 2):
        raise Problem(f"the exit code is {code}")
    if not (code == 2) <= len(stderr.splitlines()) <= 1 or "Traceback" in stderr:
        raise Problem(f"with exit code {code} stderr is {stderr[:2000]!r}")
    expected = _expected(content)
    if expected is None:
        if code == 0 or (out / "submission.json").exists():
            raise Problem(f"the file holds no tasks, yet exit code {code}, or a submission")
        return "unreadable"
    check_submission(json.loads((out / "submission.json").read_text()), expected)
    return "solved" if code == 0 else "nothing usable"


def _run(arguments: list[str]) -> tuple[int, str]:
    """The command's exit code and stderr, with streams that can write no character beyond ASCII as they are."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = hrm_offline_command(arguments)
    stderr.flush()
    return code, stderr.buffer.getvalue().decode("ascii")


def _expected(content: bytes) -> dict[str, int] | None:
    """Entries that each task of the file must get, told without the package; None if it holds no tasks."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or not parsed:
        return None
    tests = {task_id: task.get("test") if isinstance(task, dict) else None for task_id, task in parsed.items()}
    return {task_id: max(1, len(test)) if isinstance(test, list) else 1 for task_id, test in tests.items()}


def check_submission(submission, expected: dict[str, int]) -> None:
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
    """Learn the usable tasks of a challenges file for some steps, predict some batches and build a
    submission of that; False if there is no usable task. Any exception is a failure."""
    import torch

    from hrm_offline.answers.submission import build_submission, fallback_submission
    from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
    from hrm_offline.model.batching import training_batches
    from hrm_offline.model.recursive import RecursiveModel
    from hrm_offline.predict.loop import collect_votes
    from hrm_offline.predict.plan import PredictionPlan
    from hrm_offline.predict.predictor import Predictor
    from hrm_offline.train.learner import Learner

    task_set = load_tasks(path)
    if not task_set.tasks:
        return False
    chosen, hidden = preset("hrm-132k"), tuple(map(Task.without_labels, task_set.tasks))
    puzzles = PuzzleSet(hidden, chosen.adapt, chosen.model, seed=0)
    model = RecursiveModel(chosen.model, puzzles.num_rows)
    learner = Learner(model, chosen.adapt, _LEARNING_STEPS, seed=0)
    offer = training_batches(ExampleSource(puzzles, seed=0), torch.device("cpu"))
    for step in range(_LEARNING_STEPS):
        learner.learn(offer(step))
    predictor, plan = Predictor(model, puzzles, chosen.adapt), PredictionPlan(puzzles, chosen.adapt)
    votes = collect_votes(predictor, plan, _PREDICTED_BATCHES)
    check_submission(build_submission(fallback_submission(task_set), votes), task_set.test_counts())
    return True


# The tool.


def fuzz(examples: int, seed: int | None, learn_every: int, folder: Path, watch=contextlib.nullcontext) -> Counter:
    """Check so many files of a seed (None: always the same ones) in `folder`; returns how many were what.
    `watch` makes a context around each. Raises whatever a file brings about; it is then
    `folder / "challenges.json"`, as small as it could be made."""
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

    (check if seed is None else hypothesis.seed(seed)(check))()
    return kinds


@contextlib.contextmanager
def _watch_for_hangs():
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learn-every", type=int, default=20, metavar="K", help="of the files that are solved")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_challenges_"))
    print(f"the file at work is {folder / 'challenges.json'}", flush=True)
    started = time.monotonic()
    try:
        kinds = fuzz(options.examples, options.seed, options.learn_every, folder, _watch_for_hangs)
    except Exception:
        print(f"FAIL: see {folder / 'challenges.json'}", file=sys.stderr)
        raise
    seconds = time.monotonic() - started
    files = kinds.total() - kinds["learned"]
    print(
        f"{files} files in {seconds:.0f} s ({files / seconds:.1f} a second), no failure: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    )
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
