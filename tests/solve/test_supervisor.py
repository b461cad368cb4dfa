"""The run cannot be lost: journal, schedule, workers that fail, the dead man's switch, going on after a kill."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from places import REPOSITORY
from test_solve import check

from hrm_offline.answers.submission import read_submission
from hrm_offline.cli import main
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.config import PRESETS
from hrm_offline.data.puzzles import SHARED_ROWS, PuzzleSet
from hrm_offline.data.tasks import to_challenges
from hrm_offline.model.artifact import save_artifact
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.predict.plan import tokens_of
from hrm_offline.solve.job import SolveOptions, solve
from hrm_offline.solve.journal import Journal
from hrm_offline.solve.messages import Adapt
from hrm_offline.solve.pool import InlinePool, ProcessPool
from hrm_offline.solve.schedule import Schedule, Speed, split_tasks
from hrm_offline.solve.supervisor import Crew
from hrm_offline.solve.worker import Worker

SMALL = PRESETS["hrm-132k"]


# ----- journal


def make_journal(path, count):
    journal = Journal(path, say=pytest.fail)
    for i in range(count):
        journal.append({"i": i}, {"x": np.arange(10 * i)})
    journal.close()
    return path.read_bytes()


def test_a_torn_record_is_dropped_wherever_it_is_torn(tmp_path):
    data = make_journal(tmp_path / "a", 4)
    seen = set()
    for cut in range(0, len(data), 3):
        (tmp_path / "b").write_bytes(data[:cut])
        journal = Journal(tmp_path / "b", say=pytest.fail)
        assert [record.about["i"] for record in journal.records] == list(range(len(journal.records)))
        assert journal.damaged == 0
        seen.add(len(journal.records))
        journal.append({"i": len(journal.records)})
        journal.close()
        again = Journal(tmp_path / "b", say=pytest.fail)
        assert len(again.records) == len(journal.records) + 1
        again.close()
    assert seen == {0, 1, 2, 3}


def test_a_damaged_record_is_counted_and_costs_no_other(tmp_path):
    data, last = make_journal(tmp_path / "a", 4), len(make_journal(tmp_path / "c", 3))
    rng = np.random.default_rng(0)
    for position in rng.integers(0, last, 100):
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "b").write_bytes(damaged)
        journal = Journal(tmp_path / "b", say=pytest.fail)
        assert len(journal.records) == 3
        assert journal.damaged == 1
        for record in journal.records:
            assert np.array_equal(record.arrays["x"], np.arange(10 * record.about["i"]))
        journal.close()


def test_a_full_disk_ends_the_journal_and_not_the_run(tmp_path, limit_file_size):
    said = []
    journal = Journal(tmp_path / "a", said.append)
    journal.append({"i": 0})
    with limit_file_size(2000):
        for i in range(1, 4):
            journal.append({"i": i}, {"x": np.zeros(200)})
    journal.append({"i": 9})
    assert len(said) == 1
    assert "without a journal" in said[0]
    journal.close()
    assert [record.about["i"] for record in Journal(tmp_path / "a", pytest.fail).records] == [0, 1]


@pytest.fixture
def limit_file_size():
    """A context in which files cannot grow beyond a size: what a full disk is to a writer."""
    import contextlib

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


# ----- schedule


def make_schedule(make_task, workers, groups, end=1000.0, sharing="sharded"):
    tasks = tuple(make_task(f"t{i}", [((3 + i % 5, 3), (3, 3))] * (1 + i % 3), seed=i) for i in range(12))
    puzzles = PuzzleSet(tasks, SMALL.adapt, SMALL.model, 0)
    schedule = Schedule.of_tasks(tasks, SMALL.model, SMALL.adapt, 0, split_tasks(tasks, puzzles, groups), end, sharing)
    schedule.workers = workers
    schedule.speeds = {worker: Speed(1e-3) for worker in range(workers)}
    return schedule


def test_tasks_are_split_evenly_and_the_dearest_group_comes_first(make_task):
    schedule = make_schedule(make_task, 2, 4)
    assert sorted(task for group in schedule.groups for task in group.tasks) == list(range(12))
    costs = [group.cost for group in schedule.groups]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] < 1.5 * costs[-1]


def test_every_group_has_its_share_of_the_time(make_task):
    """Two workers, four groups: half of the time for each, and prediction's share at the end."""
    schedule = make_schedule(make_task, 2, 4)
    first, second = schedule.next_job(0, 0.0), schedule.next_job(1, 0.0)
    end = schedule.adaptation_end()
    assert 500 < end < 1000
    assert first.until == pytest.approx(end / 2, rel=0.25)
    assert second.until == pytest.approx(end / 2, rel=0.25)
    schedule.adapted(0, 0, {"steps": 10}, saved=True)
    schedule.finished(0, 0.0)
    vote = schedule.next_job(0, first.until)
    assert (vote.group, vote.round) == (0, 0)  # a first vote, before another group is adapted
    for batch in vote.batches:
        schedule.voted((0, 0, batch))
    schedule.finished(0, 0.0)
    assert schedule.next_job(0, first.until).group == 2


def test_adaptation_ends_earlier_where_prediction_turns_out_slow(make_task):
    schedule = make_schedule(make_task, 1, 1)
    job = schedule.next_job(0, 0.0)
    assert schedule.new_until(0) is None
    schedule.speeds[0].slowdown = 40.0
    until = schedule.new_until(0)
    assert 500 <= until < job.until
    assert schedule.new_until(0) is None  # said once


def test_a_group_that_only_one_worker_has_is_learned_again_when_that_worker_is_gone(make_task):
    schedule = make_schedule(make_task, 2, 1)
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10}, saved=False)
    schedule.finished(0, 0.0)
    assert schedule.next_job(1, 0.0) is None
    schedule.gone(0)
    assert schedule.groups[0].waits
    assert schedule.next_job(1, 0.0).group == 0


def test_a_network_that_was_not_saved_ends_with_the_next_that_its_worker_adapts(make_task):
    """Its base rounds come first; what is left then cannot be predicted, and is not tried."""
    schedule = make_schedule(make_task, 1, 2)
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10}, saved=False)
    schedule.finished(0, 0.0)
    assert [schedule._first_rounds(group) for group in schedule.groups] == [2, 1]
    schedule.next_job(0, 0.0)
    schedule.flying.clear()
    schedule.adapted(1, 0, {"steps": 10}, saved=False)
    assert "could not be saved" in schedule.groups[0].lost
    assert schedule.next_job(0, 0.0).group == 1


@pytest.mark.parametrize("overrun", (0.0, 2.0))
def test_alone_every_task_has_its_votes_and_its_share_of_a_budget_too_short_for_all_steps(make_task, overrun):
    """Twelve adaptations, each ending later than it was told to, and what they predict."""
    schedule = make_schedule(make_task, 1, 12, end=240.0, sharing="per-task")
    assert [len(group.tasks) for group in schedule.groups] == [1] * 12
    now, seconds = 0.0, {}
    while (job := schedule.next_job(0, now)) is not None:
        group = schedule.groups[job.group]
        if isinstance(job, Adapt):
            seconds[job.group] = (job.until - now) / group.cost
            now = job.until + overrun
            schedule.adapted(job.group, 0, {"steps": 1}, saved=True)
        else:
            for batch in job.batches:
                now += 1e-3 * tokens_of(group.plan.rounds[job.round][batch])
                schedule.voted((job.group, job.round, batch))
        schedule.finished(0, now)
    assert now <= 240
    assert not any(any(group.outstanding) for group in schedule.groups)
    assert len(seconds) == 12
    assert max(seconds.values()) < 1.3 * min(seconds.values())


@pytest.mark.parametrize(("first", "sharing"), [(0, "sharded"), (10, "sharded"), (0, "per-task")])
def test_simulated_runs_end_in_time_and_use_it(first, sharing):
    from tools.stress.simulate_runs import simulate

    for seed in range(first, first + 10):
        outcome = simulate(seed, sharing)
        assert outcome.late <= 0, outcome
        assert outcome.valid, outcome
        assert outcome.used is None or outcome.used >= 0.9, outcome


# ----- workers that fail


@pytest.fixture
def challenges(make_task, write_json):
    value = to_challenges([make_task(f"t{i}", [((3, 3), (3, 3))] * 3, seed=i) for i in range(5)])
    return write_json("challenges.json", value), value


def options_of(challenges, tmp_path, name="out", workers=1, sharing="sharded", **changes):
    crew = Crew(workers, sharing, changes.pop("hang_after", 300.0))
    return SolveOptions(challenges[0], tmp_path / name, visits=changes.pop("visits", 20), crew=crew, **changes)


def inline(engine, clock=time.monotonic):
    return InlinePool(lambda receive, send: Worker(receive, send, engine, clock))


def solve_quietly(options, seconds=300, **more):
    return solve(options, Budget(seconds), say=lambda _: None, **more)


@pytest.fixture
def reference(challenges, tmp_path):
    """The answers of a run in which nothing happens."""
    solve_quietly(options_of(challenges, tmp_path, "reference", workers=0))
    return json.loads((tmp_path / "reference" / "submission.json").read_text())


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


@pytest.mark.parametrize(("target", "word"), [(faults.killed, "lost"), (faults.hanging, "hang")])
def test_a_process_that_dies_or_hangs_is_replaced(target, word, challenges, reference, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))
    hang_after = 6.0 if word == "hang" else 300.0
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


# ----- several workers


def test_two_workers_answer_the_same_every_time_and_hold_no_torch_above(challenges, tmp_path):
    """In a process of its own, so that it can be seen that the leading process never loads torch."""
    code = (
        "import sys; from hrm_offline.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or ('torch' in sys.modules and 9))"
    )
    answers = []
    for name in ("a", "b"):
        command = [
            sys.executable,
            "-c",
            code,
            "solve",
            "--challenges",
            str(challenges[0]),
            "--out",
            str(tmp_path / name),
            "--visits",
            "20",
            "--workers",
            "2",
            "--budget",
            "5m",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == 0, done.stdout + done.stderr
        submission, report = check(tmp_path / name, challenges[1])
        assert report["workers"] == 2
        assert len(report["adapted"]["groups"]) == 4
        assert report["test inputs without a vote"] == 0
        answers.append(submission)
    assert answers[0] == answers[1]


class Watched(ProcessPool):
    """Remembers what was sent."""

    def __init__(self, *target):
        super().__init__(*target)
        self.sent = []

    def send(self, slot, message):
        self.sent.append(message)
        super().send(slot, message)


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


def test_where_one_of_two_that_learn_together_dies_one_goes_on_alone(challenges, reference, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))
    pool = Watched(faults.killed)
    report = solve_quietly(options_of(challenges, tmp_path, workers=2, sharing="joint"), pool=pool)
    assert [job.size for job in pool.sent if isinstance(job, Adapt)] == [2, 2, 1]
    assert report["failures"]
    assert check(tmp_path / "out", challenges[1])[0] == reference


# ----- each task alone


def test_alone_a_task_is_answered_as_if_it_were_the_only_one(challenges, write_json, tmp_path):
    report = solve_quietly(options_of(challenges, tmp_path, workers=0, sharing="per-task"))
    together, _ = check(tmp_path / "out", challenges[1])
    assert report["sharing"] == "per-task"
    assert len(report["adapted"]["groups"]) == len(challenges[1])
    for task_id in ("t0", "t3"):
        only = {task_id: challenges[1][task_id]}
        options = options_of((write_json(f"{task_id}.json", only), only), tmp_path, task_id, 0, "per-task")
        solve_quietly(options)
        assert check(options.out, only)[0][task_id] == together[task_id]


def test_alone_a_task_starts_from_random_weights_unless_told_otherwise(challenges, tmp_path):
    command = ["solve", "--challenges", str(challenges[0]), "--budget", "2m", "--visits", "1", "--workers", "0"]
    found = {}
    for extra in ((), ("--adapt", "per-task"), ("--adapt", "per-task", "--artifact", "bundled")):
        assert main([*command, "--out", str(tmp_path / "".join(extra) / "out"), *extra]) == 0
        found[extra] = check(tmp_path / "".join(extra) / "out", challenges[1])[1]["artifact"]
    assert [artifact is None for artifact in found.values()] == [False, True, False]


def test_alone_a_run_that_was_cut_off_goes_on_and_no_other_mode_goes_on_from_it(challenges, tmp_path):
    solve_quietly(options_of(challenges, tmp_path, "whole", sharing="per-task"), pool=inline(faults.Engine))
    said = []
    options = options_of(challenges, tmp_path, sharing="per-task", save_every=0.0)
    for messages in (6, 12, 10**6):
        try:
            solve(options, Budget(300), said.append, pool=CutOff(Worker, messages))
        except KeyboardInterrupt:
            read_submission(options.out / "submission.json", dict.fromkeys(challenges[1], 1))
    assert check(options.out, challenges[1])[0] == check(tmp_path / "whole", challenges[1])[0]
    assert sum("going on from" in line for line in said) >= 1
    assert sum(line.startswith("adapt:") for line in said) < 3 * len(challenges[1])
    said.clear()
    solve(options_of(challenges, tmp_path, workers=0), Budget(300), said.append)
    assert any("starting anew" in line for line in said)


# ----- going on


class CutOff(InlinePool):
    """Breaks the run off after so many messages, as a kill does."""

    def __init__(self, make_worker, messages):
        super().__init__(make_worker)
        self.left = messages

    def receive(self, timeout):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().receive(timeout)


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_answers(challenges, reference, tmp_path):
    said = []
    options = options_of(challenges, tmp_path, save_every=0.0, visits=20)
    for messages in (1, 2, 3, 4, 6, 30):
        try:
            solve(options, Budget(300), said.append, pool=CutOff(Worker, messages))
        except KeyboardInterrupt:
            read_submission(options.out / "submission.json", dict.fromkeys(challenges[1], 1))
    assert check(options.out, challenges[1])[0] == reference
    assert sum("going on from" in line for line in said) >= 2
    assert not list((options.out / "journal").glob("*.safetensors"))  # large, and of no more use
    # A finished run has nothing left to do, and other settings begin anew.
    said.clear()
    solve(options, Budget(300), said.append, pool=inline(faults.Engine))
    assert not any(line.startswith("adapt:") for line in said)
    solve(options_of(challenges, tmp_path, seed=1, workers=0), Budget(300), said.append)
    assert any("starting anew" in line for line in said)
    assert json.loads((options.out / "report.json").read_text())["seed"] == 1


def test_an_adaptation_goes_on_from_its_saved_state(challenges, tmp_path, monkeypatch):
    """A worker is killed in the middle; the next takes up its state and ends with the same weights."""
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))

    class LateFault(faults.Faulty):
        def adapt(self, job):
            for step in faults.Engine.adapt(self, job):
                if step == 70 and not Path(os.environ[faults.MARK]).exists():
                    Path(os.environ[faults.MARK]).touch()
                    raise RuntimeError("late")
                yield step

    said, answers = [], []
    for name, engine in (("whole", faults.Engine), ("broken", LateFault)):
        options = options_of(challenges, tmp_path, name, visits=400, save_every=0.0)
        solve(options, Budget(300), said.append, pool=inline(engine))
        answers.append(check(options.out, challenges[1])[0])
    assert any("goes on at step 50" in line for line in said)
    assert answers[0] == answers[1]


def save_random_artifact(folder, config=SMALL.model, seed=0):
    torch.manual_seed(seed)
    save_artifact(folder, config, "factored", RecursiveModel(config, SHARED_ROWS).state_dict(), [], {})
    return folder


def test_a_run_goes_on_with_its_artifact_wherever_that_lies_and_with_no_other(challenges, tmp_path):
    class CutOffLate(faults.Engine):
        def adapt(self, job):
            for step in super().adapt(job):
                if step == 70:
                    raise KeyboardInterrupt
                yield step

    def said_with(artifact):
        said = []
        options = options_of(challenges, tmp_path, artifact=artifact, visits=400, save_every=0.0)
        with pytest.raises(KeyboardInterrupt):
            solve(options, Budget(300), said.append, pool=inline(CutOffLate))
        return "\n".join(said)

    first = save_random_artifact(tmp_path / "first")
    assert "goes on at" not in said_with(first)
    moved = first.rename(tmp_path / "moved")
    assert "goes on at step 50" in said_with(moved)
    other = said_with(save_random_artifact(moved, seed=1))
    assert "starting anew" in other
    assert "goes on at" not in other


def test_a_saved_state_goes_on_in_smaller_parts(challenges, tmp_path, monkeypatch):
    """After an out-of-memory error the parts, and so the slots, have another size than those that were saved."""
    monkeypatch.setenv(faults.MARK, str(tmp_path / "mark"))

    class LateShortage(faults.Faulty):
        def adapt(self, job):
            for step in faults.Engine.adapt(self, job):
                if step == 70 and not Path(os.environ[faults.MARK]).exists():
                    Path(os.environ[faults.MARK]).touch()
                    raise faults.torch.OutOfMemoryError("late")
                yield step

    said = []
    options = options_of(challenges, tmp_path, visits=400, save_every=0.0)
    report = solve(options, Budget(300), said.append, pool=inline(LateShortage))
    assert any("goes on at step 50" in line for line in said)
    assert len(report["failures"]) == 1
    assert report["adapted"]["steps"] == report["adapted"]["planned_steps"]


# ----- the dead man's switch


def test_the_switch_ends_a_run_whose_leader_is_stuck(challenges, tmp_path):
    """In time, with the file valid and the reason in the report."""
    released = threading.Event()

    class Stuck(InlinePool):
        def receive(self, timeout):
            released.wait(60)
            raise KeyboardInterrupt

    ended = []

    def end_process(code):
        ended.append((code, time.monotonic()))
        released.set()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        solve(options_of(challenges, tmp_path), Budget(3.0), lambda _: None, end_process, Stuck(Worker))
    assert [code for code, _ in ended] == [0]
    assert ended[0][1] - start < 3.0
    _, report = check(tmp_path / "out", challenges[1])
    assert report["ended early"] == "the budget is all but spent"


def said_until_sigterm(command: list[str]) -> str:
    """What a run says from when it computes on, is told to end, and ends with exit code 0."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as run:
        while "computing on" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        text = run.stdout.read()
    assert run.returncode == 0
    return text


def test_sigterm_ends_a_run_at_once_with_exit_0(challenges, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "hrm_offline",
        "solve",
        "--challenges",
        str(challenges[0]),
        "--out",
        str(out),
        "--visits",
        "100000",
        "--budget",
        "10m",
    ]
    assert "ended early with the best answers known (SIGTERM)" in said_until_sigterm(command)
    _, report = check(out, challenges[1])
    assert report["ended early"] == "SIGTERM"


# ----- the machine


def test_a_disk_that_fills_up_leaves_the_answers_that_were_written(challenges, tmp_path, limit_file_size):
    said = []
    options = options_of(challenges, tmp_path, workers=0)

    def fill_up_after_the_fallback(text):
        said.append(text)
        if "a valid fallback" in text:
            full.__enter__()

    full = limit_file_size(100)
    try:
        solve(options, Budget(300), fill_up_after_the_fallback)
    finally:
        full.__exit__(None, None, None)
    read_submission(options.out / "submission.json", dict.fromkeys(challenges[1], 1))
    assert any("cannot be written" in line for line in said)
    assert not list(options.out.glob(".*.tmp"))


def test_a_clock_that_jumps_back_does_not_lengthen_the_run(challenges, tmp_path):
    start, jumped = time.monotonic(), []

    def clock():
        now = time.monotonic() - start
        if now > 1.5:
            jumped.append(True)
            now -= 3600
        return now

    options = options_of(challenges, tmp_path, workers=0, visits=10**6)
    report = solve(options, Budget(6.0, clock=clock), lambda _: None)
    assert jumped
    assert time.monotonic() - start < 7.0
    assert report["seconds in all"] <= 6.0
    check(options.out, challenges[1])


def test_a_corrupt_artifact_costs_a_warning(challenges, tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "config.json").write_text("{}")
    (artifact / "model.safetensors").write_bytes(b"\x80\x04no pickle is loaded")
    report = solve_quietly(options_of(challenges, tmp_path, workers=0, artifact=artifact))
    assert "artifact cannot be used" in report["failures"][0]
    assert report["artifact"] is None
    assert report["test inputs without a vote"] == 0


def test_a_task_too_large_for_the_model_costs_the_others_nothing(make_task, write_json, tmp_path):
    value = to_challenges([make_task("large", [((12, 12), (12, 12))] * 2), make_task("small")])
    config = dataclasses.replace(SMALL.model, canvas_rows=11, canvas_cols=11)
    artifact = save_random_artifact(tmp_path / "artifact", config)
    options = options_of((write_json("c.json", value), value), tmp_path, workers=0, artifact=artifact)
    report = solve_quietly(options)
    check(options.out, value)
    assert "needs a canvas of side 12" in report["left out"]["large"]
    assert "needs a canvas of side 12" in report["tasks on their fallback"]["large"]
    assert "small" not in report["tasks on their fallback"]


@pytest.mark.parametrize("numbers", [{"workers": -1}, {"hang_after": 0.0}, {"sharing": "shared"}])
def test_an_impossible_crew_is_refused(numbers):
    with pytest.raises(InputError):
        Crew(**numbers)
