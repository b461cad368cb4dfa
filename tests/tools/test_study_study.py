"""The studies: what is declared, how runs are kept, what their statistics say."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from places import REPOSITORY

from hrm_offline.common.errors import InputError
from hrm_offline.config import preset
from hrm_offline.data.leaks import find_leaks
from hrm_offline.model.recursive import RecursiveModel
from tools.study.report import Result, Scale, compare, verdict, write_reports
from tools.study.studies import Arm, Finding, Study, studies_of
from tools.study.study import Job, Runs, do, missing_jobs, name_of_learning, plan, work_off
from tools.study.trial import Trial, configs_of, learn, other_tasks, predict, score_votes, tasks_of

STUDIES = studies_of(preset("hrm-132k").model)
SCALE = Scale("hrm-132k", "rehearsal:0:3", 2, (0, 1, 2), "the command", 1)


def result(name, outcomes):
    """Points by seed and task; the cells are half of them."""
    return Result(
        name,
        {
            seed: {"outcomes": {str(task): (value, value / 2) for task, value in enumerate(values)}}
            for seed, values in enumerate(outcomes)
        },
    )


# ----- statistics, on samples whose answer is known


def test_a_difference_is_paired_over_tasks_and_averaged_over_seeds():
    easy_and_hard = np.tile([1.0, 0.0], 20)
    one_more = easy_and_hard.copy()
    one_more[1] = 1.0
    found = compare(result("arm", [one_more, easy_and_hard]), result("base", [easy_and_hard] * 2))
    assert found.points[0] == pytest.approx(100 * 0.5 / 40)
    assert found.cells[0] == pytest.approx(found.points[0] / 2)
    # The tasks' own spread, 50 points, cancels; the one that differs by half is in about 63% of the resamplings.
    assert 0 == found.points[1] < found.points[2] < 5
    assert (found.seeds, found.parted) == (2, 1)


def test_only_seeds_that_both_arms_have_are_compared():
    arm, base = result("arm", [[0.0], [1.0], [1.0]]), result("base", [[0.0]])
    assert compare(arm, base).points == (0.0, 0.0, 0.0)
    assert compare(arm, Result("base", {})) is None


@pytest.mark.parametrize(
    ("gain", "margin", "size", "expected"),
    [
        (0.3, None, None, "agree"),
        (-0.3, None, None, "disagree"),
        (0.0, None, None, "cannot tell"),
        (0.0, 20, None, "agree"),
        (0.3, 20, None, "disagree"),
        (-0.3, 20, None, "disagree"),
        (0.0, 4, None, "cannot tell"),
        (0.3, None, 30, "agree"),
        (0.3, None, 50, "agree, but less than published"),
        (-0.3, None, 50, "disagree"),
        (0.0, None, 30, "cannot tell, but less than published"),
        (0.0, None, 4, "cannot tell"),
    ],
)
def test_a_verdict_needs_the_whole_interval(gain, margin, size, expected):
    rng = np.random.default_rng(0)
    base = np.full((3, 60), 0.5)
    noise = np.concatenate([np.full(30, 0.25), np.full(30, -0.25)])  # its mean's standard error: 0.032
    arm = base + gain + rng.permutation(noise)
    finding = Finding("", "arm", "base", margin, size)
    assert verdict(finding, compare(result("arm", arm), result("base", base))) == expected


def test_no_evidence_is_no_agreement():
    same, finding = [[0.0] * 30] * 3, Finding("", "arm", "base", 5)
    assert verdict(finding, compare(result("arm", same), result("base", same))) == "cannot tell"
    for parted, expected in ((5, "cannot tell"), (6, "agree")):  # all in one direction
        some = [[1.0] * parted + [0.0] * 24] * 3
        found = compare(result("arm", some), result("base", np.zeros_like(some)))
        assert verdict(Finding("", "arm", "base"), found) == expected
    better = [[1.0] * 30] * 2
    found = compare(result("arm", better), result("base", same))
    assert found.points == (100.0, 100.0, 100.0)
    assert verdict(Finding("", "arm", "base"), found) == "cannot tell"  # of two seeds
    assert verdict(finding, None) == "not run"
    open_question = Finding("", "arm", "base", published=False)
    assert verdict(open_question, found) == "open question"


# ----- what is declared


def test_every_study_can_be_run_and_its_findings_are_about_its_arms():
    names = plan(list(STUDIES), SCALE, tasks_of(SCALE.tasks))  # every network and recipe there is
    for study in STUDIES:
        arms = {arm.name for arm in study.arms}
        assert len(arms) == len(study.arms) >= 3, study.name
        assert study.findings
        assert {finding.arm for finding in study.findings} <= arms
        assert {finding.baseline for finding in study.findings} <= arms | {None}
        runs = [names[0][study.name, arm] for arm in arms]
        assert len(set(runs)) == len(runs), study.name
    assert set(names[0].values()).isdisjoint(names[1].values())


def test_the_studies_are_those_of_the_analysis_and_its_open_questions():
    assert [study.name for study in STUDIES] == [
        "architecture",
        "outer-loop",
        "inference-loop",
        "transfer",
        "augmentation",
        "vote-pool",
        "halting",
        "per-task",
        "conditioning",
        "augmentation-kinds",
        "induction",
    ]


def test_the_architectures_compared_have_the_sizes_they_say():
    arms = next(study for study in STUDIES if study.name == "architecture").arms
    configs = {arm.name: configs_of(Trial(arm.learn, 0, "hrm-132k", "small", 1), arm.name)[0] for arm in arms}
    size = {name: sum(p.numel() for p in RecursiveModel(config, 1).parameters()) for name, config in configs.items()}
    assert size["Transformer"] == size["shared, same size"] == size["HRM"]
    passes = {name: config.layer_passes for name, config in configs.items()}
    assert passes["Transformer"] == passes["shared, same compute"] == passes["HRM"]


@pytest.mark.parametrize("name", ["hrm-27m", "hrm-3m"])
def test_the_studies_can_be_planned_for_larger_presets(name):
    """No artifact comes with them, so one arm is left out."""
    studies, scale = studies_of(preset(name).model), dataclasses.replace(SCALE, preset=name, seeds=(0,))
    planned = plan(list(studies), scale, tasks_of(SCALE.tasks))[0]
    arms = {(study.name, arm.name) for study in studies for arm in study.arms}
    assert planned.keys() == arms - {("transfer", "the package's artifact")}
    configs = {arm.name: configs_of(Trial(arm.learn, 0, name, "small", 1), arm.name)[0] for arm in studies[0].arms}
    assert configs["shared, same compute"].layer_passes == configs["HRM"].layer_passes
    if name == "hrm-27m":
        assert configs["Transformer"] == preset("transformer-27m").model


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


# ----- trials


def test_others_are_new_to_the_tasks_studied_and_only_these_are_predicted():
    tasks = tasks_of("small")
    others = other_tasks(tasks, 20)
    assert len(others) == 20
    assert not find_leaks(list(tasks), list(others))
    learned = learn(Trial({"others": 4}, 0, "hrm-132k", "", 3), tasks[:2])
    votes, _ = predict(learned)
    assert {task_id for task_id, _ in votes} == {task.id for task in tasks[:2]}
    assert learned.about()["examples"] > learn(Trial({}, 0, "hrm-132k", "", 3), tasks[:2]).about()["examples"]
    with pytest.raises(InputError, match="others is 4000"):
        other_tasks(tasks, 4000)


def test_alone_a_task_is_answered_the_same_whatever_is_beside_it():
    tasks = tasks_of("small")

    def ballots(chosen):
        votes, _ = predict(learn(Trial({"alone": True}, 0, "hrm-132k", "", 20), chosen))
        return {key: [(c.grid.tolist(), c.count) for c in pool.ranking()] for key, pool in votes.items()}

    together, single = ballots(tasks[:2]), ballots(tasks[:1])
    assert single.items() <= together.items()


def test_votes_need_no_labels_and_the_score_does():
    tasks = tasks_of("small")[:2]
    learned = learn(Trial({}, 0, "hrm-132k", "", 1), tuple(task.without_labels() for task in tasks))
    few, many = (predict(learned, {"vote_views": views}) for views in (1, 8))
    assert {pool.count for pool in few[0].values()} == {1}
    assert {pool.count for pool in many[0].values()} <= {2, 4, 8}  # symmetric tasks have fewer views
    assert many[1] > 3 * few[1]
    assert len(score_votes(many[0], tasks).tasks) == 2


def test_an_inductive_solver_votes_alone_or_with_the_network():
    votes = {who: {"solver": who} for who in ("network", "induction", "both")}
    job = Job(Trial({}, 0, "hrm-132k", SCALE.tasks, 1), votes)
    network, induction, both = do(job)
    assert induction["vote steps"] == 0 < network["vote steps"] == both["vote steps"]

    def solved(run):
        return {task for task, (points, _) in run["outcomes"].items() if points == 1}

    assert solved(network) < solved(both) <= solved(network) | solved(induction)


# ----- runs, kept and gone on with

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


def test_a_torn_line_counts_as_missing_and_spoils_no_other(tmp_path):
    path = tmp_path / "runs.jsonl"
    whole = {"run": "a", "outcomes": {"t": [1, 1]}}
    path.write_text(json.dumps(whole) + "\n" + json.dumps({"run": "b", "outcomes": {}})[:-5])
    runs = Runs(path)
    assert runs.found == {"a": whole}
    runs.add({"run": "c", "outcomes": {}})
    runs.add({"run": "d", "failed": "why"})
    assert set(Runs(path).found) == {"a", "c"}


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
def test_a_study_goes_on_after_a_kill_and_repeats_nothing(tmp_path):
    command = [
        sys.executable,
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
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(children, 10)[1]
    before = [line for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 2 <= len(before) < 4
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert f"{4 - len(before)} learnings to be done" in again.stdout
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


def test_a_report_says_what_is_missing(tmp_path):
    tasks = tasks_of(SCALE.tasks)
    study = Study(
        "depths",
        "How deep?",
        "depth",
        (Arm("shallow"), Arm("deep", {"halt_max_steps": 2})),
        (Finding("deep is better", "deep", "shallow"), Finding("shallow beats nothing", "shallow", None)),
    )
    jobs = missing_jobs([study], SCALE, tasks, {})
    found = {job.trial.seed: {("depths", "shallow"): do(job)[0]} for job in jobs if not job.trial.changes}
    write_reports([study], found, tasks, SCALE, tmp_path)
    overview, report = (tmp_path / "README.md").read_text(), (tmp_path / "depths.md").read_text()
    assert "| deep less shallow |  |  | not run |" in overview
    assert "shallow less the null baseline" in overview
    assert "the command" in overview
    assert "| deep | not run |" in report
    assert "What cannot be concluded" in report
    assert (tmp_path / "depths.png").stat().st_size > 1000
