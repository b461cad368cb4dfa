"""Pictures of what a run left: which there are, and what is in them."""

import builtins
import json
import shutil

import numpy as np
import pytest

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import Pair, Task, to_challenges, to_solutions
from hrm_offline.model.artifact import bundled_artifact
from hrm_offline.show.collect import Album, pretraining_curves, shown_steps

PICTURES = {"predictions.png", "votes.png", "outer_steps.png", "training.png"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run on two tasks, one of them learned, and their solutions."""
    folder = tmp_path_factory.mktemp("run")
    grids = [np.full((2, 2), colour, np.uint8) for colour in range(4)]
    same = Task("same", tuple(Pair(grid, grids[1]) for grid in grids[:3]), (Pair(grids[0], grids[1]),))
    odd = Task("$odd_$", same.train[:2], (Pair(grids[3], grids[2]), Pair(grids[1], grids[1])))
    (folder / "challenges.json").write_text(json.dumps(to_challenges([same, odd])))
    (folder / "solutions.json").write_text(json.dumps(to_solutions([same, odd])))
    assert (
        main(
            [
                "solve",
                "--challenges",
                str(folder / "challenges.json"),
                "--out",
                str(folder / "out"),
                "--budget",
                "2m",
                "--visits",
                "1000",
                "--adapt",
                "per-task",
                "--workers",
                "0",
                "--keep-networks",
            ]
        )
        == 0
    )
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """The same folder, to be changed."""
    return shutil.copytree(run / "out", tmp_path / "out")


def pictures_in(folder) -> set[str]:
    for path in folder.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 1000
    return {path.name for path in folder.iterdir()}


def test_all_pictures_of_a_run_are_drawn(run, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["show", str(run / "out"), "--solutions", str(run / "solutions.json"), "--out", str(out)]) == 0
    assert pictures_in(out) == PICTURES
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_right_candidates_are_known_by_the_solutions_alone(run):
    album = Album(run / "out", run / "solutions.json")
    ballots = album.ballots(album.choose(None))
    assert [ballot.name for ballot in ballots] == ["same test 0", "$odd_$ test 0", "$odd_$ test 1"]
    same, wrong, right = ballots
    assert (same.right, right.right) == (0, 0)
    assert same.total == sum(candidate.count for candidate in same.candidates)
    assert wrong.right is None  # its demonstrations teach another answer
    assert {ballot.right for ballot in Album(run / "out").ballots(album.choose(None))} == {None}


def test_outer_steps_are_of_the_saved_network(run):
    album = Album(run / "out", run / "solutions.json")
    same, *_ = album.unfoldings(album.choose(["same"]))
    assert [step for step, _, _ in same.steps] == [1, 2]
    assert np.array_equal(same.steps[-1][1], same.truth)
    assert all(0 <= confidence <= 1 for _, _, confidence in same.steps)
    assert [shown_steps(last) for last in (1, 2, 4, 6)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 6]]


def test_tasks_are_chosen_by_name(run):
    album = Album(run / "out")
    assert album.choose(["$odd_$"]) == [("$odd_$", 0), ("$odd_$", 1)]
    with pytest.raises(InputError, match="none-such"):
        album.choose(["none-such"])


def test_a_curve_ends_with_the_last_step_of_its_group(run):
    report = json.loads((run / "out" / "report.json").read_text())
    curves = Album(run / "out").curves()["token loss"]
    assert [curve.steps[-1] for curve in curves] == [group["steps"] for group in report["adapted"]["groups"]]
    assert {curve.name for curve in curves} == {"same", "$odd_$"}


def test_without_networks_the_rest_is_drawn(copy, capsys):
    for path in (copy / "journal").glob("*.safetensors"):
        path.unlink()
    assert main(["show", str(copy)]) == 0
    assert pictures_in(copy / "pictures") == PICTURES - {"outer_steps.png"}
    assert "not there any more" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report.json", "submission.json", "journal/run.journal"])
def test_a_missing_file_is_named(copy, capsys, name):
    (copy / name).unlink()
    assert main(["show", str(copy)]) == 2
    assert name in capsys.readouterr().err
    assert main(["show", str(copy / "none-such")]) == 2
    assert "none-such" in capsys.readouterr().err


def test_other_challenges_are_refused(copy, make_task, write_json, capsys):
    other = write_json("other.json", to_challenges([make_task("same")]))
    assert main(["show", str(copy), "--challenges", str(other)]) == 2
    assert "other tasks" in capsys.readouterr().err


def test_a_pretraining_is_drawn(tmp_path, write_json, capsys):
    metrics = bundled_artifact("hrm-132k") / "metrics.jsonl"
    assert set(pretraining_curves(metrics)) == {"lm_loss", "accuracy"}
    assert main(["show", str(metrics), "--out", str(tmp_path / "pictures")]) == 0
    assert pictures_in(tmp_path / "pictures") == {"pretraining.png"}
    assert main(["show", str(write_json("metrics.jsonl", "{}"))]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err


def test_without_matplotlib_one_line_says_so(run, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without_matplotlib(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert main(["show", str(run / "out"), "--out", str(tmp_path)]) == 2
    assert "need matplotlib" in capsys.readouterr().err
