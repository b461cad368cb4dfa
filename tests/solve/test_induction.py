"""Test the search for programs beside the network: its votes, its faults, and runs that go on."""

import dataclasses
import json

import pytest
import searchers
from planted import grids, planted
from runs import CutOff, check, options_of, solve_quietly

from hrm_offline.answers.score import score_attempts
from hrm_offline.answers.submission import fallback_submission, read_submission
from hrm_offline.common import machine
from hrm_offline.common.budget import Budget
from hrm_offline.data.grids import dihedral
from hrm_offline.data.tasks import Pair, Task, TaskSet, to_challenges
from hrm_offline.solve import induction as induction_module
from hrm_offline.solve import searcher
from hrm_offline.solve.induction import Induction
from hrm_offline.solve.job import solve
from hrm_offline.solve.ledger import Ledger
from hrm_offline.solve.messages import Activity, Hello, Searched, Searching
from hrm_offline.solve.pool import InlinePool, ProcessPool
from hrm_offline.solve.supervisor import cores_needed
from hrm_offline.solve.worker import Worker

TURNED = planted(lambda g: dihedral(g, 6), grids(6), "turned")
NONE = Task("none", (Pair(TURNED.train[0].input, TURNED.train[1].output), *TURNED.train[1:]), TURNED.test)
TASKS = (TURNED, NONE)


@pytest.fixture(autouse=True)
def small_effort(monkeypatch):
    monkeypatch.setattr(induction_module, "EFFORT", 300)


@pytest.fixture
def challenges(write_json):
    value = to_challenges(TASKS)
    return write_json("challenges.json", value), value


# ----- whole runs


def test_the_three_answers_of_a_run_and_whose_they_are(challenges, tmp_path, monkeypatch):
    """Cut a run off when the search is done, and go on: nothing is searched again."""
    alone = options_of(challenges, tmp_path, "alone", workers=0, visits=1)
    solve_quietly(alone)
    options = dataclasses.replace(alone, out=tmp_path / "out", induce="on")
    with pytest.raises(KeyboardInterrupt):
        solve_quietly(options, pool=CutOff(Worker, 2))
    submission = json.loads((options.out / "submission.json").read_text())
    assert submission["turned"][0]["attempt_1"] == TURNED.test[0].output.tolist()

    monkeypatch.setattr(searcher, "induce", pytest.fail)
    report = solve_quietly(options)
    submission, _ = check(options.out, challenges[1])
    files = [options.out / f"submission_{name}.json" for name in ("network", "induction")]
    network, induced = (json.loads(file.read_text()) for file in files)
    assert network == json.loads((alone.out / "submission.json").read_text())
    assert induced["none"] == fallback_submission(TaskSet("", TASKS))["none"]
    assert submission["none"] == network["none"]
    for i, entry in enumerate(submission["turned"]):
        assert entry["attempt_1"] == induced["turned"][i]["attempt_1"] == TURNED.test[i].output.tolist()
        assert entry["attempt_2"] == network["turned"][i]["attempt_1"]
    assert all("induction" in first and second == "network" for first, second in report["attempts"]["turned"])
    assert {origin for origins in report["attempts"]["none"] for origin in origins} <= {"network", "fallback"}
    assert (report["induction"]["tasks searched"], report["induction"]["tasks with a candidate"]) == (2, 1)


def test_induction_needs_no_network(challenges, tmp_path):
    options = options_of(challenges, tmp_path, workers=0, induce="only")
    report = solve_quietly(options, pool=InlinePool(pytest.fail))
    attempts = read_submission(options.out / "submission.json", {"turned": 2, "none": 2})
    truths = {task.id: [pair.output for pair in task.test] for task in TASKS}
    assert score_attempts(attempts, truths).solved == ["turned"]
    assert report["attempts"]["none"] == [["fallback", "fallback"]] * 2
    assert list(report["tasks on their fallback"]) == ["none"]


def test_a_run_without_time_searches_nothing(challenges, tmp_path):
    report = solve(options_of(challenges, tmp_path, workers=0, induce="on"), Budget(0.0), lambda _: None)
    assert report["induction"]["not searched"] == dict.fromkeys(("turned", "none"), "there was no time")


# ----- faults


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lead(tmp_path):
    """Return a function that leads a search in processes of a pool, a minute per look, and returns it and its warnings.

    Nothing is told to the user but faults and the end.
    """

    def lead(pool, tasks=TASKS, minutes=60):
        clock, warnings = Clock(), []
        ledger = Ledger(fallback_submission(TaskSet("", tasks)), tmp_path / "submission.json", pytest.fail)
        found = Induction(tasks, ledger, Budget(1e6, 0.0, clock), lambda _: None, pool=pool)
        found.warn = warnings.append
        while found.goes_on and clock.now < 60 * minutes:
            found.attend()
            clock.now += 30
        return found, warnings

    return lead


def pool_of(*lives):
    """Return a pool inside this process: `lives` say how one searcher after another behaves, the last from then on."""
    left = list(lives)
    return InlinePool(lambda receive, send: (left.pop(0) if len(left) > 1 else left[0])(receive, send))


class Life(searcher.Searcher):
    """A searcher that answers its first task by what `answer` returns, or never where that is None."""

    def answer(self, message):
        return None

    def run(self):
        self.send(Searching())
        while (message := self.receive()) is None:
            yield Activity.IDLE
        if (answer := self.answer(message)) is None:
            while True:
                yield Activity.IDLE
        self.send(answer)
        yield Activity.BUSY


class Dying(Life):
    def run(self):
        self.send(Searching())
        yield Activity.BUSY


def saying(make_answer):
    """Return a searcher that answers with what a function makes of its task."""
    return type("Saying", (Life,), {"answer": lambda _, message: make_answer(message)})


GARBAGE = [
    lambda message: "no message",
    lambda message: Searched(message.index, [[{"grid": [[11]], "votes": 1}], []], 0.0),
    lambda message: Searched(message.index, [[]], 0.0),
    lambda message: Searched(message.index, None, 0.0),
    lambda message: Searched(message.index, [[], []], "long"),
    lambda message: Searched(message.index + 7, [[], []], 0.0),
    lambda message: None,  # it hangs
]


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
def test_a_process_that_fails_once_costs_nothing(answer, lead):
    found, warnings = lead(pool_of(saying(answer), searcher.Searcher))
    assert len(warnings) == 1
    assert found.found == {0: True, 1: False}
    assert found.ledger.submission()["turned"][0]["attempt_1"] == TURNED.test[0].output.tolist()


def test_a_task_that_costs_two_processes_is_lost_and_the_others_are_searched(lead):
    class Choosy(searcher.Searcher):
        def _searched(self, message):
            return "no message" if message.task.id == "none" else super()._searched(message)

    found, warnings = lead(pool_of(Choosy))
    assert (found.found, len(warnings)) == ({0: True}, 2)
    assert list(found.report()["not searched"]) == ["none"]


def test_a_search_that_raises_costs_its_task_and_says_why(lead, monkeypatch):
    monkeypatch.setattr(searcher, "induce", lambda *_: 1 / 0)
    found, _ = lead(pool_of(searcher.Searcher))
    assert all(reason == "ZeroDivisionError: division by zero" for reason in found.report()["not searched"].values())
    assert len(found.lost) == 2


def test_what_always_fails_is_given_up(lead):
    found, warnings = lead(pool_of(Dying))
    assert not found.goes_on
    assert all("its process ended" in warning for warning in warnings)
    assert set(found.report()["not searched"]) == {"turned", "none"}


def test_processes_that_die_or_send_garbage_are_replaced(tmp_path, monkeypatch, lead):
    monkeypatch.setenv(searchers.MARKS, str(tmp_path))
    pool = ProcessPool(searchers.faulty)
    ledger = Ledger(fallback_submission(TaskSet("", TASKS)), tmp_path / "submission.json", pytest.fail)
    warnings = []
    found = Induction(TASKS, ledger, Budget(600), lambda _: None, pool=pool)
    found.warn = warnings.append
    while found.goes_on:
        found.attend(1.0)
    assert not pool.connections()  # none is left that could wake or hold up anybody
    assert ["cannot be read" in warnings[0], "code 3" in warnings[1], len(warnings)] == [True, True, 2]
    assert found.found == {0: True, 1: False}


# ----- cores


@pytest.mark.parametrize(
    ("device", "workers", "threads", "cores", "processes"),
    [
        ("cuda:0", 4, 24, 48, 16),
        ("cuda:0", 2, 2, 4, 1),
        ("cuda:0", 1, 8, 8, 6),
        ("cpu", 1, 1, 2, 1),
        ("cpu", 2, 1, 2, 1),
    ],
)
def test_workers_keep_their_cores(monkeypatch, tmp_path, device, workers, threads, cores, processes):
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    ledger = Ledger({}, tmp_path / "submission.json", pytest.fail)
    found = Induction(TASKS * 20, ledger, Budget(600), pytest.fail)
    hello = Hello(device, 4, None, None, "", 1.0, threads, "", {})
    found.leave_cores(cores_needed(hello, workers))
    assert found.processes == processes
    found.take_all_cores()
    assert found.processes == min(cores, 16)
