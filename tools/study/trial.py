"""One trial of a recipe on real tasks: learn them once, then predict and vote in one way or several, and score.

`compare_learning.py` and `study.py` run trials.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import statistics
import time

import numpy as np
import torch

from hrm_offline.answers.score import Score, score_attempts
from hrm_offline.answers.submission import ATTEMPTS, Submission, build_submission, fallback_submission
from hrm_offline.answers.vote import Pool, TestKey
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.companions import Companions, choose_companions, load_companions
from hrm_offline.data.puzzles import SHARED_ROWS, Batch, PuzzleSet
from hrm_offline.data.sets import load_set, rehearsal_tasks, size_of, smallest
from hrm_offline.data.tasks import Task, TaskSet
from hrm_offline.model.artifact import PUZZLES_FILE, Artifact, bundled_artifact, load_artifact, read_safetensors
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.device import choose_runtime
from hrm_offline.model.network import Network, build_network
from hrm_offline.predict.decoding import new_predictor
from hrm_offline.predict.loop import collect_votes
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.presets import preset
from hrm_offline.solve.start import task_costs
from hrm_offline.train.adapt import AdaptReport, adapt
from hrm_offline.train.companions import CompanionPuzzles
from hrm_offline.train.losses import softmax_cross_entropy
from tools.study.test_loss import test_losses

BUNDLED = "bundled"
_LARGER_SIDE, _LARGER_COUNT = 10, 20  # the set "larger": sides from 10 on, 20 tasks
_PART = re.compile(r"(.+?):(\d+):(\d+)(?:\+(?=.)|$)")  # SET:FIRST:LAST, and what joins it to the next
_OTHERS = "arc1-train"  # where the setting "others" takes its tasks from
_VISITS, _NO_LIMIT = 300, 10**6
_STARTS = ("mean", "zeros", "nearest")
_CANDIDATES = 32  # pretrained embeddings that "nearest" tries
# Settings of a trial that are neither the recipe's nor the network's.
_TRIAL_SETTINGS = ("artifact", "start", "alone", "others", "along", "visits_times")

Pools = dict[TestKey, Pool]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A learning that is tried: which tasks, with which preset and seed, each demonstration offered `visits` times.

    With `core_seconds`, all networks of the trial learn for so many core-seconds together, and the learning-rate
    schedule spans them. The visits are then a ceiling.

    `changes` are JSON values by name. They are settings of the recipe or of the network, or
    - `artifact`: a folder of pretrained weights to begin with, or "bundled" for those of the package;
    - `start`: where the embeddings of new puzzles begin then: "mean" (the artifact's own way), "zeros" or "nearest";
    - `alone`: each task gets a network of its own;
    - `along`: a set whose tasks are learned along in place of the recipe's, as by `solve --along`, or some of its tasks
      as "SET:FIRST:LAST"; an empty text for none;
    - `others`: how many of ARC-AGI-1's training tasks are learned along, each pair as often as those of the tasks;
    - `visits_times`: by what the visits are multiplied.
    """

    changes: dict
    seed: int
    preset: str
    tasks: str
    visits: int
    core_seconds: float | None = None

    @property
    def key(self) -> dict:
        """The fields by name, which tell this trial from others in a file of results."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """Networks, each with the puzzles that it has learned and the report on that, and the core-seconds of all."""

    networks: list[tuple[Network, PuzzleSet, AdaptReport]]
    recipe: AdaptConfig
    seconds: float

    def about(self) -> dict:
        """Return the numbers of a trial's line.

        Steps, examples (one is a sequence for one outer step), core-seconds, the token loss at the end (`loss`) and
        before half of the steps (`half`), each NaN where nothing was learned, and the parameters of one network.
        """
        reports = [report for _, _, report in self.networks]
        return {
            "steps": sum(report.steps for report in reports),
            "examples": sum(report.examples for report in reports),
            "seconds": round(self.seconds, 1),
            "loss": round(statistics.mean(report.loss for report in reports), 4),
            "half": round(statistics.mean(_loss_at(report.losses, 0.5) for report in reports), 4),
            "parameters": sum(parameter.numel() for parameter in self.networks[0][0].parameters()),
        }


# ----- how long


def add_length(parser: argparse.ArgumentParser) -> None:
    """Add `--visits` and `--core-seconds`, which say how long every trial learns."""
    parser.add_argument(
        "--visits",
        type=int,
        metavar="N",
        help=f"how often each demonstration is offered (default: {_VISITS}; no limit with --core-seconds)",
    )
    parser.add_argument(
        "--core-seconds", type=float, metavar="S", help="learn so many core-seconds per run (default: all visits)"
    )


def visits_of(options: argparse.Namespace) -> int:
    """Return the visits that the flags of `add_length` ask for. Raises `InputError` for core-seconds below 0."""
    if options.core_seconds is not None and not options.core_seconds > 0:
        raise InputError(f"--core-seconds is {options.core_seconds:g}, expected more than 0")
    if options.visits is None:
        return _NO_LIMIT if options.core_seconds else _VISITS
    return options.visits


# ----- which tasks


def tasks_of(name: str) -> tuple[Task, ...]:
    """Return the tasks of a name: "small" (the rehearsal's), "larger" (larger grids), or "SET:FIRST:LAST".

    "SET:FIRST:LAST" is the tasks of a set from rank FIRST up to LAST, the smallest first. Several are joined by "+".
    All are chosen by sizes alone. Raises `InputError`, also for a task whose test outputs are not known, and for two
    tasks of one id.
    """
    if name == "small":
        return rehearsal_tasks()
    if name == "larger":
        tasks = load_set("arc1-train").require_good()
        return tuple(smallest((task for task in tasks if size_of(task)[0] >= _LARGER_SIDE), _LARGER_COUNT))
    ranked = _ranked(name, needs_tests=True)
    if not ranked or not all(ranked):
        raise InputError(
            f"set '{name}' is none, expected small, larger or SET:FIRST:LAST with a task between the two, or some "
            "joined by +"
        )
    tasks: dict[str, Task] = {}
    for task in (task for part in ranked for task in part):
        if task.id in tasks:
            raise InputError(
                f"set '{name}': two tasks have the id {shown_name(task.id)}, expected sets without repeats"
            )
        if any(pair.output is None for pair in task.test):
            raise InputError(
                f"set '{name}': task {shown_name(task.id)}: has a test input without output, expected "
                "labels to score against"
            )
        tasks[task.id] = task
    return tuple(tasks.values())


def _ranked(name: str, needs_tests: bool) -> list[list[Task]]:
    """Return the tasks of each "SET:FIRST:LAST" that a name joins by "+"; no list where it has another form.

    `needs_tests` is as for `load_set`.
    """
    parts = list(_PART.finditer(name))
    if "".join(part[0] for part in parts) != name:
        return []
    return [
        smallest(load_set(part[1], needs_tests=needs_tests).require_good(), int(part[3]))[int(part[2]) :]
        for part in parts
    ]


def companions_of(changes: dict, tasks: tuple[Task, ...], usual: tuple[str, ...] = ()) -> Companions | None:
    """Return the tasks that a trial on `tasks` learns along with them, by its `changes`; None where there are none.

    Without such a change they are those of the sets `usual`. What is among `tasks` is left out. Raises `InputError`
    where that leaves no task, or fewer than `others`, and where both are asked for.
    """
    name, others = changes.get("along", ""), changes.get("others", 0)
    if not isinstance(name, str) or type(others) is not int or others < 0 or (name and others):
        raise InputError(
            f"along is {shown(name)} and others is {shown(others)}, expected the name of a set, a number of tasks, or "
            "neither"
        )
    if others:
        found = choose_companions(smallest(load_set(_OTHERS).require_good(), None), tasks)
        if len(found.tasks) < others:
            raise InputError(
                f"others is {others}, but {_OTHERS} has {len(found.tasks)} tasks that are not among those studied"
            )
        return dataclasses.replace(found, tasks=found.tasks[:others])
    if "along" not in changes:
        return load_companions(usual, tasks) if usual else None
    if not name:
        return None
    ranked = [task for part in _ranked(name, needs_tests=False) for task in part]
    found = choose_companions(ranked or load_set(name, needs_tests=False).require_some(), tasks)
    if not found.tasks:
        raise InputError(f"along is '{name}', which has no task that is not among those studied")
    return found


# ----- learning


def configs_of(trial: Trial, where: str) -> tuple[ModelConfig, AdaptConfig, Artifact | None]:
    """Return the network's settings, the recipe, and the artifact where the trial begins with one.

    They are the preset's, or the artifact's and the preset's recipe for pretrained weights, with the trial's changes.
    Raises `InputError`, which begins with `where`, for a change that is a setting of neither, and for one of the
    network where the trial begins with an artifact.
    """
    folder, start = trial.changes.get("artifact"), trial.changes.get("start", "mean")
    if start not in _STARTS:
        raise InputError(f"{where}: start is '{start}', expected one of {', '.join(_STARTS)}")
    if folder == BUNDLED:
        folder = bundled_artifact(trial.preset)
        if folder is None:
            raise InputError(f"{where}: no artifact comes with the package for {trial.preset}")
    chosen, artifact = preset(trial.preset), None if folder is None else load_artifact(folder)
    model = dataclasses.asdict(artifact.config if artifact else chosen.model)
    visits = trial.changes.get("visits_times", 1) * trial.visits
    recipe = dataclasses.asdict(chosen.recipe(artifact is not None)) | {"visits": visits}
    if artifact is not None:
        pairs = artifact.config.context_pairs or recipe["context_pairs"]
        recipe |= {"conditioning": artifact.conditioning, "context_pairs": pairs}
    for name, value in trial.changes.items():
        if name not in _TRIAL_SETTINGS:
            # A setting that both have (context_pairs) is the recipe's; `conditioned` tells the network.
            is_of_network = name in model and name not in recipe
            if is_of_network and artifact is not None:
                raise InputError(f"{where}: {name} is a setting of the network, and the artifact {folder} has its own")
            (model if is_of_network else recipe)[name] = value
    adapt_config = from_dict(AdaptConfig, recipe, where)
    model_config = from_dict(ModelConfig, model, where).conditioned(adapt_config)
    return model_config, adapt_config, artifact and artifact.conditioned(adapt_config)


def learn(trial: Trial, tasks: tuple[Task, ...]) -> Learned:
    """Learn the demonstrations of the tasks, on a GPU if there is one, else on one thread. Raises `InputError`."""
    torch.set_num_threads(1)
    torch.manual_seed(trial.seed)
    configs = configs_of(trial, "trial")
    unlabelled = tuple(task.without_labels() for task in tasks)
    companions = companions_of(trial.changes, tasks, configs[1].along)
    groups = [(task,) for task in unlabelled] if trial.changes.get("alone") else [unlabelled]
    started = busy_seconds()
    budget = (trial.core_seconds or math.inf) / len(groups)
    networks = [_learn_together(trial, group, companions, budget, *configs) for group in groups]
    return Learned(networks, configs[1], busy_seconds() - started)


def busy_seconds() -> float:
    """Return the core-seconds of this process so far, which do not depend on other processes beside it.

    Where a GPU does the work they would be too few, so there the seconds are a clock's.
    """
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _learn_together(
    trial: Trial,
    tasks: tuple[Task, ...],
    companions: Companions | None,
    seconds: float,
    model_config: ModelConfig,
    recipe: AdaptConfig,
    artifact: Artifact | None,
) -> tuple[Network, PuzzleSet, AdaptReport]:
    """Return a network that has learned the tasks and their companions, the puzzles of the tasks alone, the report."""
    if trial.changes.get("others"):
        recipe = _with_equal_visits(recipe, tasks, companions, model_config)
    puzzles, runtime = PuzzleSet(tasks, recipe, model_config, trial.seed), choose_runtime()
    beside = companions and CompanionPuzzles(companions, recipe, model_config, artifact, print)
    learned = beside.join(puzzles) if beside else puzzles
    model = (
        artifact.build(learned.num_rows, runtime.dtype)
        if artifact
        else build_network(model_config, learned.num_rows, runtime.dtype)
    )
    model = model.to(runtime.device)
    _start_embeddings(model, learned, artifact, trial.changes.get("start", "mean"))
    if beside:
        beside.start_embeddings(model, learned, puzzles.num_rows)
    budget = Budget(seconds, clock=busy_seconds)
    report = adapt(model, learned, recipe, budget, trial.seed, pretrained=artifact is not None)
    return model, puzzles, report


def _with_equal_visits(
    recipe: AdaptConfig, tasks: tuple[Task, ...], companions: Companions, model: ModelConfig
) -> AdaptConfig:
    """Return the recipe with that share by which the pairs of companions come as often as those of the tasks."""
    own, along = (task_costs(PuzzleSet(part, recipe, model, 0)).sum() for part in (tasks, companions.tasks))
    return dataclasses.replace(recipe, along_share=float(along / (own + along)))


def _loss_at(losses: tuple[float, ...], share: float) -> float:
    """Return the mean loss over the tenth of the run before that share of it, NaN where nothing was learned."""
    last = max(1, round(share * len(losses)))
    tenth = max(1, len(losses) // 10)
    return statistics.mean(losses[max(0, last - tenth) : last] or [math.nan])


@torch.inference_mode()
def _start_embeddings(model: Network, puzzles: PuzzleSet, artifact: Artifact | None, start: str) -> None:
    """Move the rows of new puzzles, which begin at the artifact's mean (factored conditioning).

    "nearest" gives each puzzle that one of some pretrained rows whose loss on its demonstrations is least.
    """
    if start == "zeros":
        model.puzzle_emb.weights[SHARED_ROWS:] = 0
    elif start == "nearest":
        pretrained = read_safetensors(artifact.folder / PUZZLES_FILE)["puzzle_emb.weights"][SHARED_ROWS:]
        every = -(-len(pretrained) // _CANDIDATES)
        candidates = pretrained[::every]
        losses = torch.stack([_demonstration_losses(model, puzzles, candidate) for candidate in candidates])
        model.puzzle_emb.weights[SHARED_ROWS:] = candidates[losses.argmin(0)]


def _demonstration_losses(model: Network, puzzles: PuzzleSet, row: torch.Tensor) -> torch.Tensor:
    """Return the token loss of each puzzle's demonstrations, float32 [puzzles], if all puzzles had this embedding.

    It is summed over the demonstrations, after one outer step in the identity view.
    """
    model.puzzle_emb.weights[SHARED_ROWS:] = row
    maker, examples = BatchMaker(puzzles, puzzles.demonstrations, model.device), puzzles.demonstrations
    losses = torch.zeros(len(puzzles.tasks))
    for bucket in puzzles.buckets(examples):
        owners = examples.puzzles[bucket.members]
        batch = Batch.of(0, bucket.canvas, bucket.members, puzzles.first_view[owners])
        sequences = maker.make(batch)
        z_H, z_L = model.initial_states(len(batch), bucket.canvas)
        vectors = model.puzzle_vectors(sequences.puzzle_identifiers)
        _, _, output = model(z_H, z_L, sequences.inputs, vectors, bucket.canvas, sequences.cells)
        lost = softmax_cross_entropy(output.logits, sequences.labels).mean(1)  # [B]
        losses.index_add_(0, torch.from_numpy(owners), lost.cpu())
    return losses


# ----- prediction


def test_losses_of(learned: Learned, tasks: tuple[Task, ...], changes: dict | None = None) -> dict[str, float]:
    """Return the test loss of each task, by id (see `test_losses`). `changes` are those of `predict`."""
    found, recipe = {}, _predicting(learned, changes)
    for model, puzzles, _ in learned.networks:
        known = {task.id for task in puzzles.tasks}
        found |= test_losses(model, puzzles, recipe, tuple(task for task in tasks if task.id in known))
    return found


def predict(learned: Learned, changes: dict | None = None) -> tuple[Pools, int]:
    """Return the votes of all test inputs, and the outer steps computed for them, summed over sequences.

    `changes` are settings of prediction that differ from the recipe's.
    """
    recipe = _predicting(learned, changes)
    votes: Pools = {}
    steps = 0
    for model, puzzles, _ in learned.networks:
        predictor = new_predictor(model, puzzles, recipe)
        votes |= collect_votes(predictor, PredictionPlan(puzzles, recipe))
        steps += predictor.sequence_steps
    return votes, steps


def _predicting(learned: Learned, changes: dict | None) -> AdaptConfig:
    """Return the recipe with changes of prediction."""
    return from_dict(AdaptConfig, dataclasses.asdict(learned.recipe) | (changes or {}), "prediction")


def score_votes(votes: Pools, tasks: tuple[Task, ...]) -> Score:
    """Return the score of the two best grids of each test input; the null baseline's fill in where there are fewer."""
    return _score(build_submission(_null_submission(tasks), votes), tasks)


def null_score(tasks: tuple[Task, ...]) -> Score:
    """Return the score of the null baseline: the commonest demonstrated outputs."""
    return _score(_null_submission(tasks), tasks)


def _null_submission(tasks: tuple[Task, ...]) -> Submission:
    return fallback_submission(TaskSet("trial", tasks))


def _score(submission: Submission, tasks: tuple[Task, ...]) -> Score:
    attempts = {
        task_id: [[np.array(entry[name]) for name in ATTEMPTS] for entry in entries]
        for task_id, entries in submission.items()
    }
    return score_attempts(attempts, {task.id: [pair.output for pair in task.test] for task in tasks})
