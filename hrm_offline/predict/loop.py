"""Predict and vote: the whole prediction of a puzzle set in one call, for use from Python.

    puzzles = PuzzleSet(tasks, recipe, model.config, seed=0)
    adapt(model, puzzles, recipe, Budget(60), seed=0, pretrained=True)
    votes = predict_votes(model, puzzles, recipe)
    submission = build_submission(fallback_submission(task_set), votes)

`solve` does the same batch by batch in its workers, because it has to be able to stop between two batches.
"""

from __future__ import annotations

from itertools import chain, islice

import numpy as np

from hrm_offline.answers.vote import Pool, TestKey, key_of
from hrm_offline.config import AdaptConfig
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.model.network import Network
from hrm_offline.predict.decoding import AnyPredictor, DecoderPredictor, new_predictor
from hrm_offline.predict.plan import PredictionPlan


def predict_votes(model: Network, puzzles: PuzzleSet, recipe: AdaptConfig) -> dict[TestKey, Pool]:
    """Predict every test input of a puzzle set in all the views that the recipe votes with.

    Returns the votes for each test input by (task id, index of the test input), as `build_submission` takes them.
    `Pool.ranking` orders the candidates among them. A decoder has judged those with most votes.
    """
    predictor, plan = new_predictor(model, puzzles, recipe), PredictionPlan(puzzles, recipe)
    votes = collect_votes(predictor, plan)
    if model.config.is_decoder:
        _judge(predictor, [votes[key] for key in plan.keys])
    return votes


def _judge(predictor: DecoderPredictor, pools: list[Pool]) -> None:
    """Give the candidates for each test input that have most votes their scores; `pools` are by test input."""
    judged = [(test, grid) for test, pool in enumerate(pools) for grid in pool.unjudged()]
    if judged:
        tests, grids = zip(*judged)
        for test, grid, score in zip(tests, grids, predictor.judge(np.array(tests), list(grids))):
            pools[test].scores[key_of(grid)] = float(score)


def collect_votes(predictor: AnyPredictor, plan: PredictionPlan, max_batches: int | None = None) -> dict[TestKey, Pool]:
    """Predict the batches of a plan, or the first `max_batches` of them, and return the votes by test input.

    For callers that also want the predictor's count of steps, or only a part of the plan.
    """
    pools: dict[int, Pool] = {}
    for batch in islice(chain.from_iterable(plan.rounds), max_batches):
        predictor.predict(batch).add_to(pools)
    return {plan.keys[test]: pool for test, pool in pools.items()}
