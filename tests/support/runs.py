"""Start runs of `solve` in tests, and look at what they leave."""

import json
import os
import signal
import subprocess
import time

import torch
from places import REPOSITORY

from hrm_offline.answers.submission import read_submission
from hrm_offline.common.budget import Budget
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.model.artifact import save_artifact
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import PRESETS
from hrm_offline.solve import probe
from hrm_offline.solve.job import solve
from hrm_offline.solve.messages import Beat
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.pool import InlinePool
from hrm_offline.solve.worker import Worker


def check(out, challenges):
    """Check that the submission is complete. Return the submission and the report."""
    read_submission(out / "submission.json", {task_id: len(task["test"]) for task_id, task in challenges.items()})
    return json.loads((out / "submission.json").read_text()), json.loads((out / "report.json").read_text())


SMALL = PRESETS["hrm-132k"]


def options_of(challenges, tmp_path, name="out", workers=1, sharing="sharded", **changes):
    """Return the options of a small run on the `challenges` fixture, by default with the smallest recursive network.

    By default that network answers alone.
    """
    changes.setdefault("induce", "off")
    if "artifact" not in changes:
        changes.setdefault("preset", "hrm-132k")
    overrides = changes.pop("overrides", None) or {"visits": changes.pop("visits", 20)}
    overrides = {"members": 1} | overrides  # a further member starts where there is time, so it hangs on the machine
    return SolveOptions(
        challenges[0], tmp_path / name, overrides=overrides, workers=workers, sharing=sharing, **changes
    )


def shorten_probes(patch):
    """Have runs in this process measure their speed in a few predictions of one row, by a `MonkeyPatch`.

    No CUDA graphs are tried then.
    """
    patch.setattr(probe, "_PROBE_SECONDS", 0.0)
    patch.setattr(probe, "_PROBING_SHARE", 0.0)


def inline(engine, clock=time.monotonic):
    """Return a pool with one worker inside this process."""
    return InlinePool(lambda receive, send: Worker(receive, send, engine, clock))


def solve_quietly(options, seconds=300, **more):
    """Run `solve` without output, and return its report."""
    return solve(options, Budget(seconds), say=lambda _: None, **more)


class CutOff(InlinePool):
    """Break the run off after some messages, as a kill does. Beats do not count: a busy machine sends more of them."""

    def __init__(self, make_worker, messages):
        super().__init__(make_worker)
        self.left = messages

    def receive(self, timeout):
        if self.left <= 0:
            raise KeyboardInterrupt
        received = super().receive(timeout)
        self.left -= received is None or not isinstance(received[1], Beat)
        return received


def save_random_artifact(folder, config=SMALL.model, seed=0):
    """Save an artifact of random weights, and return its folder."""
    torch.manual_seed(seed)
    save_artifact(folder, config, "factored", RecursiveModel(config, SHARED_ROWS).state_dict(), [], {})
    return folder


def said_until_signal(command: list[str], number: signal.Signals, exit_code: int, times: int = 1) -> str:
    """Wait until a run computes, send a signal to all of its processes, and return its output after that.

    A terminal sends Ctrl-C to all processes too. There must be no traceback, and the exit code is checked.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY, start_new_session=True
    ) as run:
        while "computing on" not in run.stdout.readline():
            assert run.poll() is None
        for _ in range(times):
            os.killpg(run.pid, number)
        text = run.stdout.read()
    assert run.returncode == exit_code, text
    assert "Traceback" not in text
    return text
