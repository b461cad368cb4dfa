"""Hold what every stage of a first contact shares: the rows on disk, the time that is left, the sizes to use."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from hrm_offline.data.tasks import Task, load_tasks
from hrm_offline.model.device import Runtime
from hrm_offline.ops import selftest
from tools.bench.contact.runner import rows_of
from tools.support.run_lines import RunLines

DATA = Path(__file__).parent / "data"
_SMOKE_TASKS = 2

T = TypeVar("T")


class Skipped(Exception):
    """A stage cannot run on this machine; the message says why."""


@dataclass
class Contact:
    """One stage at work: its name, the rows of all stages, and the time on `time.monotonic` when it is stopped.

    With `smoke` everything is tiny and runs on a CPU. `against` is a checkout of the published code, or None.
    """

    stage: str
    lines: RunLines
    until: float
    smoke: bool
    against: Path | None
    runtime: Runtime

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.lines.path.parent

    @property
    def preset(self) -> str:
        """The preset of the largest decoder, or a tiny one of its kind."""
        return self.pick("decoder-75m", "decoder-170k")

    def left(self) -> float:
        """Return the seconds until this stage is stopped."""
        return self.until - time.monotonic()

    def pick(self, real: T, tiny: T) -> T:
        """Return the value for a GPU, or the one for a smoke run."""
        return tiny if self.smoke else real

    def add(self, what: str, **values: object) -> None:
        """Write a row of this stage to disk and print it. Numbers that are not finite become None."""
        row = {name: _in_json(value) for name, value in values.items()}
        self.lines.add({"stage": self.stage, "kind": "row", "what": what} | row)
        print(f"{self.stage:<10}{what}: " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    def check(self, name: str, passed: bool, detail: str) -> None:
        """Write a line of the list of PASS and FAIL."""
        self.add("check", name=name, passed=passed, detail=detail)

    def found(self, stage: str, what: str) -> list[dict]:
        """Return the rows of a kind that a stage has written since it began last."""
        return [row for row in rows_of(self.lines, stage) if row["what"] == what]

    def tasks(self, name: str) -> tuple[Task, ...]:
        """Return the tasks of a file in `data`; in a smoke run the smallest of them."""
        tasks = load_tasks(DATA / f"{name}.json").require_good()
        if not self.smoke:
            return tasks
        return tuple(sorted(tasks, key=lambda task: sum(pair.input.size for pair in task.train))[:_SMOKE_TASKS])

    def peak_tflops(self) -> float:
        """Return the TFLOP/s that the stage `machine` has measured, NaN where it has not."""
        rows = self.found("machine", "peaks")
        return rows[-1]["product TFLOP/s"] if rows else math.nan

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def use_proven_operations(self, preset: str) -> None:
        """Use what the stage `selftest` found best at the largest shape of a preset, as `solve` would."""
        rows = [row for row in self.found("selftest", "verdict") if row["preset"] == preset]
        first = [row for row in rows if row["shape"] == rows[0]["shape"]]
        selftest.apply([{name: row[name] for name in ("op", "candidate", "reason")} for row in first])


def _in_json(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
