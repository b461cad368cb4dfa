"""Run stages one after another, each in a process of its own that is stopped when its time is over.

Everything is in `rows.jsonl`, one JSON object per line: that a stage begins, its rows, and how it ended. So a run that
was cut off goes on where it was, and a stage that hangs or takes its process down costs no other stage anything.
Standard library only: the leading process touches no GPU.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hrm_offline.common.errors import InputError
from tools.bench.contact.plan import STAGES, Stage
from tools.support.run_lines import RunLines

ROWS_FILE = "rows.jsonl"
_MAX_BEGINNINGS = 2  # a stage that was cut off so often without an end is given up
_GRACE_SECONDS = 2.0  # for a stopped process to be gone
_SIGKILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def open_lines(folder: Path, smoke: bool) -> RunLines:
    """Return the rows of a folder. Raises `InputError` where a smoke run and a real one would mix."""
    lines = RunLines(folder / ROWS_FILE)
    kinds = {line["smoke"] for line in lines.lines if line.get("kind") == "begin"}
    if kinds - {smoke}:
        raise InputError(f"{folder}: holds {'a real' if smoke else 'a smoke'} run, expected another --out")
    return lines


def state_of(lines: RunLines, stage: str) -> str | None:
    """Return "done", "failed", "skipped", "stopped" or "lost" for a stage that has ended, None for one that is to run.

    "lost" has begun several times and never ended: it takes everything down.
    """
    own = _kinds(lines, stage)
    if "again" in own:
        own = own[len(own) - own[::-1].index("again") :]
    ends = [line["state"] for line in lines.lines if line.get("stage") == stage and line.get("kind") == "end"]
    if "end" in own:
        return ends[-1]
    return "lost" if len(own) >= _MAX_BEGINNINGS else None


def rows_of(lines: RunLines, stage: str) -> list[dict]:
    """Return the rows that a stage has written since it began last."""
    rows: list[dict] = []
    for line in lines.lines:
        if line.get("stage") == stage and line["kind"] in ("begin", "row"):
            rows = [] if line["kind"] == "begin" else [*rows, line]
    return rows


def _kinds(lines: RunLines, stage: str) -> list[str]:
    """Return the lines of a stage, without its rows, by kind: "begin", "end" or "again"."""
    own = [line["kind"] for line in lines.lines if line.get("stage") == stage]
    return [kind for kind in own if kind != "row"]


def run_stages(
    folder: Path,
    minutes: float,
    chosen: list[str],
    smoke: bool,
    command_of: Callable[[str, float], list[str]],
    commit: str,
) -> list[str]:
    """Run the chosen stages that have not ended yet, for at most `minutes`. Return those that are left for later.

    `command_of(stage, seconds)` is the command that runs a stage. A stage is begun if its whole time is left. The first
    one of a call is begun in any case, so that every call gets on.
    """
    until = time.monotonic() + 60 * minutes
    waiting = [stage for stage in STAGES if stage.name in chosen]
    waiting = [stage for stage in waiting if state_of(open_lines(folder, smoke), stage.name) is None]
    is_first = True
    while waiting:
        stage, left = waiting[0], until - time.monotonic()
        if left < stage.seconds and not is_first:
            break
        seconds = left if stage.takes_rest else min(stage.seconds, left)
        _run(folder, stage, seconds, smoke, command_of(stage.name, seconds), commit)
        waiting.pop(0)
        is_first = False
    return [stage.name for stage in waiting]


def _run(folder: Path, stage: Stage, seconds: float, smoke: bool, command: list[str], commit: str) -> None:
    """Run one stage in a process group of its own, and write how it ended where the stage itself could not."""
    began = time.time()
    print(f"\n===== {stage.name}: {stage.what} (at most {seconds:.0f} s)", flush=True)
    begin = {"stage": stage.name, "kind": "begin", "time": round(began), "smoke": smoke, "commit": commit}
    open_lines(folder, smoke).add(begin)
    process = subprocess.Popen(command, preexec_fn=_begin_process)
    state, reason = "failed", None
    try:
        code = process.wait(seconds)
        reason = f"its process ended with code {code}"
    except subprocess.TimeoutExpired:
        state, reason = "stopped", f"its {seconds:.0f} s were over"
    finally:
        _end(process)
    lines = open_lines(folder, smoke)
    if _kinds(lines, stage.name)[-1] == "begin":
        lines.add(end_of(stage.name, state, time.time() - began, reason))
    print(f"{stage.name}: {state_of(lines, stage.name)} after {time.time() - began:.0f} s", flush=True)


def end_of(stage: str, state: str, seconds: float, reason: str | None = None) -> dict:
    """Return the line that ends a stage."""
    return {"stage": stage, "kind": "end", "state": state, "seconds": round(seconds, 1), "reason": reason}


def _begin_process() -> None:
    """Put a stage into a process group of its own, so that all that it starts can be ended with it."""
    os.setpgrp()
    die_with_parent()


def die_with_parent() -> None:
    """Have the system kill this process when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGKILL_WITH_PARENT, signal.SIGKILL)


def _end(process: subprocess.Popen) -> None:
    """End a stage's process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} cannot be ended: it waits for the driver", flush=True)
