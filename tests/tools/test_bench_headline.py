"""Test the headline: a row of three scores, from a run that is never repeated."""

import sys

import pytest

from hrm_offline.common.files import read_json, write_json
from tools.bench import headline
from tools.support.command_line import run_tool


@pytest.fixture
def measure(tmp_path, monkeypatch, capsys):
    def measure(*words):
        flags = ["--set", "rehearsal", "--tasks", "2", "--workers", "1", "--out", str(tmp_path), *words]
        monkeypatch.setattr(sys, "argv", ["headline", *flags])
        return run_tool(headline.main), capsys.readouterr()

    return measure


def test_a_row_has_three_scores_and_a_finished_run_is_not_repeated(measure, tmp_path):
    code, shown = measure("--budget", "10s", "--price-per-hour", "3600")
    row = shown.out.splitlines()[-1]
    assert code == 0 and row.count("by task") == 3
    seconds = read_json(tmp_path / "attempts.json")["seconds"]
    assert f"${sum(seconds):.2f}" in row
    assert measure("--budget", "10s", "--price-per-hour", "3600")[1].out.splitlines()[-1] == row
    assert read_json(tmp_path / "attempts.json")["seconds"] == seconds
    assert all(
        "output" not in pair for task in read_json(tmp_path / "challenges.json").values() for pair in task["test"]
    )
    code, shown = measure("--budget", "30s")
    assert code == 2 and "has budget 10s, expected 30s" in shown.err


def test_a_run_that_was_cut_off_has_the_rest_of_its_budget(measure, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(headline, "_command", lambda options, left: given.append(left) or ["false"])
    assert measure("--budget", "90s")[0] == 2
    attempts = read_json(tmp_path / "attempts.json")
    write_json(tmp_path / "attempts.json", attempts | {"seconds": [40.0]})
    assert measure("--budget", "90s")[0] == 2
    assert given == [90.0, 50.0]
