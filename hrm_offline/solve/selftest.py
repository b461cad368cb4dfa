"""Run the self-test of the operations by itself, and show it as a table: the command `selftest`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import write_json
from hrm_offline.model.device import choose_runtime
from hrm_offline.ops import dispatch, selftest
from hrm_offline.presets import preset

# The interpreter takes seconds for what a GPU does in microseconds.
_TINY = dict(batch=2, tokens=11, hidden=32, heads=2, intermediate=48, vocabulary=12, puzzle_tokens=2)
_INTERPRETED = (
    "no GPU: the kernels run in Triton's interpreter at tiny shapes. Errors count there; the TIMES BELOW MEAN NOTHING"
)


def show_selftest(
    device: str | None,
    dtype: str | None,
    preset_name: str,
    side: int,
    seconds: float,
    json_path: str | None,
    say: Callable[[str], None],
) -> bool:
    """Test a preset's operations at its shapes on canvases of `side` x `side` cells. Return whether all are right.

    On a CPU the shapes are tiny, and all operations are tested. No operation is begun after `seconds`. `json_path` is
    a file that also gets the result, or None. Raises `InputError` where no kernel can run.
    """
    runtime = choose_runtime(device, dtype)
    interpreted = runtime.device.type != "cuda"
    if interpreted:
        workload, chip = selftest.Workload(**_TINY, dtype=runtime.dtype), "Triton's interpreter on a CPU"
    else:
        torch.cuda.set_device(runtime.device)
        chosen = preset(preset_name)
        workload = selftest.workload_of(chosen.model, chosen.adapt, side * side, runtime.dtype)
        chip = selftest.chip_name(runtime.device)
    say(f"computing on {runtime}; {chip}\n{_in_words(workload)}")
    if interpreted:
        say(_INTERPRETED)
    with dispatch.override("triton") if interpreted else contextlib.nullcontext():
        found = selftest.run_selftest(workload, runtime.device, seconds, measure=_once if interpreted else None)
        untested = _untested(found, workload.ops, runtime)
    say(as_table(found))
    for line in untested:
        say(line)
    if json_path is not None:
        result = {"chip": chip, "interpreted": interpreted, "shapes": asdict(workload) | {"dtype": str(workload.dtype)}}
        _write(json_path, result | found.as_dict())
    faulty = sorted({row.op for row in found.rows if row.fault is not None})
    if faulty:
        say(f"wrong or failing: {', '.join(faulty)}")
    elif found.rows:
        say(f"every candidate that was tested is right, in {found.seconds:.0f} s")
    return not faulty


def as_table(found: selftest.SelfTest) -> str:
    """Return one line per candidate: its error, the error allowed, its time, and whether it serves."""
    chosen = {verdict.op: verdict.candidate for verdict in found.verdicts}
    lines = [f"{'operation':<25}{'candidate':<28}{'error':>10}{'allowed':>10}{'ms':>10}  serves"]
    for row in found.rows:
        numbers = "".join(
            f"{'-' if value is None else format(value, '.2g' if value is not row.milliseconds else '.4g'):>10}"
            for value in (row.error, row.allowed, row.milliseconds)
        )
        remark = row.fault or ("yes" if chosen[row.op] == row.candidate else "")
        lines.append(f"{row.op:<25}{row.candidate:<28}{numbers}  {remark}".rstrip())
    tested = {row.op for row in found.rows}
    lines += [f"{verdict.op:<25}{verdict.reason}" for verdict in found.verdicts if verdict.op not in tested]
    return "\n".join(lines)


def _untested(found: selftest.SelfTest, used: tuple[str, ...] | None, runtime) -> list[str]:
    """Return a line for each operation of the network, `used`, that no kernel would serve here. None: all are used."""
    known = {verdict.op for verdict in found.verdicts}
    lines = []
    for op in dispatch.RULES:
        if used is not None and op not in used:
            lines.append(f"{op:<25}the network does not call it")
        elif op not in known:
            decision = dispatch.decide(op, runtime.device, dispatch.dtype_of(op, runtime.dtype))
            lines.append(f"{op:<25}PyTorch serves ({decision.reason})")
    return lines


def _in_words(w: selftest.Workload) -> str:
    return (
        f"{w.batch} sequences of {w.tokens} tokens, {w.hidden} wide with {w.heads} heads, "
        f"SwiGLU {w.intermediate} wide, {str(w.dtype).removeprefix('torch.')}"
    )


def _once(call: Callable[[], object], device: torch.device) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def _write(path: str, result: dict) -> None:
    try:
        write_json(Path(os.path.abspath(path)), result, indent=2)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None
