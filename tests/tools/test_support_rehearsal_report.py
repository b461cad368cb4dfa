"""Test how a rehearsal is judged where its notebook left nothing, or something wrong."""

import shutil

import pytest

from hrm_offline.answers.submission import fallback_submission
from hrm_offline.common.files import make_folder, write_json
from hrm_offline.data.tasks import TaskSet
from tools.support.rehearsal_report import Check, Rehearsal, Run, judge
from tools.vendor_wheels import sha256


@pytest.fixture
def rehearsal(make_task, tmp_path):
    """Return a rehearsal of one task whose notebook ended with exit code 0 and left no file."""
    runs = [Run(0, 5.0)]
    return Rehearsal([make_task()], tmp_path, 60.0, 1, None, True, {"one hash"}, "guarded", runs=runs)


def lines_of(capsys) -> dict[str, str]:
    """Return PASS, FAIL or SKIP by the name of the check."""
    lines = [line.partition(":")[0].partition(" ") for line in capsys.readouterr().out.splitlines()]
    return {name: word for word, _, name in lines if word in ("PASS", "FAIL", "SKIP")}


def test_a_notebook_that_left_nothing_fails(rehearsal, capsys):
    assert judge(rehearsal) == 1
    found = lines_of(capsys)
    assert {name for name, word in found.items() if word == "FAIL"} == {"valid", "undisturbed", "in time", "score"}


def test_a_submission_of_other_tasks_is_a_problem_and_the_right_one_is_none(rehearsal):
    rehearsal.submission.parent.mkdir(parents=True)
    right = fallback_submission(TaskSet("x", tuple(rehearsal.tasks)))
    write_json(rehearsal.submission, {"other": right["t"]})
    assert "task other" in rehearsal.problem_of_submission()
    write_json(rehearsal.submission, right)
    assert rehearsal.problem_of_submission() == ""


def test_what_solve_had_to_recover_from_fails_the_rehearsal(rehearsal, capsys):
    report = {"failures": ["the artifact cannot be used"], "left out": ["a"], "tasks on their fallback": ["b"]}
    write_json(make_folder(rehearsal.submission.parent) / "report.json", report | {"seconds in all": 5.0})
    assert judge(rehearsal) == 1
    assert "FAIL undisturbed: the artifact cannot be used; a; b\n" in capsys.readouterr().out


def test_a_connection_or_two_different_builds_fail_the_rehearsal(rehearsal, capsys):
    rehearsal.attempts.append("example.org:443")
    rehearsal.builds.add("another hash")
    assert judge(rehearsal) == 1
    found = lines_of(capsys)
    assert found["offline"] == found["deterministic install"] == "FAIL"


def test_a_mounted_file_that_was_changed_fails_the_rehearsal(rehearsal, dataset, wheel, tmp_path, capsys):
    rehearsal.mounted = shutil.copytree(dataset, tmp_path / "mounted")
    rehearsal.builds = {sha256(wheel)}
    judge(rehearsal)
    assert lines_of(capsys)["deterministic install"] == "PASS"
    requirements = rehearsal.mounted / "requirements.txt"
    requirements.write_text(requirements.read_text() + "\n")
    assert judge(rehearsal) == 1
    assert "FAIL deterministic install: " in (printed := capsys.readouterr().out)
    assert "differs: requirements.txt" in printed


def test_a_check_that_could_not_be_judged_is_skipped():
    assert str(Check("score", None, "no labels")) == "SKIP score: no labels"
