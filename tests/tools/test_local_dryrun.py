"""The rehearsal's parts: task choice, network guard, wheel, notebook and metadata."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import REPOSITORY

from hrm_offline.answers.score import score_files
from hrm_offline.answers.submission import fallback_submission
from hrm_offline.common.files import write_json as write
from hrm_offline.data.sets import size_of
from hrm_offline.data.tasks import TaskSet, to_challenges, to_solutions
from hrm_offline.ops import launch
from tools import build_kernel
from tools.build_wheel import build_wheel
from tools.local_dryrun import choose_tasks
from tools.study import compare_learning
from tools.support.offline import OfflineRunner


def test_the_default_rehearsal_and_its_null_baseline(tmp_path):
    tasks = choose_tasks("arc1", None)
    assert len(tasks) == 30
    assert all(len(task.train) >= 3 for task in tasks)
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


def run_offline(folder: Path, code: str, namespace: bool) -> tuple[int, list[str]]:
    runner = OfflineRunner(folder, sys.executable)
    if not namespace:
        runner.namespace = []
    status = runner.run([sys.executable, "-c", code], dict(os.environ), timeout=60)
    return status, runner.attempts()


CONNECT = "import socket; socket.create_connection(('{host}', 9), timeout=2)"


@pytest.mark.parametrize("namespace", [False, True])
@pytest.mark.parametrize("host", ["192.0.2.1", "example.invalid"])
def test_connections_beyond_the_machine_are_refused_and_counted(tmp_path, host, namespace):
    status, attempts = run_offline(tmp_path, CONNECT.format(host=host), namespace)
    assert status != 0
    assert len(attempts) == 1
    assert host in attempts[0]


def test_a_child_process_is_watched_too(tmp_path):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CONNECT.format(host='192.0.2.1')!r}])"
    assert len(run_offline(tmp_path, code, namespace=False)[1]) == 1


@pytest.mark.parametrize("namespace", [False, True])
def test_the_machine_itself_stays_reachable(tmp_path, namespace):
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname()).sendall(b'x'); s.accept()[0].recv(1)"
    )
    assert run_offline(tmp_path, code, namespace) == (0, [])


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    wheel = build_wheel(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    ours = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "hrm_offline").rglob("*.py")}
    assert ours <= set(names)
    assert all(name.startswith(("hrm_offline/", "hrm_offline-")) for name in names)


def test_the_notebook_is_short_and_has_no_output():
    notebook = json.loads((REPOSITORY / "kernel" / "hrm_offline.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) <= 8
    for cell in code:
        assert cell["outputs"] == []
        assert len(cell["source"]) <= 15
        ast.parse("".join(cell["source"]))


def test_kernel_metadata():
    metadata = json.loads((REPOSITORY / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is False
    assert metadata["enable_gpu"] is True
    assert metadata["machine_shape"] == "NvidiaL4"
    assert (REPOSITORY / "kernel" / metadata["code_file"]).exists()
    # The platform wants the title's slug to equal the id's.
    assert metadata["title"].lower().replace(" ", "-") == metadata["id"].split("/")[1]
    assert {
        "dataset_sources",
        "competition_sources",
        "kernel_sources",
        "model_sources",
        "language",
        "kernel_type",
        "is_private",
    } <= metadata.keys()


def rehearse(tmp_path, *arguments):
    """One tiny task through the real rehearsal, network cut off; the result and the tree."""
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
    """The rehearsal's last list: PASS, FAIL or SKIP by name."""
    lines = [line.partition(" ") for line in result.stdout.splitlines() if line[:5] in ("PASS ", "FAIL ", "SKIP ")]
    return {rest.partition(":")[0]: word for word, _, rest in lines}


ALL_CHECKS = ("offline", "in time", "valid", "undisturbed", "deterministic install", "score")


def test_the_notebook_runs_on_a_kaggle_like_tree(tmp_path):
    result, tree = rehearse(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert checks_of(result) == dict.fromkeys(ALL_CHECKS, "PASS")
    assert "network connections: 0" in result.stdout
    assert "going on without the vendored wheels" in result.stdout
    assert "projected, not measured: 240 tasks" in result.stdout
    assert len(json.loads((tree / "working" / "submission.json").read_text())["abc"]) == 1
    mounted = tree / "input" / "hrm-offline-bundle"
    assert (mounted / "SHA256SUMS").exists()
    assert not (mounted / "dataset-metadata.json").exists()  # Kaggle's client does not upload it


def test_a_broken_artifact_fails_the_rehearsal_but_not_its_notebook(tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "model.safetensors").write_text("no weights")
    (artifact / "config.json").write_text("{}")
    result, _ = rehearse(tmp_path, "--artifact", artifact)
    assert result.returncode == 1
    assert checks_of(result) == dict.fromkeys(ALL_CHECKS, "PASS") | {"undisturbed": "FAIL"}
    assert "FAIL undisturbed: the artifact cannot be used" in result.stdout
    assert "config.json: expected a config of" in result.stdout


def test_a_ready_bundle_is_rehearsed_and_survives_a_kill(tmp_path):
    build_kernel.build(tmp_path / "bundle", "somebody", "arc-prize-2026", lock=None)
    requirements = tmp_path / "bundle" / "dataset" / "requirements.txt"
    result, tree = rehearse(tmp_path, "--bundle", tmp_path / "bundle", "--kill-at", "0.3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert checks_of(result) == dict.fromkeys((*ALL_CHECKS, "killed"), "PASS")
    assert "exit code -9" in result.stdout
    assert (tree / "input" / "arc-prize-2026" / "arc-agi_test_challenges.json").exists()
    assert not (tmp_path / "run" / "bundle").exists()

    requirements.write_text(requirements.read_text() + "\n")
    result, tree = rehearse(tmp_path, "--bundle", tmp_path / "bundle")
    assert result.returncode == 1
    assert checks_of(result) == dict.fromkeys(ALL_CHECKS, "PASS") | {"deterministic install": "FAIL"}
    assert "differs: requirements.txt" in result.stdout
    assert rehearse(tmp_path, "--bundle", tmp_path / "bundle", "--artifact", tmp_path)[0].returncode == 2


needs_triton = pytest.mark.skipif(launch.triton is None, reason="Triton is not installed")


def kernel_report(*arguments, before="pass"):
    """The tool in a process of its own, where kernels are compiled and not interpreted."""
    code = (
        f"import sys; sys.path += ['tools']; sys.argv = ['kernel_report.py', *{arguments!r}]; "
        f"from tools.bench import kernel_report; {before}; "
        "sys.exit(kernel_report.main())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)


@needs_triton
def test_every_kernel_that_would_be_chosen_compiles_for_every_chip_without_a_spill():
    report = kernel_report()
    assert report.returncode == 0, report.stdout + report.stderr
    chips = report.stdout.split("\nsm_")[1:]
    assert [chip.split()[0] for chip in chips] == ["75", "80", "86", "89", "90", "120"]
    assert "MMA" not in chips[0]
    assert "attention: PyTorch serves it in float16 (compute capability 7.5 is below 8.0)" in chips[0]
    for chip in chips[1:]:
        unit = "HGMMA" if chip.startswith("90") else "HMMA"
        matrix = [line for line in chip.splitlines() if line.startswith(("attention.", "linear_"))]
        assert len(matrix) >= 18
        assert all(unit in line for line in matrix if not line.startswith("attention.grad_kv"))


@needs_triton
def test_a_kernel_that_spills_fails_the_report():
    spoil = (
        "from hrm_offline.ops import linear_rms_norm; "
        "linear_rms_norm._CONFIGS[80] = dict(BLOCK_M=32, BLOCK_K=64, num_warps=4, num_stages=2)"
    )
    report = kernel_report("--targets", "89", "--ops", "linear_rms_norm", before=spoil)
    assert report.returncode == 1, report.stderr
    assert "SPILLS" in report.stdout
    assert kernel_report("--targets", "61").returncode == 2


@needs_triton
def test_the_memory_report_finds_the_fused_path_smaller():
    report = subprocess.run(
        [sys.executable, "tools/bench/memory_report.py", "--preset", "hrm-132k"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert report.returncode == 0, report.stderr
    fused, plain = (float(line.split(" + ")[1].split()[0]) for line in report.stdout.splitlines() if " + " in line)
    assert 0 < fused < 0.7 * plain


@needs_triton
def test_the_benchmark_refuses_without_a_gpu_and_its_smoke_run_takes_every_path(tmp_path):
    def bench(*arguments):
        return subprocess.run(
            [sys.executable, "tools/bench/ops.py", *arguments],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"},
        )

    refused = bench()
    assert refused.returncode == 2
    assert "needs a GPU" in refused.stderr
    smoke = bench("--smoke", "--out", str(tmp_path / "smoke.csv"))
    assert smoke.returncode == 0, smoke.stderr
    lines = (tmp_path / "smoke.csv").read_text().splitlines()
    operations = {line.split(",")[0] for line in lines[1:]}
    assert operations == {
        "rms_norm",
        "swiglu",
        "attention",
        "linear_swiglu",
        "linear_rms_norm out",
        "linear_rms_norm down",
        "stablemax",
        "block",
        "training step",
    }
    assert all("a smoke run" in line for line in lines[1:])
    assert bench("--smoke", "--against", str(tmp_path)).returncode == 2


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


def test_arms_are_compared_and_finished_runs_are_not_repeated(tmp_path, monkeypatch, capsys):
    def compare(*arms):
        words = [word for arm in arms for word in ("--arm", *arm)]
        monkeypatch.setattr(
            sys,
            "argv",
            ["compare_learning", *words, "--visits", "1", "--seeds", "0", "--out", str(tmp_path / "runs.jsonl")],
        )
        return compare_learning.main()

    assert compare(["tight"], ["factored", "conditioning=factored"]) == 0
    lines = (tmp_path / "runs.jsonl").read_text()
    runs = {run["arm"]: run for run in map(json.loads, lines.splitlines())}
    assert runs["tight"]["examples"] == runs["factored"]["examples"] > 100
    assert runs["tight"]["loss"] > 0
    capsys.readouterr()
    assert compare(["tight"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "tight"
    assert (tmp_path / "runs.jsonl").read_text() == lines
    assert compare(["tight", "canvass=full"]) == 2
    assert "canvass" in capsys.readouterr().err
