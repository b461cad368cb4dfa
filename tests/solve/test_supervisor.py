"""Test that a run survives workers that fail, die or hang, and that several workers share it."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import faults
import pytest
from places import REPOSITORY
from runs import check, inline, options_of, solve_quietly

from hrm_offline.cli import main
from hrm_offline.common import machine
from hrm_offline.common.budget import Budget
from hrm_offline.solve.job import solve
from hrm_offline.solve.messages import Adapt, Beat
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.pool import InlinePool, ProcessPool
from hrm_offline.solve.supervisor import Slot, Supervisor
from hrm_offline.solve.worker import Worker
from tools.stress.simulate_runs import draw_weather
from tools.stress.simulation import SimulatedPool


@pytest.mark.parametrize(
    ("engine", "same"), [(faults.Faulty, True), (faults.OutOfMemory, False), (faults.NotANumber, False)]
)
def test_a_worker_that_fails_once_is_replaced(engine, same, challenges, reference, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))
    report = solve_quietly(options_of(challenges, tmp_path), pool=inline(engine))
    submission, _ = check(tmp_path / "out", challenges[1])
    assert len(report["failures"]) == 1
    assert report["test inputs without a vote"] == 0
    assert report["tasks on their fallback"] == {}
    if same:
        assert submission == reference


def test_what_always_fails_ends_on_the_fallback_and_is_named(challenges, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))
    report = solve_quietly(options_of(challenges, tmp_path), pool=inline(faults.AlwaysFaulty))
    check(tmp_path / "out", challenges[1])
    assert set(report["tasks on their fallback"]) == set(challenges[1])
    assert all("as something always does" in reason for reason in report["tasks on their fallback"].values())


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(("target", "word"), [(faults.killed, "lost"), (faults.hanging, "hang")])
def test_a_process_that_dies_or_hangs_is_replaced(target, word, challenges, reference, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))
    hang_after = 5.0 if word == "hang" else 300.0
    report = solve_quietly(options_of(challenges, tmp_path, hang_after=hang_after), pool=ProcessPool(target))
    assert [word in failure for failure in report["failures"]] == [True]
    assert check(tmp_path / "out", challenges[1])[0] == reference


def test_a_fault_of_the_leader_itself_leaves_its_answers(challenges, tmp_path):
    class Odd(InlinePool):
        def receive(self, timeout):
            raise ZeroDivisionError("a fault in our own code")

    report = solve_quietly(options_of(challenges, tmp_path), pool=Odd(Worker))
    check(tmp_path / "out", challenges[1])
    assert "a fault in our own code" in report["failures"][0]


@pytest.mark.usefixtures("warm_workers")
def test_any_number_of_workers_answers_the_same_and_holds_no_torch_above(challenges, tmp_path):
    """Run once in a process of its own, which shows whether the supervising process loads torch."""
    code = (
        "import sys; from hrm_offline.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or ('torch' in sys.modules and 9))"
    )

    def arguments(name, *sizes):
        words = ["solve", "--challenges", str(challenges[0]), "--out", str(tmp_path / name), "--visits", "20", *sizes]
        return [*words, "--members", "1", "--budget", "5m", "--induce", "off"]

    command = [sys.executable, "-c", code, *arguments("a", "--workers", "2")]
    alone = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert main(arguments("b", "--workers", "1", "--groups", "4")) == 0
    answers = []
    for name, workers in (("a", 2), ("b", 1)):
        submission, report = check(tmp_path / name, challenges[1])
        assert report["workers"] == workers
        assert len(report["adapted"]["groups"]) == 4
        assert report["test inputs without a vote"] == 0
        answers.append(submission)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("sharing", "asked", "tasks", "started"),
    [
        ("sharded", 40, 1, 1),
        ("per-task", 40, 3, 3),
        ("joint", 40, 1, 2),
        ("sharded", 1000, 20, 16),
        ("sharded", 4, 5, 4),
        ("sharded", 2, 1, 1),
    ],
)
def test_no_more_workers_start_than_find_work(write_json, tmp_path, monkeypatch, sharing, asked, tasks, started):
    """Simulate runs on a machine of eight processors."""
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    pair = {"input": [[1, 2]], "output": [[2, 1]]}
    value = {f"t{i}": {"train": [pair] * 2, "test": [{"input": [[3, 4]]}]} for i in range(tasks)}
    options = options_of((write_json("c.json", value), value), tmp_path, workers=asked, sharing=sharing)
    pool = SimulatedPool(dataclasses.replace(draw_weather(1), budget=300.0, step=0.01, start=1.0, visits=5), seed=0)
    said = []
    report = solve(options, Budget(300.0, 0.0, pool.clock), said.append, pool=pool)
    check(options.out, value)
    assert len(pool.ready) == report["workers"] == started
    assert report["test inputs without a vote"] == 0
    assert any(f"{started} of {asked} workers start" in line for line in said) == (started < asked)


def test_only_an_adaptation_that_came_further_for_long_has_its_failures_forgiven(tmp_path):
    """Silence is no success, nor is work that is done again."""
    now = [0.0]
    setup = SimpleNamespace(options=SolveOptions(tmp_path, tmp_path, save_every=60.0))
    supervisor = Supervisor(None, Budget(1e6, 0.0, lambda: now[0]), None, None, setup, (), lambda _: None)
    supervisor.schedule = SimpleNamespace(groups=[SimpleNamespace(furthest=0)])

    def has_advanced(*beats):
        slot = Slot(None, now[0], began=now[0])
        slot.progress.extend((now[0] + seconds, Beat(step)) for seconds, step in beats)
        now[0] += 10_000.0  # then it was silent
        return supervisor._has_advanced(slot, Adapt(0, (0,), 1e6))

    assert not has_advanced()
    assert not has_advanced((500.0, 50))
    assert has_advanced((300.0, 40), (700.0, 60))
    assert not has_advanced((700.0, 60))  # from the beginning again
    assert has_advanced((700.0, 61))


class Watched(ProcessPool):
    """Remember every message that was sent."""

    def __init__(self, *target):
        super().__init__(*target)
        self.sent = []

    def send(self, slot, message):
        self.sent.append(message)
        super().send(slot, message)


@pytest.mark.usefixtures("warm_workers")
def test_two_workers_can_learn_one_network_together(challenges, reference, tmp_path):
    pool = Watched()
    report = solve_quietly(options_of(challenges, tmp_path, workers=2, sharing="joint"), pool=pool)
    submission, _ = check(tmp_path / "out", challenges[1])
    assert [(job.rank, job.size) for job in pool.sent if isinstance(job, Adapt)] == [(0, 2), (1, 2)]
    assert report["failures"] == []
    assert len(report["adapted"]["groups"]) == 1
    assert report["adapted"]["steps"] == report["adapted"]["planned_steps"]
    same = [submission[task_id] == reference[task_id] for task_id in reference]
    assert sum(same) >= 3  # sums in another order: nearly the same network


@pytest.mark.usefixtures("warm_workers")
def test_where_one_of_two_that_learn_together_dies_one_goes_on_alone(challenges, reference, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))
    pool = Watched(faults.killed)
    report = solve_quietly(options_of(challenges, tmp_path, workers=2, sharing="joint"), pool=pool)
    assert [job.size for job in pool.sent if isinstance(job, Adapt)] == [2, 2, 1]
    assert report["failures"]
    assert check(tmp_path / "out", challenges[1])[0] == reference
