import json

import numpy as np
import pytest
import torch

from hrm_offline.answers.submission import read_submission
from hrm_offline.cli import main
from hrm_offline.common.budget import Budget
from hrm_offline.config import PRESETS
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.data.tasks import Pair, Task, load_tasks, to_challenges
from hrm_offline.model.device import Runtime
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.solve.choice import nearest_preset, pick_preset
from hrm_offline.solve.job import SolveOptions, solve
from hrm_offline.solve.supervisor import Crew


@pytest.fixture
def run(tmp_path, write_json):
    """Run the command on challenges; returns its exit code and the output folder."""

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
            *extra,
        ]
        return main(command), out

    return run


def check(out, challenges):
    """The submission is complete; returns it and the report."""
    read_submission(out / "submission.json", {task_id: len(task["test"]) for task_id, task in challenges.items()})
    return json.loads((out / "submission.json").read_text()), json.loads((out / "report.json").read_text())


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
    """Two equal test inputs have as many votes each as two different ones."""
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
    """A pretrained artifact whose task is the hidden one answers it at once; random weights do not."""
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
    """On a clock that runs a hundred times too fast `solve` still answers everything in time."""
    import time

    path = write_json("c.json", to_challenges([make_task(f"t{i}", [((9, 9), (9, 9))] * 4, seed=i) for i in range(20)]))
    start = time.monotonic()
    budget = Budget(200.0, 0.0, clock=lambda: (time.monotonic() - start) * 100)
    options = SolveOptions(path, tmp_path / "out", visits=10_000, crew=Crew(workers=0))
    report = solve(options, budget, say=lambda _: None)
    assert report["adapted"]["steps"] < report["adapted"]["planned_steps"]
    assert report["seconds in all"] < 200
    read_submission(tmp_path / "out" / "submission.json", {f"t{i}": 1 for i in range(20)})


def test_preset_suits_device_and_task_count(monkeypatch):
    cpu = Runtime(torch.device("cpu"), torch.float32, "")
    assert pick_preset(cpu, 41_000 / 240)[0] == "hrm-132k"
    gpu = Runtime(torch.device("cuda"), torch.bfloat16, "")
    for gib, seconds, expected in ((24, 41_000, "hrm-27m"), (24, 4_000, "hrm-3m"), (8, 41_000, "hrm-3m")):
        monkeypatch.setattr(Runtime, "memory", gib * 2**30)
        assert pick_preset(gpu, seconds / 240)[0] == expected


def test_an_artifacts_recipe_is_the_nearest_presets():
    for name, chosen in PRESETS.items():
        assert nearest_preset(chosen.model) == name


def test_task_ids_can_hold_anything(run, make_task):
    challenges = {task_id: to_challenges([make_task("t")])["t"] for task_id in ("", "\ud800", "../x", "ü\n")}
    challenges["\udfff"] = {}
    code, out = run(challenges)
    assert code == 0
    assert set(json.loads((out / "submission.json").read_text())) == set(challenges)


def test_a_larger_preset_runs_where_it_is_asked_for(run, make_task):
    challenges = to_challenges([make_task("t", [((2, 2), (2, 2))] * 2)])
    code, out = run(challenges, "--preset", "hrm-3m", "--visits", "1", "--budget", "8s")
    assert code == 0
    assert check(out, challenges)[1]["model"]["hidden_size"] == PRESETS["hrm-3m"].model.hidden_size


def test_null_truth_of_the_default_rehearsal():
    """The public sets load as hidden tasks and give a complete fallback without any label."""
    from hrm_offline.answers.submission import fallback_submission
    from hrm_offline.data.tasks import TaskSet

    tasks = tuple(task.without_labels() for task in load_tasks("arc2-eval").tasks)
    fallback = fallback_submission(TaskSet("arc2-eval", tasks))
    assert sum(len(entries) for entries in fallback.values()) == 167
    assert all(np.array(e[a]).ndim == 2 for entries in fallback.values() for e in entries for a in e)


def test_model_of_a_fresh_start_has_zero_embeddings():
    assert not RecursiveModel(PRESETS["hrm-132k"].model, SHARED_ROWS + 2).puzzle_emb.weights.any()
