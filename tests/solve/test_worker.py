"""Test what a worker says when its job fails, and when it quits."""

from pathlib import Path

import pytest
import torch

from hrm_offline.common.errors import InputError
from hrm_offline.solve.messages import Failed, Quit, Setup
from hrm_offline.solve.worker import Worker
from hrm_offline.train.adapt import Diverged

SETUP = Setup(Path("challenges.json"), Path("out"), 0, "cpu")


def work_through(messages, make_engine):
    """Let a worker take all messages, and return its answers."""
    inbox, said = list(messages), []
    for _ in Worker(lambda: inbox.pop(0) if inbox else None, said.append, make_engine).run():
        if not inbox:
            break
    return said


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (torch.OutOfMemoryError("no more"), "memory", "OutOfMemoryError: no more"),
        (MemoryError("no more"), "memory", "MemoryError: no more"),
        (Diverged("not a number"), "diverged", "not a number"),
        (InputError("a wrong file"), "input", "a wrong file"),
        (ZeroDivisionError("a fault of ours"), "error", "ZeroDivisionError: a fault of ours"),
    ],
)
def test_a_failure_is_told_by_its_kind_and_reason(error, kind, reason):
    def fail(*_):
        raise error

    assert work_through([SETUP, SETUP], fail) == [Failed(kind, reason)]


def test_a_worker_that_is_told_to_quit_takes_no_further_message():
    assert work_through([Quit(), SETUP], lambda *_: pytest.fail("an engine was made")) == []
