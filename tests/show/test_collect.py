"""Test what is read from a run's folder for its pictures."""

import json

import numpy as np
import pytest

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import to_challenges
from hrm_offline.show.collect import Album, shown_steps


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
