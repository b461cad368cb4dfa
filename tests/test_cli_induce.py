"""Test the command `induce`, from its flags to the votes that `solve` counts."""

import pytest
from planted import grids, planted
from runs import check

from hrm_offline.answers.candidates import read_candidates
from hrm_offline.cli import main
from hrm_offline.data.grids import dihedral
from hrm_offline.data.tasks import Pair, Task, load_tasks, to_challenges


@pytest.mark.usefixtures("short_probes")
def test_induce_writes_votes_that_solve_counts(write_json, tmp_path, capsys):
    """Induce a task that has a program, a task that has none, and a broken task."""
    task = planted(lambda g: dihedral(g, 6), grids(6), "turned")
    none = Task("none", (Pair(task.train[0].input, task.train[1].output), *task.train[1:]), task.test)
    good = to_challenges([task, none])
    challenges = good | {"bad\n": {"train": [], "test": [{"input": [[1]]}]}}
    path, votes = write_json("challenges.json", challenges), tmp_path / "new" / "votes.json"
    assert main(["induce", "--challenges", str(path), "--out", str(votes), "--effort", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "left out: task 'bad\\n'" in printed
    assert "1 of 2 tasks have a candidate" in printed
    candidates = read_candidates(votes, load_tasks(path))
    assert list(candidates) == ["turned", "none"]
    assert [[len(entry) > 0 for entry in entries] for entries in candidates.values()] == [[True] * 2, [False] * 2]

    words = ["--challenges", str(path), "--out", str(tmp_path / "out"), "--budget", "2m", "--visits", "1"]
    words += ["--members", "1", "--workers", "0", "--votes", f"{votes}=2", "--induce", "off"]
    assert main(["solve", *words]) == 0
    submission, report = check(tmp_path / "out", challenges)
    assert [entry["attempt_1"] for entry in submission["turned"]] == [pair.output.tolist() for pair in task.test]
    assert report["votes from elsewhere"][0]["test inputs"] == 2


def test_what_induce_cannot_do_is_one_line(write_json, tmp_path, capsys, make_task):
    path = str(write_json("challenges.json", to_challenges([make_task()])))
    for extra, word in (
        (["--out", str(tmp_path)], str(tmp_path)),
        (["--out", str(tmp_path / "o"), "--effort", "0"], "effort is 0, expected 1 or more"),
    ):
        assert main(["induce", "--challenges", path, *extra]) == 2
        line = capsys.readouterr().err
        assert word in line
        assert len(line.splitlines()) == 1
    assert not list(tmp_path.glob(".*.tmp"))
