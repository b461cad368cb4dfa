"""Test the rehearsal: its tasks, its null baseline, and whole runs of the notebook without a network."""

import json
import os
import subprocess
import sys

import pytest
from places import REPOSITORY
from runs import save_random_artifact

from hrm_offline.answers.score import score_files
from hrm_offline.answers.submission import fallback_submission
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import write_json as write
from hrm_offline.data.sets import size_of
from hrm_offline.data.tasks import TaskSet, digest_of, load_tasks, to_challenges, to_solutions
from tools import build_kernel, local_dryrun
from tools.local_dryrun import choose_tasks

CONTACT_DATA = REPOSITORY / "tools" / "bench" / "contact" / "data"


def test_the_default_rehearsal_and_its_null_baseline(tmp_path):
    tasks = choose_tasks("arc1", None)
    assert len(tasks) == 30
    assert all(len(task.train) >= 3 for task in tasks)
    # The first contact with a GPU has the same tasks in a file.
    assert digest_of(load_tasks(CONTACT_DATA / "small.json").require_good()) == digest_of(tasks)
    write(tmp_path / "null.json", fallback_submission(TaskSet("x", tuple(t.without_labels() for t in tasks))))
    write(tmp_path / "truth.json", to_solutions(tasks))
    score = score_files(tmp_path / "null.json", tmp_path / "truth.json")
    assert score.task_points(2) == pytest.approx(3.67, abs=0.01)
    assert len(score.solved) == 3


def test_task_choice_looks_at_no_test_output():
    labelled = choose_tasks("arc1", 9)
    assert len(labelled) == 9
    assert [size_of(task) for task in labelled] == [size_of(task.without_labels()) for task in labelled]
    assert len(choose_tasks("arc2-eval", 5)) == 5


def test_tasks_that_cannot_be_rehearsed_are_left_out_and_counted(make_task, write_json, capsys):
    pairs = [((3, 3), (3, 3))]
    tasks = [make_task("few", pairs * 2), *(make_task(name, pairs * 3, seed=i) for i, name in enumerate("abc", 1))]
    content = to_challenges(tasks)
    for name in ("few", "a", "b"):
        content[name]["test"][0]["output"] = [[1]]
    content["b"]["train"][0]["output"] = [[1] * 31]
    path = write_json("tasks.json", content)
    assert [task.id for task in choose_tasks(str(path), None)] == ["a"]
    said = capsys.readouterr().out
    assert "left out 1 of 4 tasks, which cannot be used; the first is b: " in said
    assert "left out 1 tasks with a test output that is not known" in said
    assert "left out 1 tasks with fewer than 3 demonstrations" in said
    with pytest.raises(InputError, match="has only tasks with fewer than 3 demonstrations"):
        choose_tasks(str(write_json("few.json", {"few": content["few"]})), None)


@pytest.mark.parametrize(
    "flags", ["--workers -1", "--visits -1", "--preset x", "--tasks 0", "--kill-at nan", "--kill-at -1", "--budget nan"]
)
def test_what_solve_would_refuse_in_the_notebook_is_refused_at_once(tmp_path, monkeypatch, flags):
    monkeypatch.setattr(sys, "argv", ["local_dryrun.py", *flags.split(), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=flags.split()[0].strip("-").replace("-", "_")):
        local_dryrun.rehearse(local_dryrun._parse_arguments())
    assert not (tmp_path / "out").exists()


def test_settings_of_the_recipe_reach_the_notebook(tmp_path, monkeypatch):
    def options_of(*words):
        monkeypatch.setattr(sys, "argv", ["local_dryrun.py", "--set", *words, "--out", str(tmp_path / "out")])
        return local_dryrun._parse_arguments()

    words = local_dryrun._notebook_environment(options_of("lr=1e-3", "vote_views=2"))["HRM_OFFLINE_SOLVE_ARGS"]
    assert words.endswith(" --set lr=1e-3 vote_views=2")
    with pytest.raises(InputError, match="vote_views is 0"):
        local_dryrun.rehearse(options_of("vote_views=0"))


def test_the_small_network_rehearses_unless_another_is_given(tmp_path, monkeypatch):
    def preset_of(*words):
        monkeypatch.setattr(sys, "argv", ["local_dryrun.py", *words])
        return local_dryrun._parse_arguments().preset

    assert preset_of() == preset_of("--artifact", "none") == "decoder-170k"
    assert preset_of("--preset", "hrm-132k") == "hrm-132k"
    assert preset_of("--bundle", str(tmp_path)) == "decoder-170k"
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "model.safetensors").touch()
    assert preset_of("--artifact", str(tmp_path)) is preset_of("--bundle", str(tmp_path)) is None


def test_an_artifact_beside_a_bundle_which_has_its_own_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["local_dryrun.py", "--bundle", str(tmp_path), "--artifact", str(tmp_path)])
    with pytest.raises(SystemExit):
        local_dryrun._parse_arguments()
    assert "--artifact cannot be a folder beside --bundle" in capsys.readouterr().err


def rehearse(tmp_path, *arguments):
    """Rehearse one tiny task with the network cut off. Return the finished process and its tree."""
    task = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}] * 3, "test": [{"input": [[3, 4]], "output": [[4, 3]]}]}
    (tmp_path / "tasks.json").write_text(json.dumps({"abc": task}))
    command = [
        sys.executable,
        str(REPOSITORY / "tools" / "local_dryrun.py"),
        "--data",
        str(tmp_path / "tasks.json"),
        "--visits",
        "2",
        "--budget",
        "2m",
        "--out",
        str(tmp_path / "run"),
        *map(str, arguments),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    return result, tmp_path / "run" / "kaggle"


def checks_of(result) -> dict[str, str]:
    """Return the rehearsal's last list: PASS, FAIL or SKIP by name."""
    lines = [line.partition(" ") for line in result.stdout.splitlines() if line[:5] in ("PASS ", "FAIL ", "SKIP ")]
    return {rest.partition(":")[0]: word for word, _, rest in lines}


ALL_CHECKS = ("offline", "in time", "valid", "undisturbed", "deterministic install", "score")


def test_the_notebook_runs_on_a_kaggle_like_tree(tmp_path):
    result, tree = rehearse(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert checks_of(result) == dict.fromkeys(ALL_CHECKS, "PASS")
    assert "network connections: 0" in result.stdout
    assert "Going on without the vendored wheels" in result.stdout
    assert "projected, not measured: 240 tasks" in result.stdout
    assert len(json.loads((tree / "working" / "submission.json").read_text())["abc"]) == 1
    mounted = tree / "input" / "hrm-offline-bundle"
    assert (mounted / "SHA256SUMS").exists()
    assert not (mounted / "dataset-metadata.json").exists()  # Kaggle's client does not upload it


def test_a_ready_bundle_is_rehearsed_with_its_artifact_and_survives_a_kill(tmp_path):
    artifact = save_random_artifact(tmp_path / "artifact")
    build_kernel.build(tmp_path / "bundle", "somebody", "arc-prize-2026", artifact, lock=None)
    result, tree = rehearse(tmp_path, "--bundle", tmp_path / "bundle", "--kill-at", "0.3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert checks_of(result) == dict.fromkeys((*ALL_CHECKS, "killed"), "PASS")
    assert "exit code -9" in result.stdout
    assert (tree / "input" / "arc-prize-2026" / "arc-agi_test_challenges.json").exists()
    report = json.loads((tree / "working" / "report.json").read_text())
    assert report["artifact"] == str(tree / "input" / "hrm-offline-bundle")
    assert not (tmp_path / "run" / "bundle").exists()
