"""Run one stage in this process, from its first row to the line that says how it ended."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from hrm_offline.model.device import choose_runtime
from hrm_offline.ops.faults import first_line
from tools.bench.contact import foresight, machine, pair, proofs, runs, speed
from tools.bench.contact.contact import Contact, Skipped
from tools.bench.contact.runner import end_of, open_lines

FUNCTIONS: dict[str, Callable[[Contact], None]] = {
    "machine": machine.measure_peaks,
    "selftest": proofs.prove_operations,
    "tests": proofs.run_tests,
    "solve": runs.solve_tasks,
    "fault": runs.fail_on_purpose,
    "step": speed.time_steps,
    "block": speed.time_block,
    "published": speed.time_published,
    "predict": foresight.foresee_prediction,
    "repeat": proofs.repeat_a_seed,
    "pair": pair.learn_together,
    "curve": foresight.draw_curve,
}


def run_stage(name: str, folder: Path, seconds: float, smoke: bool, against: Path | None) -> int:
    """Run a stage for at most `seconds`, and write how it ended. Return its exit code, 0 unless it failed."""
    began = time.monotonic()
    lines = open_lines(folder, smoke)
    state, reason, code = "done", None, 0
    if smoke:
        torch.set_num_threads(1)
    try:
        runtime = choose_runtime("cpu" if smoke else None)
        FUNCTIONS[name](Contact(name, lines, began + seconds, smoke, against, runtime))
    except Skipped as skipped:
        state, reason = "skipped", str(skipped)
    except Exception as error:  # of any kind: the next stage goes on
        traceback.print_exc()
        state, reason, code = "failed", first_line(error), 1
    lines.add(end_of(name, state, time.monotonic() - began, reason))
    return code
