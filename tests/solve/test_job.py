"""Test whole runs of `solve`: odd tasks, broken input, seeds, artifacts, the clock, a full disk, tasks alone."""

import dataclasses
import json
import time

import pytest
from runs import check, options_of, save_random_artifact, solve_quietly

from hrm_offline.answers.submission import read_submission
from hrm_offline.cli import main
from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.common.lock import FolderLock
from hrm_offline.data.tasks import Pair, Task, to_challenges
from hrm_offline.presets import PRESETS
from hrm_offline.solve.job import SolveOptions, solve


@pytest.fixture
def run(tmp_path, write_json):
    """Return a function that runs `solve` on challenges and returns its exit code and output folder."""

    def run(challenges, *extra):
        path = challenges if isinstance(challenges, str) else write_json("challenges.json", challenges)
        out = tmp_path / "out"
        command = [
            "solve",
            "--challenges",
            str(path),
            "--out",
            str(out),
            "--budget",
            "2m",
            "--visits",
            "2",
            "--workers",
            "0",
            "--preset",
            "hrm-132k",
            "--induce",
            "off",
            *extra,
        ]
        return main(command), out

    return run


def odd_tasks(make_task):
    same = make_task("same").test[0]
    return (
        make_task("several", test=[((3, 3), (3, 3))] * 3),
        Task("equal", make_task("equal", seed=4).train, (same, same)),
        make_task("largest", [((30, 30), (30, 30))], [((30, 30), (30, 30))]),
        make_task("single", [((2, 5), (3, 1))]),
        make_task("outgrown", [((2, 2), (2, 2))] * 2, [((11, 7), (11, 7))]),
        make_task("pixel", [((1, 1), (1, 1))], [((1, 1), (1, 1))]),
    )


def test_odd_tasks_are_all_answered(run, make_task):
    challenges = to_challenges(odd_tasks(make_task))
    code, out = run(challenges, "--price-per-hour", "3.6")
    assert code == 0
    submission, report = check(out, challenges)
    assert report["tasks"] == 6
    assert report["test inputs without a vote"] == 0
    assert report["price per task"] == pytest.approx(report["seconds in all"] * 0.001 / 6, rel=0.05)
    assert sum(report["seconds"].values()) <= report["seconds in all"] + 0.1
    assert submission["equal"][0] == submission["equal"][1]
    differ = [entry["attempt_1"] != entry["attempt_2"] for entries in submission.values() for entry in entries]
    assert sum(differ) >= len(differ) - 1  # a demonstration may equal its test input, no more


def test_test_inputs_are_told_apart_by_index(run, make_task):
    """Count the votes of two equal test inputs: each has as many as a test input of its own."""
    task = make_task("equal")
    challenges = to_challenges([Task("equal", task.train, (task.test[0], task.test[0]))])
    _, out = run(challenges)
    _, report = check(out, challenges)
    assert report["votes per test input"] == {"least": 8, "mean": 8.0, "most": 8}


def test_one_bad_task_costs_the_others_nothing(run, make_task, capsys):
    good = to_challenges([make_task("good")])
    bad = {"bad": {"train": [{"input": [[11]], "output": [[1]]}], "test": [{"input": [[1]]}, {"input": [[2]]}]}}
    code, out = run(bad | good)
    assert code == 0
    submission, report = check(out, bad | good)
    assert "cell (0, 0) is 11" in report["left out"]["bad"]
    assert len(submission["bad"]) == 2
    _, alone = run(good)
    assert check(alone, good)[0]["good"] == submission["good"]
    assert "task bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    "challenges",
    [
        "",
        "{",
        "{}",
        "[]",
        {"x": {"test": [{"input": [[1]]}]}},
        {"x": {"train": [{"input": [[1, 2], [3]], "output": [[1]]}], "test": [{"input": [[1]]}]}},
        {"x": {"train": [{"input": [["3"]], "output": [[1]]}], "test": [{"input": [[1]]}]}},
        {"x": {"train": [{"input": [[1] * 31], "output": [[1]]}], "test": [{"input": [[1]]}]}},
    ],
)
def test_with_nothing_usable_one_line_and_exit_2(run, write_json, capsys, challenges):
    path = str(write_json("challenges.json", challenges))
    code, _ = run(path)
    printed = capsys.readouterr().err
    assert code == 2
    assert len(printed.splitlines()) == 1
    assert "challenges.json" in printed


def test_a_bad_artifact_or_budget_leaves_the_fallback(run, make_task, capsys, tmp_path):
    challenges = to_challenges([make_task()])
    code, out = run(challenges, "--artifact", str(tmp_path / "none-such"))
    assert code == 2
    assert "none-such" in capsys.readouterr().err
    read_submission(out / "submission.json", {"t": 1})
    assert run(challenges, "--budget", "soon")[0] == 2
    assert "soon" in capsys.readouterr().err


def test_out_that_cannot_be_written_is_refused(write_json, make_task, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = write_json("challenges.json", to_challenges([make_task()]))
    assert main(["solve", "--challenges", str(path), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot create" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_answer(run, make_task):
    challenges = to_challenges([make_task("a"), make_task("b", seed=1)])
    # A pretrained network answers alike after two visits, whatever the seed.
    answers = [check(run(challenges, "--artifact", "none", "--seed", seed)[1], challenges)[0] for seed in "331"]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_an_artifact_is_adapted(run, make_task, tmp_path):
    """Pretrain on the hidden task: that artifact answers the task at once, random weights do not."""
    task = make_task("t", [((2, 2), (2, 2))] * 2)
    hidden = Task("t", task.train, tuple(Pair(p.input, None) for p in task.train))
    labelled = tmp_path / "tasks.json"
    labelled.write_text(json.dumps(to_challenges([hidden])))
    assert (
        main(
            [
                "pretrain",
                "--out",
                str(tmp_path / "artifact"),
                "--preset",
                "hrm-132k",
                "--data",
                str(labelled),
                "--steps",
                "300",
                "--tokens-per-step",
                "150",
            ]
        )
        == 0
    )
    challenges = to_challenges([hidden])
    answers = {}
    for artifact in (str(tmp_path / "artifact"), "none"):
        _, out = run(challenges, "--artifact", artifact, "--visits", "40")
        answers[artifact == "none"] = [e["attempt_1"] for e in check(out, challenges)[0]["t"]]
    truth = [pair.output.tolist() for pair in task.train]
    assert answers[False] == truth
    assert answers[True] != truth


def test_the_clock_bounds_both_phases(write_json, make_task, tmp_path):
    """Let the clock run fifty times too fast: `solve` still answers everything in time."""
    path = write_json("c.json", to_challenges([make_task(f"t{i}", [((9, 9), (9, 9))] * 4, seed=i) for i in range(20)]))
    start = time.monotonic()
    budget = Budget(200.0, 0.0, clock=lambda: (time.monotonic() - start) * 50)
    options = SolveOptions(path, tmp_path / "out", overrides={"visits": 10_000}, workers=0, induce="off")
    report = solve(options, budget, say=lambda _: None)
    assert report["adapted"]["steps"] < report["adapted"]["planned_steps"]
    assert report["seconds in all"] < 200
    read_submission(tmp_path / "out" / "submission.json", {f"t{i}": 1 for i in range(20)})


def test_task_ids_can_hold_anything(run, make_task):
    challenges = {task_id: to_challenges([make_task("t")])["t"] for task_id in ("", "\ud800", "../x", "ü\n")}
    challenges["\udfff"] = {}
    code, out = run(challenges)
    assert code == 0
    assert set(json.loads((out / "submission.json").read_text())) == set(challenges)


def test_a_larger_preset_runs_where_it_is_asked_for(run, make_task):
    challenges = to_challenges([make_task("t", [((2, 2), (2, 2))] * 2)])
    words = ["--preset", "hrm-13m", "--visits", "1", "--members", "1", "--set", "vote_views=1", "--budget", "8s"]
    code, out = run(challenges, *words)
    assert code == 0
    assert check(out, challenges)[1]["model"]["hidden_size"] == PRESETS["hrm-13m"].model.hidden_size


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


OUTPUTS = ("report.json", "candidates.json")
# What stands in a run's folder where the run wants files of its own, and the words in the warnings about it.
OBSTACLES = {
    "a file": (
        lambda out: (out / "journal").write_text(""),
        ("there is no journal", "state of the adaptation cannot be saved", "network of group 0 cannot be saved"),
    ),
    "a link to nowhere": (
        lambda out: (out / "journal").symlink_to(out / "gone" / "away"),
        ("there is no journal", "network of group 0 cannot be saved"),
    ),
    "folders": (
        lambda out: [(out / name).mkdir(parents=True) for name in ("journal/run.journal", *OUTPUTS)],
        ("there is no journal", *(f"{name}: cannot be written" for name in OUTPUTS)),
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_stands_in_the_way_of_a_file_costs_that_file_alone(challenges, tmp_path, name):
    obstruct, words = OBSTACLES[name]
    options = options_of(challenges, tmp_path, workers=0, visits=1, save_every=0.0, candidates=2)
    options.out.mkdir()
    obstruct(options.out)
    said = []
    report = solve(options, Budget(300), said.append)
    read_submission(options.out / "submission.json", dict.fromkeys(challenges[1], 1))
    assert report["test inputs without a vote"] == 0
    for word in words:
        assert any("WARNING" in line and word in line for line in said), word
    assert "Traceback" not in "".join(said)


def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(challenges, tmp_path):
    options = options_of(challenges, tmp_path, workers=0, visits=1)
    options.out.mkdir()
    with FolderLock(options.out, pytest.fail):
        (options.out / "submission.json").write_text("of the first run")
        with pytest.raises(InputError, match="another run is at work in this folder"):
            solve(options, Budget(300), lambda _: None)
        assert (options.out / "submission.json").read_text() == "of the first run"
    solve(options, Budget(300), lambda _: None)
    check(options.out, challenges[1])


def test_a_clock_that_jumps_back_does_not_lengthen_the_run(challenges, tmp_path):
    start, jumped = time.monotonic(), []

    def clock():
        now = time.monotonic() - start
        if now > 0.7:
            jumped.append(True)
            now -= 3600
        return now

    options = options_of(challenges, tmp_path, workers=0, visits=10**6)
    report = solve(options, Budget(3.0, clock=clock), lambda _: None)
    assert jumped
    assert time.monotonic() - start < 4.0
    assert report["seconds in all"] <= 3.0
    check(options.out, challenges[1])


def test_a_task_too_large_for_the_model_costs_the_others_nothing(make_task, write_json, tmp_path):
    value = to_challenges([make_task("large", [((12, 12), (12, 12))] * 2), make_task("small")])
    config = dataclasses.replace(PRESETS["hrm-132k"].model, canvas_rows=11, canvas_cols=11)
    artifact = save_random_artifact(tmp_path / "artifact", config)
    options = options_of((write_json("c.json", value), value), tmp_path, workers=0, artifact=artifact)
    report = solve_quietly(options)
    check(options.out, value)
    assert "needs a canvas of side 12" in report["left out"]["large"]
    assert "needs a canvas of side 12" in report["tasks on their fallback"]["large"]
    assert "small" not in report["tasks on their fallback"]
