"""Test how the notebook finds the artifact on the platform and runs a command within a time limit."""

import os
import signal
import sys
import time

import psutil
import pytest

from hrm_offline.solve import kaggle


def make_artifact(folder, config: str):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text("the same")
    (folder / "config.json").write_text(config)


def test_the_artifact_is_found_wherever_it_is_mounted(tmp_path):
    assert kaggle.find_artifact(tmp_path) is None
    artifact = tmp_path / "models" / "hrm"
    artifact.mkdir(parents=True)
    (artifact / "model.safetensors").write_text("")
    assert kaggle.find_artifact(tmp_path) is None  # weights of something else
    (artifact / "config.json").write_text("{}")
    assert kaggle.find_artifact(tmp_path) == artifact


def test_copies_of_the_artifact_are_told_and_compared(tmp_path):
    said = []
    for folder, config in (("arc", "{}"), ("competitions/arc", "{}"), ("old/arc-2025", '{"a": 1}')):
        make_artifact(tmp_path / folder, config)
    near = tmp_path / "arc"
    assert kaggle.find_artifact(tmp_path, said.append) == near
    (line,) = said
    assert f"found 3 times: taken {near};" in line
    assert f"{tmp_path}/competitions/arc (the same)" in line
    assert f"{tmp_path}/old/arc-2025 (DIFFERENT)" in line
    assert kaggle.find_artifact(near, said.append)
    assert len(said) == 1


def test_tasks_to_learn_along_are_found_and_become_flags(tmp_path):
    assert kaggle.along_flags(tmp_path) == []
    far = tmp_path / "datasets" / "bundle" / kaggle.ALONG_FILE
    far.parent.mkdir(parents=True)
    far.write_text('{"a": {"train": []}}')
    assert kaggle.along_flags(tmp_path) == ["--along", str(far)]
    (tmp_path / kaggle.ALONG_FILE).write_text('{"b": {"train": []}}')
    said = []
    assert kaggle.along_flags(tmp_path, said.append) == ["--along", str(tmp_path / kaggle.ALONG_FILE)]
    assert f"{far.parent} (DIFFERENT)" in said[0]


@pytest.mark.parametrize("text", ["{}", '{"a": {"tra', "[1]", '{"a": {}}', "[" * 100_000])
def test_a_damaged_file_of_tasks_to_learn_along_does_not_cost_the_run(tmp_path, text):
    (tmp_path / kaggle.ALONG_FILE).write_text(text)
    said = []
    assert kaggle.along_flags(tmp_path, said.append) == []
    assert "nothing is learned along" in said[0]


def test_a_command_is_echoed_line_by_line_and_its_exit_code_returned():
    said = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    assert kaggle.run_with_limit([sys.executable, "-c", code], 30, said.append) == 3
    assert sorted(said) == ["one", "two"]


@pytest.mark.parametrize("leaves_the_group", [False, True])
def test_a_command_that_hangs_is_killed_with_its_children(monkeypatch, leaves_the_group):
    """Kill a command that hangs.

    A child that left the process group is out of reach and keeps the pipe open. That must not hang either.
    """
    monkeypatch.setattr(kaggle, "_SECONDS_TO_DRAIN", 0.5)
    code = (
        "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'], "
        f"start_new_session={leaves_the_group}); print(c.pid, flush=True); time.sleep(60)"
    )
    said, started = [], time.monotonic()
    assert kaggle.run_with_limit([sys.executable, "-c", code], 1.5, said.append) == -9
    assert time.monotonic() - started < 6
    assert said[1] == "still running after 2 s: killed"
    assert ends_within(int(said[0]), 1) is not leaves_the_group


def test_a_notebook_that_is_interrupted_lets_the_command_write_what_it_has(tmp_path):
    code = (
        "import pathlib, signal, sys, time; "
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tmp_path / 'saved')!r}).touch(), sys.exit(0))); "
        "print('ready', flush=True); time.sleep(60)"
    )

    def interrupt(line):
        signal.raise_signal(signal.SIGINT) if line == "ready" else None

    # A test process that another one started may ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            kaggle.run_with_limit([sys.executable, "-c", code], 30, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists()


def test_a_system_without_process_groups_ends_the_command_itself(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    monkeypatch.delattr(signal, "SIGKILL")
    assert kaggle.run_with_limit([sys.executable, "-c", "print(1)"], 30, [].append) == 0
    assert kaggle.run_with_limit([sys.executable, "-c", "import time; time.sleep(60)"], 0.5, [].append) != 0


def ends_within(pid: int, seconds: float) -> bool:
    """Say whether a process ends in time. It may be no child of this process, and an orphan can stay as a zombie."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
