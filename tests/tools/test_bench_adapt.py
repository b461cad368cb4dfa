"""Test the benchmark of adaptation."""

import json
import os
import subprocess
import sys

from places import REPOSITORY

from hrm_offline.common.files import write_json as write
from hrm_offline.data.tasks import to_challenges, to_solutions


def run_tool(name, *arguments):
    return subprocess.run(
        [sys.executable, f"tools/{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )


def test_the_throughput_benchmark_measures_both_canvases(tmp_path, make_task):
    tasks = (make_task("small", [((2, 2), (2, 2))] * 3), make_task("large", [((8, 9), (8, 9))] * 3))
    labels = to_solutions(tasks)
    challenges = to_challenges(tasks)
    for task_id, task in challenges.items():
        for pair, output in zip(task["test"], labels[task_id]):
            pair["output"] = output
    write(tmp_path / "tasks.json", challenges)
    out = tmp_path / "bench.json"
    result = run_tool(
        "bench/adapt",
        "--sets",
        tmp_path / "tasks.json",
        "--only",
        "ready",
        "steps",
        "--tokens",
        900,
        "--rounds",
        1,
        "--out",
        out,
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(out.read_text())
    assert rows["ready"][0]["tasks"] == 240
    by_way = {(row["way"], row["canvas"]): row for row in rows["steps"]}
    assert set(by_way) == {(way, canvas) for way in ("ours", "look-ahead") for canvas in ("full", "tight")}
    assert by_way["ours", "full"]["cells an example"] == 900
    assert by_way["ours", "tight"]["cells an example"] < 200
    assert by_way["ours", "tight"]["shapes"] == 2
    assert all(row["examples/s"] > 0 and row["TFLOP/s"] > 0 for row in rows["steps"])
    refused = run_tool(
        "bench/adapt",
        "--sets",
        tmp_path / "tasks.json",
        "--only",
        "steps",
        "--against",
        tmp_path,
        "--tokens",
        900,
        "--rounds",
        1,
        "--out",
        out,
    )
    assert refused.returncode == 2
    assert str(tmp_path) in refused.stderr
