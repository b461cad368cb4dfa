"""Test runs of studies: which are missing, how they are kept, and that a study goes on after a kill."""

import csv
import json
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from places import REPOSITORY
from small_studies import SCALE

from hrm_offline.common.errors import InputError
from tools.study import study
from tools.study.studies import Arm, Study
from tools.study.study import Job, Runs, do, missing_jobs, name_of_learning, plan, work_off
from tools.study.trial import Trial, tasks_of
from tools.support.command_line import run_tool


def test_a_learning_is_named_by_what_it_is_not_by_the_words_for_it():
    tasks = tasks_of(SCALE.tasks)

    def named(changes, seed=0, chosen=tasks):
        return name_of_learning(Trial(changes, seed, "hrm-132k", SCALE.tasks, 2), chosen)

    assert named({}) == named({"halt_max_steps": 4}) == named({"visits_times": 1})
    different = [
        named({}),
        named({}, seed=1),
        named({}, chosen=tasks[:2]),
        named({"halt_max_steps": 2}),
        named({"alone": True}),
        named({"others": 5}),
        named({"artifact": "bundled"}),
        named({"lr": 0.1}),
    ]
    assert len(set(different)) == len(different)
    with pytest.raises(InputError, match="halt_most_steps"):
        named({"halt_most_steps": 4})


def test_an_inductive_solver_votes_alone_or_with_the_network():
    votes = {who: {"solver": who} for who in ("network", "induction", "both")}
    job = Job(Trial({}, 0, "hrm-132k", SCALE.tasks, 1), votes)
    network, induction, both = do(job)
    assert induction["vote steps"] == 0 < network["vote steps"] == both["vote steps"]

    def solved(run):
        return {task for task, (points, _) in run["outcomes"].items() if points == 1}

    assert solved(network) < solved(both) <= solved(network) | solved(induction)
    assert ["test losses" in run for run in (network, induction, both)] == [True, False, False]


def test_a_runs_test_losses_are_those_of_its_outer_steps():
    votes = {"one": {"outer_steps": 1}, "two": {"outer_steps": 2}, "few views": {"outer_steps": 2, "vote_views": 1}}
    one, two, few_views = (run["test losses"] for run in do(Job(Trial({}, 0, "hrm-132k", SCALE.tasks, 2), votes)))
    assert one != two == few_views


TWO_STUDIES = [
    Study("one", "?", "depth", (Arm("base"), Arm("deep", {"halt_max_steps": 2})), ()),
    Study("two", "?", "views", (Arm("base"), Arm("few", {}, {"vote_views": 1})), ()),
]


def test_what_is_learned_alike_is_learned_once():
    tasks = tasks_of(SCALE.tasks)
    jobs = missing_jobs(TWO_STUDIES, SCALE, tasks, {})
    assert [(job.trial.seed, len(job.votes)) for job in jobs] == [(0, 2), (0, 1), (1, 2), (1, 1), (2, 2), (2, 1)]
    names = plan(TWO_STUDIES, SCALE, tasks)
    done = dict.fromkeys([names[0]["one", "base"], names[0]["one", "deep"]])
    left = missing_jobs(TWO_STUDIES, SCALE, tasks, done)
    assert list(left[0].votes) == [names[0]["two", "few"]]
    assert len(left) == 5


def test_a_run_that_failed_counts_as_missing(tmp_path):
    runs = Runs(tmp_path / "runs.jsonl")
    runs.add({"run": "a", "outcomes": {}})
    runs.add({"run": "b", "failed": "why"})
    assert set(runs.found) == set(Runs(runs.path).found) == {"a"}


def test_an_arm_that_fails_says_why_and_costs_no_other(tmp_path):
    wrong = Trial({"tokens_per_step": 0}, 0, "hrm-132k", SCALE.tasks, 1)
    jobs = [Job(wrong, {"x": {}}), Job(Trial({}, 0, "hrm-132k", SCALE.tasks, 1), {"y": {}, "z": {"vote_views": 1}})]
    assert "tokens_per_step is 0" in do(jobs[0])[0]["failed"]
    runs = Runs(tmp_path / "runs.jsonl")
    assert not work_off(jobs, runs, 1, time.monotonic() + 100)
    assert set(runs.found) == {"y", "z"}
    assert runs.found["y"]["loss"] == runs.found["z"]["loss"] > 0
    assert set(runs.found["y"]["outcomes"]) == {task.id for task in tasks_of(SCALE.tasks)}


def test_what_was_done_is_kept_where_a_worker_dies(tmp_path, capsys):
    runs = Runs(tmp_path / "runs.jsonl")

    def end_the_worker():
        while not runs.found:
            time.sleep(0.02)
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    jobs = [Job(Trial({}, 0, "hrm-132k", SCALE.tasks, visits), {str(visits): {}}) for visits in (1, 10_000)]
    killer = threading.Thread(target=end_the_worker)
    killer.start()
    assert not work_off(jobs, runs, 1, time.monotonic() + 100)
    killer.join()
    assert set(Runs(runs.path).found) == {"1"}
    assert "a worker died" in capsys.readouterr().out


def test_nothing_is_begun_that_the_budget_has_no_time_for(tmp_path):
    runs = Runs(tmp_path / "runs.jsonl")
    assert not work_off([Job(Trial({}, 0, "hrm-132k", SCALE.tasks, 1), {"x": {}})], runs, 1, time.monotonic() - 1)
    assert not runs.path.exists()


@pytest.mark.slow
def test_a_study_goes_on_after_a_kill_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    command = [
        str(REPOSITORY / "tools" / "study" / "study.py"),
        "outer-loop",
        "--tasks",
        "3",
        "--visits",
        "9",
        "--workers",
        "1",
        "--seeds",
        "0",
        "--out",
        str(tmp_path),
    ]
    lines = tmp_path / "runs.jsonl"
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(children, 10)[1]
    before = [line for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 2 <= len(before) < 4
    monkeypatch.setattr(sys, "argv", command)
    assert run_tool(study.main) == 0
    assert f"{4 - len(before)} learnings to be done" in capsys.readouterr().out
    after = lines.read_text().splitlines(keepends=True)
    assert after[: len(before)] == before
    assert len({json.loads(line)["run"] for line in after}) == len(after) == 4
    with open(tmp_path / "outer-loop.csv", newline="") as file:
        assert [(row["arm"], row["seed"]) for row in csv.DictReader(file)] == [(arm, "0") for arm in "1248"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "runs.jsonl",
        "README.md",
        "outer-loop.md",
        "outer-loop.csv",
        "outer-loop.png",
    }
