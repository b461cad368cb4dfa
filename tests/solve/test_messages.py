"""Test that messages arrive in another process as they were sent."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from hrm_offline.answers.vote import Votes
from hrm_offline.presets import PRESETS
from hrm_offline.solve.messages import (
    Adapt,
    Adapted,
    Beat,
    Done,
    Failed,
    Lost,
    NetworkChoice,
    Predict,
    Quit,
    Say,
    Setup,
    Until,
    Voted,
)
from hrm_offline.solve.options import SolveOptions

SMALL = PRESETS["hrm-132k"]
NETWORK = NetworkChoice(SMALL.model, SMALL.adapt, None)


@pytest.mark.parametrize(
    "message",
    [
        Setup(SolveOptions(Path("tasks.json"), Path("out"), overrides={"visits": 3}), Path("out"), 1.0, NETWORK),
        Adapt(1, (0, 4), 60.0, rank=1, size=2, meeting="file"),
        Predict(1, (0, 4), 0, (2, 3), 90.0),
        Until(80.0),
        Quit(),
        Say("a line"),
        Beat(5, 100, 40, 0.5),
        Adapted(1, {"steps": 100}, True, 7),
        Done(),
        Failed("memory", "CUDA out of memory"),
        Lost(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_survives_the_way_to_another_process(message):
    assert pickle.loads(pickle.dumps(message)) == message


def test_votes_survive_the_way_to_another_process():
    votes = Votes(np.array([3]), np.array([[1, 2]]), np.array([[[5, 6], [0, 0]]], np.uint8), np.array([0.5]))
    arrived = pickle.loads(pickle.dumps(Voted((0, 1, 2), votes, 30, 0.1)))
    assert (arrived.key, arrived.tokens, arrived.seconds) == ((0, 1, 2), 30, 0.1)
    assert all(np.array_equal(vars(arrived.votes)[name], value) for name, value in vars(votes).items())
