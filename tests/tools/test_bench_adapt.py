"""Test the benchmark of adaptation."""

import json
import sys

from hrm_offline.common.files import write_json as write
from hrm_offline.data.tasks import to_challenges, to_solutions
from tools.bench import adapt
from tools.support.command_line import run_tool


def test_the_throughput_benchmark_measures_both_canvases(tmp_path, make_task, monkeypatch, capsys):
    tasks = (make_task("small", [((2, 2), (2, 2))] * 3), make_task("large", [((8, 9), (8, 9))] * 3))
    labels = to_solutions(tasks)
    challenges = to_challenges(tasks)
    for task_id, task in challenges.items():
        for pair, output in zip(task["test"], labels[task_id]):
            pair["output"] = output
    write(tmp_path / "tasks.json", challenges)
    out = tmp_path / "bench.json"
    words = ["--device", "cpu", "--sets", str(tmp_path / "tasks.json"), "--tokens", "900", "--rounds", "1"]

    def bench(*more):
        monkeypatch.setattr(sys, "argv", ["adapt.py", *words, "--out", str(out), *more])
        return run_tool(adapt.main)

    assert bench("--only", "ready", "steps") == 0
    rows = json.loads(out.read_text())
    assert rows["ready"][0]["tasks"] == 240
    by_way = {(row["way"], row["canvas"]): row for row in rows["steps"]}
    assert set(by_way) == {(way, canvas) for way in ("ours", "look-ahead") for canvas in ("full", "tight")}
    assert by_way["ours", "full"]["cells an example"] == 900
    assert by_way["ours", "tight"]["cells an example"] < 200
    assert by_way["ours", "tight"]["shapes"] == 2
    assert all(row["examples/s"] > 0 and row["TFLOP/s"] > 0 for row in rows["steps"])
    assert bench("--only", "steps", "--against", str(tmp_path)) == 2
    assert str(tmp_path) in capsys.readouterr().err
