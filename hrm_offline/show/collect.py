"""Collect what `show` draws from the folder that `solve` or `pretrain` left.

python -m hrm_offline show RUN --solutions FILE
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hrm_offline.answers.submission import ATTEMPTS, read_submission
from hrm_offline.answers.vote import TestKey, Votes
from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import make_folder, read_json
from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import Pair, Task, TaskSet, digest_of, read_solutions
from hrm_offline.model.network import Network
from hrm_offline.predict.decoding import new_predictor
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.show.draw import Ballot, Curve, Unfolding, draw_ballots, draw_curves, draw_predictions, draw_unfoldings
from hrm_offline.solve.engine import load_network
from hrm_offline.solve.history import past_of, votes_of
from hrm_offline.solve.job import REPORT_FILE, SUBMISSION_FILE
from hrm_offline.solve.journal import read_records
from hrm_offline.solve.ledger import Ledger, test_keys
from hrm_offline.solve.paths import FOLDER, JOURNAL_FILE, network_path
from hrm_offline.train.adapt import LOOK_EVERY
from hrm_offline.train.pretrain import METRICS_FILE

_MAX_TESTS = 24  # test inputs on a picture, where no tasks are named
_MAX_CANDIDATES = 8  # candidates in a histogram
# Why a picture is missing.
_MISSING = {
    "votes.png": "no test input of these has a vote",
    "outer_steps.png": "the adapted networks are not there any more; solve --keep-networks leaves them",
    "training.png": "no group of tasks was adapted long enough for its loss to be looked at",
}


def draw_folder(
    run: Path,
    out: Path,
    task_ids: list[str] | None,
    solutions: str | Path | None,
    challenges: str | Path | None,
    say: Callable[[str], None],
) -> list[Path]:
    """Draw all pictures of a run into `out`, and return the PNG files.

    `say` is told why a picture cannot be drawn. Raises `InputError` that names the file that is missing or damaged, or
    the task that the run does not have.
    """
    metrics = run / METRICS_FILE if run.is_dir() else run
    if metrics.name == METRICS_FILE and metrics.is_file():
        path = make_folder(out) / "pretraining.png"
        draw_curves(pretraining_curves(metrics), path)
        return [path]
    if not run.is_dir():
        raise InputError(f"{run}: no such folder of a run, and no {METRICS_FILE}")
    album = Album(run, solutions, challenges)
    chosen = album.choose(task_ids)
    pictures = {
        "predictions.png": (partial(draw_predictions, origins=album.origins()), album.viewed(chosen)),
        "votes.png": (draw_ballots, (album.ballots(chosen),)),
        "outer_steps.png": (draw_unfoldings, (album.unfoldings(chosen),)),
        "training.png": (draw_curves, (album.curves(),)),
    }
    paths = []
    for name, (draw, contents) in pictures.items():
        if not contents[0]:
            say(f"no {name}: {_MISSING[name]}")
            continue
        paths.append(make_folder(out) / name)
        draw(*contents, paths[-1])
    return paths


class Album:
    """The record that a run of `solve` left in `folder`, and its tasks, with test outputs where they are known.

    Raises `InputError` that names the file that is missing, damaged, or of another run.
    """

    def __init__(self, folder: Path, solutions: str | Path | None = None, challenges: str | Path | None = None):
        self.report = read_json(folder / REPORT_FILE)
        if not isinstance(self.report, dict):
            raise InputError(f"{folder / REPORT_FILE}: is {shown(self.report)}, expected the report of a run")
        self.folder = folder / FOLDER
        journal = self.folder / JOURNAL_FILE
        records = read_records(journal)
        if not records:
            raise InputError(f"{journal}: is empty, no network was adapted; expected a run with a network")
        self.past = past_of(records)
        if self.past is None:
            raise InputError(f"{journal}: lacks its beginning, which says what the run was")
        tasks = _tasks_of(challenges or self._told("challenges", folder), self.past.identity["challenges"])
        self.submission = read_submission(folder / SUBMISSION_FILE, tasks.test_counts())
        self.tasks = _labelled(tasks.tasks, solutions)
        self.keys = [test_keys(self.tasks, group) for group in self.past.groups]
        self.truths = {(task.id, i): pair.output for task in self.tasks for i, pair in enumerate(task.test)}
        ledger = Ledger({}, folder / SUBMISSION_FILE, print)
        ledger.reset(self.keys)
        for key, votes in votes_of(records):
            ledger.add(key, votes)
        self.votes = ledger.votes()

    def choose(self, task_ids: list[str] | None) -> list[TestKey]:
        """Return all test inputs of the named tasks, or the first test inputs where no task is named.

        Raises `InputError` for a task that the run does not have.
        """
        for task_id in task_ids or []:
            if task_id not in {task.id for task in self.tasks}:
                raise InputError(f"task {shown_name(task_id)}: is not a task of this run")
        if task_ids:
            return [key for key in self.truths if key[0] in task_ids]
        return list(self.truths)[:_MAX_TESTS]

    def viewed(self, chosen: list[TestKey]) -> tuple[list[Task], dict]:
        """Return the tasks that have these test inputs, and the submission."""
        ids = {task_id for task_id, _ in chosen}
        submission = {
            task_id: [dict(zip(ATTEMPTS, pair)) for pair in pairs] for task_id, pairs in self.submission.items()
        }
        return [task for task in self.tasks if task.id in ids], submission

    def origins(self) -> dict[str, list[list[str]]]:
        """Return whose candidate each attempt is. The reports of earlier versions do not say that."""
        return self.report.get("attempts", {})

    def ballots(self, chosen: list[TestKey]) -> list[Ballot]:
        """Return the votes for each of the test inputs that has any."""
        found = []
        for key in chosen:
            if key in self.votes:
                candidates = self.votes[key].ranking()[:_MAX_CANDIDATES]
                right = [i for i, c in enumerate(candidates) if self._is_right(key, c.grid)]
                found.append(Ballot(_name(key), candidates, self.votes[key].count, right[0] if right else None))
        return found

    def unfoldings(self, chosen: list[TestKey]) -> list[Unfolding]:
        """Return the answers of the adapted networks to the test inputs after each outer step, in the identity view.

        A test input whose network is not there any more is left out.
        """
        found = {}
        for group, keys in enumerate(self.keys):
            wanted = [key for key in chosen if key in keys]
            if wanted and network_path(self.folder, group).exists():
                found |= self._unfold(group, wanted)
        return [found[key] for key in chosen if key in found]

    def curves(self) -> dict[str, list[Curve]]:
        """Return the loss of each group of tasks over its steps. Raises `InputError` for a damaged report."""
        try:
            curves = [_curve_of(report) for report in self.report.get("adapted", {}).get("groups", [])]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise InputError(f"{self.folder.parent / REPORT_FILE}: its groups cannot be read ({error!r})") from None
        return {"token loss": curves} if any(curve.steps for curve in curves) else {}

    def _told(self, name: str, folder: Path) -> str:
        """Return a text of the report. Raises `InputError` where the report does not have it."""
        if not isinstance(self.report.get(name), str):
            raise InputError(f"{folder / REPORT_FILE}: does not say '{name}', is not the report of a run")
        return self.report[name]

    def _is_right(self, key: TestKey, grid: np.ndarray) -> bool:
        return self.truths[key] is not None and np.array_equal(grid, self.truths[key])

    def adapted(self, group: int) -> tuple[Network, PuzzleSet, AdaptConfig] | None:
        """Return the first network of a group on the CPU in float32, its puzzles and its recipe.

        Return None if the network is not there any more.
        """
        if not network_path(self.folder, group).exists():
            return None
        identity, where = self.past.identity, str(self.folder / JOURNAL_FILE)
        model = from_dict(ModelConfig, identity["model"], where)
        recipe = from_dict(AdaptConfig, identity["recipe"], where)
        tasks = tuple(self.tasks[i].without_labels() for i in self.past.groups[group])
        puzzles = PuzzleSet(tasks, recipe, model, identity["seed"])
        return load_network(self.folder, group, model, puzzles, torch.float32), puzzles, recipe

    def _unfold(self, group: int, wanted: list[TestKey]) -> dict[TestKey, Unfolding]:
        """Run a group's adapted network on some of its test inputs."""
        network, puzzles, recipe = self.adapted(group)
        predictor, keys, found = new_predictor(network, puzzles, recipe), self.keys[group], {}
        for batch in PredictionPlan(puzzles, recipe).rounds[0]:
            rows = np.flatnonzero([keys[test] in wanted for test in batch.examples])
            if len(rows):
                found |= self._read(keys, predictor.trace(batch.rows(rows)))
        return found

    def _read(self, keys: list[TestKey], trace: list[Votes]) -> dict[TestKey, Unfolding]:
        """Return the answers of a batch by test input; `trace` has the batch's votes after each outer step."""
        inputs = {(task.id, i): pair.input for task in self.tasks for i, pair in enumerate(task.test)}
        found = {}
        for row, test in enumerate(trace[0].tests):
            key = keys[test]
            steps = [
                (step, trace[step - 1].grid(row), float(trace[step - 1].confidence[row]))
                for step in shown_steps(len(trace))
            ]
            found[key] = Unfolding(_name(key), inputs[key], steps, self.truths[key])
        return found


def _curve_of(report: dict) -> Curve:
    """Return the loss of a group over its steps, from the group's entry in the report."""
    member = f", member {report['member'] + 1}" if report.get("member") else ""
    steps = [min(LOOK_EVERY * (i + 1), report["steps"]) for i in range(len(report["losses"]))]
    return Curve(_few(report["tasks"]) + member, steps, report["losses"])


def shown_steps(last: int) -> list[int]:
    """Return the outer steps that are drawn: 1, 2, 4, ... and the last."""
    return [*(2**i for i in range((last - 1).bit_length())), last]


def pretraining_curves(path: Path) -> dict[str, list[Curve]]:
    """Return the token loss and the accuracy over the steps of a `metrics.jsonl`. Raises `InputError`."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line["step"] for line in lines]
        return {name: [Curve(name, steps, [line[name] for line in lines])] for name in ("lm_loss", "accuracy")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as the metrics of a pretraining ({error!r})") from None


def _tasks_of(source: str | Path, digest: str) -> TaskSet:
    """Return the tasks of a source. Raises `InputError` unless a run was on these, known by their digest."""
    tasks = load_set(source)
    if digest not in (digest_of(tasks.tasks), digest_of([task.without_labels() for task in tasks.tasks])):
        raise InputError(f"{source}: has other tasks than the run was on")
    return tasks


def _labelled(tasks: Iterable[Task], solutions: str | Path | None) -> tuple[Task, ...]:
    """Return the tasks with the test outputs of a solutions file, where it has them. Raises `InputError`."""
    truths = read_solutions(solutions) if solutions is not None else {}
    labelled = []
    for task in tasks:
        outputs = truths.get(task.id, [pair.output for pair in task.test])
        if len(outputs) != len(task.test):
            raise InputError(
                f"{solutions}: task {shown_name(task.id)}: has {len(outputs)} solutions for "
                f"{len(task.test)} test inputs"
            )
        labelled.append(dataclasses.replace(task, test=tuple(Pair(p.input, o) for p, o in zip(task.test, outputs))))
    return tuple(labelled)


def _name(key: TestKey) -> str:
    return f"{shown_name(key[0])} test {key[1]}"


def _few(task_ids: list[str]) -> str:
    """Return a group's name on a picture: its task, or how many tasks it has."""
    return shown_name(task_ids[0]) if len(task_ids) == 1 else f"{len(task_ids)} tasks from {shown_name(task_ids[0])} on"
