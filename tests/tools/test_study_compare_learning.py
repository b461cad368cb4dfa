"""Test the comparison of ways to learn."""

import json
import sys

from tools.study import compare_learning
from tools.support.command_line import run_tool


def test_arms_are_compared_and_finished_runs_are_not_repeated(tmp_path, monkeypatch, capsys):
    def compare(*arms):
        words = [word for arm in arms for word in ("--arm", *arm)]
        monkeypatch.setattr(
            sys,
            "argv",
            ["compare_learning", *words, "--visits", "1", "--seeds", "0", "--out", str(tmp_path / "runs.jsonl")],
        )
        return run_tool(compare_learning.main)

    assert compare(["tight"], ["factored", "conditioning=factored"]) == 0
    lines = (tmp_path / "runs.jsonl").read_text().replace('"core_seconds": null, ', "")  # as older versions wrote them
    (tmp_path / "runs.jsonl").write_text(lines)
    runs = {run["arm"]: run for run in map(json.loads, lines.splitlines())}
    assert runs["tight"]["examples"] == runs["factored"]["examples"] > 100
    assert runs["tight"]["loss"] > 0 < runs["tight"]["test"]
    capsys.readouterr()
    assert compare(["tight"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "tight"
    assert (tmp_path / "runs.jsonl").read_text() == lines
    assert compare(["tight", "canvass=full"]) == 2
    assert "canvass" in capsys.readouterr().err
