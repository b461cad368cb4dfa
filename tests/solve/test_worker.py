"""Test what a worker says when its job fails, and when it quits."""

from pathlib import Path

import pytest
import torch

from hrm_offline.common.errors import InputError
from hrm_offline.ops import dispatch
from hrm_offline.solve.messages import Demoted, Failed, Predict, Quit, Setup
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


def test_a_kernel_that_fails_after_its_self_test_is_told_and_one_that_was_slower_is_not():
    class Tested:
        """Has tested two operations: the kernel of one was slower than plain PyTorch, the other serves, and fails."""

        def __init__(self, *_):
            dispatch.demote("rotate", "plain PyTorch is faster")
            verdicts = [{"op": "rotate", "candidate": "PyTorch"}, {"op": "swiglu", "candidate": "kernel"}]
            self.selftest = {"rows": [{"op": op, "fault": None} for op in ("rotate", "swiglu")], "verdicts": verdicts}

        def hello(self):
            return "hello"

        def predict(self, job):
            dispatch.demote("swiglu", "out of resource")
            yield "votes"

    try:
        said = work_through([SETUP, Predict(0, (0,), 0, (0,), 1.0), Quit()], Tested)
    finally:
        dispatch.promote_all()
    assert said == ["hello", "votes", Demoted("swiglu", "out of resource")]


def test_a_worker_that_is_told_to_quit_takes_no_further_message():
    assert work_through([Quit(), SETUP], lambda *_: pytest.fail("an engine was made")) == []
