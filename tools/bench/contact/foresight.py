"""Stages that adapt and predict in this process: `predict` (the probe beside the truth) and `curve`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hrm_offline.answers.score import Score, score_attempts
from hrm_offline.answers.submission import ATTEMPTS, build_submission, fallback_submission
from hrm_offline.answers.vote import Pool, TestKey
from hrm_offline.common.files import make_folder, write_json
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import Task, TaskSet, parse_grid, to_challenges
from hrm_offline.model.artifact import bundled_artifact, load_artifact
from hrm_offline.model.network import build_network
from hrm_offline.predict.decoding import new_predictor
from hrm_offline.predict.plan import BASE_ROUNDS, PredictionPlan
from hrm_offline.presets import PRESETS
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.messages import Adapt, Predict, Setup
from hrm_offline.solve.options import SolveOptions
from hrm_offline.train.adapt import Adaptation
from tools.bench.contact.contact import Contact

# The engine bounds its self-test and its probe by it. With a Kaggle run's 150 s they took all of this stage.
_SECONDS_PER_TASK = 40.0
_RESERVE_SECONDS = 10.0  # kept back for the last batch of prediction
# The networks of the curve: a preset, and whether its bundled artifact is adapted or random weights are.
_ARMS = (("decoder-4m", True), ("decoder-75m", False), ("hrm-27m", False))
_LOOKS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # shares of an adaptation's time after which its score is taken


def foresee_prediction(contact: Contact) -> None:
    """Compare the seconds that the probe foresees with those that real prediction takes. The network is untrained."""
    tasks, folder = contact.tasks("mixed"), make_folder(contact.folder / "predict")
    challenges = folder / "challenges.json"
    write_json(challenges, to_challenges(tasks))
    options = SolveOptions(
        challenges,
        folder,
        preset=contact.preset,
        device=contact.device.type,
        overrides={"visits": 0},
    )
    until = contact.until - contact.pick(_RESERVE_SECONDS, 0.0)
    engine = Engine(Setup(options, folder, contact.pick(_SECONDS_PER_TASK, 0.1)), time.monotonic, print)
    probed = engine.seconds_per_cost
    contact.add("probe", **{"microseconds per unit of cost": 1e6 * probed, "rows per step": engine.rows_per_step})
    everything = tuple(range(len(tasks)))
    for _ in engine.adapt(Adapt(0, everything, until)):
        pass
    plan = engine.plan_of(PuzzleSet(tuple(engine.tasks), engine.choice.recipe, engine.choice.model, options.seed))
    tokens = seconds = cost = 0.0
    for number in range(contact.pick(len(plan.rounds), 1)):
        batches = tuple(range(len(plan.rounds[number])))
        for voted in engine.predict(Predict(0, everything, number, batches, until)):
            tokens, seconds = tokens + voted.tokens, seconds + voted.seconds
            cost += plan.cost_of(plan.rounds[number][voted.key[2]])
    if not tokens:
        raise RuntimeError("no batch was predicted in the time of this stage")
    contact.add(
        "prediction",
        tokens=tokens,
        seconds=seconds,
        **{"tokens/s": tokens / seconds, "probe by truth": probed * cost / seconds},
    )


@dataclass
class _Pausing:
    """A clock that stands still during pauses."""

    paused: float = 0.0

    def __call__(self) -> float:
        return time.perf_counter() - self.paused


def draw_curve(contact: Contact) -> None:
    """Adapt each network of the curve in its share of the time, and write its score by GPU-seconds.

    Half of a share may go into prediction. Scores before the last are of a schedule that is still under way: the
    averaged weights predict, but the learning rate has not fallen yet.
    """
    arms = contact.pick(_ARMS, _ARMS[:1])
    for index, (name, pretrained) in enumerate(arms):
        share = (contact.left() - contact.pick(_RESERVE_SECONDS, 0.0)) / (len(arms) - index)
        if share > 0:
            _draw_arm(contact, name, pretrained, contact.pick(share, 0.5))


def _draw_arm(contact: Contact, name: str, pretrained: bool, share: float) -> None:
    """Adapt one network for half of `share` seconds. Predict its tasks at each look, in the other half."""
    tasks, began = contact.tasks("small"), time.monotonic()
    recipe = PRESETS[name].recipe(pretrained)
    torch.manual_seed(0)
    if pretrained:
        artifact = load_artifact(bundled_artifact(name)).conditioned(recipe)
        puzzles = PuzzleSet(tasks, recipe, artifact.config, seed=0)
        model = artifact.build(puzzles.num_rows, contact.runtime.dtype)
    else:
        puzzles = PuzzleSet(tasks, recipe, PRESETS[name].model, seed=0)
        model = build_network(PRESETS[name].model, puzzles.num_rows, contact.runtime.dtype)
    model = model.to(contact.device)
    adaptation = Adaptation.of_model(model, puzzles, recipe, 0, pretrained)
    clock = _Pausing()
    start = clock()
    adaptation.clock, adaptation.until = clock, start + share / 2
    looks = [start + part * share / 2 for part in _LOOKS]

    def look() -> None:
        contact.wait()
        stopped = time.perf_counter()
        gpu_seconds = clock() - start
        score, rounds = _score_now(adaptation, puzzles, recipe, tasks, began + share)
        row = {
            "network": f"{name}, {'pretrained' if pretrained else 'random weights'}",
            "GPU-seconds": gpu_seconds,
            "steps": adaptation.learner.step,
            "planned steps": adaptation.planned,
            "loss": adaptation.losses[-1] if adaptation.losses else None,
            "points": score.task_points(2),
            "solved": len(score.solved),
            "tasks": len(tasks),
            "rounds voted": rounds,
        }
        contact.add("curve", **row)
        clock.paused += time.perf_counter() - stopped

    looked_at = 0
    for step in adaptation.run():
        if looks and clock() >= looks[0]:
            looks = [time_of_look for time_of_look in looks if time_of_look > clock()]
            looked_at = step
            look()
    if looked_at != adaptation.learner.step:
        look()


def _score_now(
    adaptation: Adaptation, puzzles: PuzzleSet, recipe: AdaptConfig, tasks: tuple[Task, ...], until: float
) -> tuple[Score, int]:
    """Predict the dihedral views with the averaged weights, and go on with learning's weights afterwards.

    Returns the score and the rounds that were predicted. No round is begun after `until`.
    """
    ema = adaptation.learner.ema
    if ema and adaptation.learner.step:
        ema.swap()
    predictor, plan = new_predictor(adaptation.learner.model, puzzles, recipe), PredictionPlan(puzzles, recipe)
    pools: dict[int, Pool] = {}
    rounds = 0
    for batches in plan.rounds[:BASE_ROUNDS]:
        if rounds and time.monotonic() > until:
            break
        for batch in batches:
            predictor.predict(batch).add_to(pools)
        rounds += 1
    if ema and adaptation.learner.step:
        ema.swap()
    votes: dict[TestKey, Pool] = {plan.keys[test]: pool for test, pool in pools.items()}
    hidden = TaskSet("small", tuple(task.without_labels() for task in tasks))
    submission = build_submission(fallback_submission(hidden), votes)
    attempts = {
        task_id: [[parse_grid(entry[name]) for name in ATTEMPTS] for entry in entries]
        for task_id, entries in submission.items()
    }
    return score_attempts(attempts, {task.id: [pair.output for pair in task.test] for task in tasks}), rounds
