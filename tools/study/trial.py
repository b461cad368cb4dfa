"""One trial of a recipe on real tasks: learn them once, then predict and vote in one way or several, and score.

What `compare_learning` and `study` run.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
import time

import numpy as np
import torch

from hrm_offline.answers.score import Score, score_attempts
from hrm_offline.answers.submission import ATTEMPTS, Submission, build_submission, fallback_submission
from hrm_offline.answers.vote import Pool
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig, preset
from hrm_offline.data.leaks import find_leaks
from hrm_offline.data.puzzles import SHARED_ROWS, Batch, PuzzleSet
from hrm_offline.data.sets import load_set, rehearsal_tasks, size_of, smallest
from hrm_offline.data.tasks import Task, TaskSet
from hrm_offline.model.artifact import PUZZLES_FILE, Artifact, bundled_artifact, load_artifact, read_safetensors
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.device import choose_runtime
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.predict.predictor import Predictor
from hrm_offline.train.adapt import AdaptReport, adapt
from hrm_offline.train.losses import softmax_cross_entropy

BUNDLED = "bundled"
_LARGER_SIDE, _LARGER_COUNT = 10, 20
_OTHERS = "arc1-train"
_STARTS = ("mean", "zeros", "nearest")
_CANDIDATES = 32  # pretrained embeddings that a probe tries

Pools = dict[tuple[str, int], Pool]  # by (task id, index of its test input)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is learned. `changes` are settings of the recipe or the network, as JSON values by name; and where it begins
    with pretrained weights `artifact` (a folder, or "bundled") and `start`; `alone`: each task by a network of its own;
    `others`: so many further tasks that are learned along; `visits_times`: so many times the visits."""

    changes: dict
    seed: int
    preset: str
    tasks: str
    visits: int

    @property
    def key(self) -> dict:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """Networks, each with the tasks that it has learned and how that went, and the core-seconds it took in all."""

    networks: list[tuple[RecursiveModel, PuzzleSet, AdaptReport]]
    recipe: AdaptConfig
    seconds: float

    def about(self) -> dict:
        """The numbers of a trial's line: steps, examples (a sequence for one outer step), core-seconds, token loss at
        the end and before half of the steps (NaN without any), and a network's parameters."""
        reports = [report for _, _, report in self.networks]
        return {
            "steps": sum(report.steps for report in reports),
            "examples": sum(report.examples for report in reports),
            "seconds": round(self.seconds, 1),
            "loss": round(statistics.mean(report.loss for report in reports), 4),
            "half": round(statistics.mean(_loss_at(report.losses, 0.5) for report in reports), 4),
            "parameters": sum(parameter.numel() for parameter in self.networks[0][0].parameters()),
        }


# ----- which tasks


def tasks_of(name: str) -> tuple[Task, ...]:
    """The rehearsal's set, the one of larger grids, or some of a set by rank; all by sizes alone.
    Raises `InputError`, also for a task whose test outputs are not known."""
    if name == "small":
        return rehearsal_tasks()
    if name == "larger":
        tasks = load_set("arc1-train").require_good()
        return tuple(smallest((task for task in tasks if size_of(task)[0] >= _LARGER_SIDE), _LARGER_COUNT))
    ranks = re.fullmatch(r"(.+):(\d+):(\d+)", name)
    tasks = smallest(load_set(ranks[1]).require_good(), int(ranks[3]))[int(ranks[2]) :] if ranks else []
    if not tasks:
        raise InputError(f"set '{name}' is none, expected small, larger or SET:FIRST:LAST with a task between the two")
    for task in tasks:
        if any(pair.output is None for pair in task.test):
            raise InputError(
                f"set '{name}': task {shown_name(task.id)}: has a test input without output, expected "
                "labels to score against"
            )
    return tuple(tasks)


def other_tasks(tasks: tuple[Task, ...], count: int) -> tuple[Task, ...]:
    """The `count` smallest ARC-AGI-1 training tasks that share no pair, in any view, with `tasks`; all of their pairs
    are demonstrations. Raises `InputError` where there are not so many."""
    found = smallest(load_set(_OTHERS).require_good(), None)
    leaked = {leak.id for leak in find_leaks(found, tasks)}
    others = [task for task in found if task.id not in leaked][:count]
    if len(others) < count:
        raise InputError(f"others is {count}, but {_OTHERS} has {len(others)} tasks that are not among those studied")
    return tuple(Task(f"other-{task.id}", (*task.train, *task.test), ()) for task in others)


# ----- learning


def configs_of(trial: Trial, where: str) -> tuple[ModelConfig, AdaptConfig, Artifact | None]:
    """The preset's network and recipe, or the artifact's and the preset's recipe for it, with the changes.
    Raises `InputError`, which begins with `where`, for one that is neither's."""
    changes = dict(trial.changes)
    folder, start = changes.pop("artifact", None), changes.pop("start", "mean")
    times = changes.pop("visits_times", 1)
    for name in ("alone", "others"):
        changes.pop(name, None)
    if start not in _STARTS:
        raise InputError(f"{where}: start is '{start}', expected one of {', '.join(_STARTS)}")
    if folder == BUNDLED:
        folder = bundled_artifact(trial.preset)
        if folder is None:
            raise InputError(f"{where}: no artifact comes with the package for {trial.preset}")
    chosen, artifact = preset(trial.preset), None if folder is None else load_artifact(folder)
    model = dataclasses.asdict(artifact.config if artifact else chosen.model)
    recipe = dataclasses.asdict(chosen.recipe(artifact is not None)) | {"visits": times * trial.visits}
    if artifact is not None:
        pairs = artifact.config.context_pairs or recipe["context_pairs"]
        recipe |= {"conditioning": artifact.conditioning, "context_pairs": pairs}
    for name, value in changes.items():
        (model if name in model and name not in recipe else recipe)[name] = value
    adapt_config = from_dict(AdaptConfig, recipe, where)
    return from_dict(ModelConfig, model, where).conditioned(adapt_config), adapt_config, artifact


def learn(trial: Trial, tasks: tuple[Task, ...]) -> Learned:
    """Learn the tasks' demonstrations, on a GPU if there is one, else on one thread. Raises `InputError`."""
    torch.set_num_threads(1)
    torch.manual_seed(trial.seed)
    configs = configs_of(trial, "trial")
    unlabelled = tuple(task.without_labels() for task in tasks)
    unlabelled += other_tasks(tasks, trial.changes.get("others", 0))
    groups = [(task,) for task in unlabelled] if trial.changes.get("alone") else [unlabelled]
    started = busy_seconds()
    networks = [_learn_together(trial, group, *configs) for group in groups]
    return Learned(networks, configs[1], busy_seconds() - started)


def busy_seconds() -> float:
    """Core-seconds of this process so far, which another one beside it does not change; where a GPU does the work, a
    clock's."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _learn_together(
    trial: Trial, tasks: tuple[Task, ...], model_config: ModelConfig, recipe: AdaptConfig, artifact: Artifact | None
) -> tuple[RecursiveModel, PuzzleSet, AdaptReport]:
    puzzles, runtime = PuzzleSet(tasks, recipe, model_config, trial.seed), choose_runtime()
    model = (
        artifact.build(puzzles.num_rows, runtime.dtype)
        if artifact
        else RecursiveModel(model_config, puzzles.num_rows, runtime.dtype)
    )
    model = model.to(runtime.device)
    _start_embeddings(model, puzzles, artifact, trial.changes.get("start", "mean"))
    report = adapt(model, puzzles, recipe, Budget(1e9), trial.seed, pretrained=artifact is not None)
    return model, puzzles, report


def _loss_at(losses: tuple[float, ...], share: float) -> float:
    """Mean over the tenth of the run before that share of it, NaN where nothing was learned."""
    last = max(1, round(share * len(losses)))
    return statistics.mean(losses[max(0, last - max(1, len(losses) // 10)) : last] or [math.nan])


@torch.inference_mode()
def _start_embeddings(model: RecursiveModel, puzzles: PuzzleSet, artifact: Artifact | None, start: str) -> None:
    """Set the rows of new puzzles, which are at the artifact's mean, elsewhere (factored conditioning)."""
    if start == "zeros":
        model.puzzle_emb.weights[SHARED_ROWS:] = 0
    elif start == "nearest":
        pretrained = read_safetensors(artifact.folder / PUZZLES_FILE)["puzzle_emb.weights"][SHARED_ROWS:]
        candidates = pretrained[:: -(-len(pretrained) // _CANDIDATES)]
        losses = torch.stack([_demonstration_losses(model, puzzles, candidate) for candidate in candidates])
        model.puzzle_emb.weights[SHARED_ROWS:] = candidates[losses.argmin(0)]


def _demonstration_losses(model: RecursiveModel, puzzles: PuzzleSet, row: torch.Tensor) -> torch.Tensor:
    """Token loss of each puzzle's demonstrations, summed, if all had this embedding: one outer step of plain views."""
    model.puzzle_emb.weights[SHARED_ROWS:] = row
    maker, examples = BatchMaker(puzzles, puzzles.demonstrations, model.device), puzzles.demonstrations
    losses = torch.zeros(len(puzzles.tasks))
    for bucket in puzzles.buckets(examples):
        owners = examples.puzzles[bucket.members]
        corners = np.zeros((len(owners), 2), dtype=np.int64)
        plan = np.column_stack([bucket.members, puzzles.first_view[owners], corners]).astype(np.int32)
        sequences = maker.make(Batch(0, bucket.canvas, plan))
        states = model.initial_states(len(plan), bucket.canvas)
        output = model(
            *states,
            sequences.inputs,
            model.puzzle_vectors(sequences.puzzle_identifiers),
            bucket.canvas,
            sequences.cells,
        )[2]
        lost = softmax_cross_entropy(output.logits, sequences.labels).mean(1)
        losses.index_add_(0, torch.from_numpy(owners), lost.cpu())
    return losses


# ----- prediction


def predict(learned: Learned, changes: dict | None = None) -> tuple[Pools, int]:
    """The votes of all test inputs, under the recipe with some settings of prediction changed, and the outer steps
    computed for them, summed over sequences."""
    recipe = from_dict(AdaptConfig, dataclasses.asdict(learned.recipe) | (changes or {}), "prediction")
    found: Pools = {}
    steps = 0
    for model, puzzles, _ in learned.networks:
        predictor, plan = Predictor(model, puzzles, recipe), PredictionPlan(puzzles, recipe)
        pools: dict[int, Pool] = {}
        for batches in plan.rounds:
            for batch in batches:
                predictor.predict(batch).add_to(pools)
        found |= {plan.keys[test]: pool for test, pool in pools.items()}
        steps += predictor.sequence_steps
    return found, steps


def score_votes(votes: Pools, tasks: tuple[Task, ...]) -> Score:
    """The score of the two best grids of each test input, with the null baseline's where there are not two."""
    return _score(build_submission(_null_submission(tasks), votes), tasks)


def null_score(tasks: tuple[Task, ...]) -> Score:
    """What the commonest demonstrated outputs score."""
    return _score(_null_submission(tasks), tasks)


def _null_submission(tasks: tuple[Task, ...]) -> Submission:
    return fallback_submission(TaskSet("trial", tasks))


def _score(submission: Submission, tasks: tuple[Task, ...]) -> Score:
    attempts = {
        task_id: [[np.array(entry[name]) for name in ATTEMPTS] for entry in entries]
        for task_id, entries in submission.items()
    }
    return score_attempts(attempts, {task.id: [pair.output for pair in task.test] for task in tasks})
