"""Find out in half an hour what this package does on a GPU: right, whole, fast, in how much memory.

    python tools/bench/first_contact.py --minutes 28
    python tools/bench/first_contact.py --minutes 9      # again and again, where a call may last ten minutes
    python tools/bench/first_contact.py --smoke          # every stage once at toy size, on a CPU

Needs torch, triton, numpy, safetensors and pytest, and no network. The tasks lie in tools/bench/contact/data. Each
stage runs in a process of its own within a time of its own (docs/gpu.md lists them), and whatever a stage does, the
next one follows. Every row is on disk at once, in rows.jsonl. The same command goes on after the last stage that has
ended, so the folder of --out must be kept between calls. Each call ends by writing result.json and result.md.

The exit code is 1 if a check or a stage has failed so far.
"""

from __future__ import annotations

import script_setup

import argparse
import os
import signal
import sys
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, write_bytes, write_json
from tools.bench.contact.plan import MINUTES, STAGES
from tools.bench.contact.report import as_markdown, checks_of, is_clean, result_of
from tools.bench.contact.runner import open_lines, run_stages
from tools.support import environment
from tools.support.command_line import absolute_path, parser_of, run_tool

NAMES = [stage.name for stage in STAGES]


def main() -> int:
    options = _parse_arguments()
    name = "first_contact_smoke" if options.smoke else "first_contact"
    folder = make_folder(options.out or environment.REPOSITORY / "runs" / name)
    if options.stage is not None:
        from tools.bench.contact.stages import run_stage

        return run_stage(options.stage, folder, options.seconds, options.smoke, options.against)
    if not options.smoke:
        _require_gpu()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the stage is ended too
    lines = open_lines(folder, options.smoke)
    for again in options.again:
        lines.add({"stage": again, "kind": "again"})
    try:
        left = run_stages(
            folder,
            options.minutes,
            options.only,
            options.smoke,
            lambda stage, seconds: _command(options, folder, stage, seconds),
            options.commit or environment.commit_of_checkout(),
        )
    finally:
        result = _write(folder, options.smoke)
    for check in checks_of(result):
        print(f"{'PASS' if check['passed'] else 'FAIL'} {check['stage']}, {check['name']}: {check['detail']}")
    print(f"{folder / 'result.md'}" + (f"; the same command goes on with {', '.join(left)}" if left else ""))
    return 0 if is_clean(result) else 1


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError("this needs a GPU, and torch finds none (--smoke walks every stage on a CPU)")


def _command(options: argparse.Namespace, folder: Path, stage: str, seconds: float) -> list[str]:
    """Return the command that runs one stage, and set what its process must find in its environment."""
    if options.smoke:
        os.environ.update(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it
    command = [sys.executable, __file__, "--stage", stage, "--seconds", str(seconds), "--out", str(folder)]
    command += ["--against", str(options.against)] if options.against else []
    return command + (["--smoke"] if options.smoke else [])


def _write(folder: Path, smoke: bool) -> dict:
    """Write result.json and result.md, and return the result."""
    result = result_of(open_lines(folder, smoke))
    write_json(folder / "result.json", result, indent=1)
    write_bytes(folder / "result.md", as_markdown(result).encode())
    return result


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, metavar="M", help="time of this call (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", default=NAMES, choices=NAMES, metavar="STAGE", help="stages to run (default: all)"
    )
    parser.add_argument(
        "--again", nargs="+", default=[], choices=NAMES, metavar="STAGE", help="stages to run although they have ended"
    )
    parser.add_argument(
        "--against", type=absolute_path, metavar="DIR", help="checkout of sapientinc/HRM for the stage published"
    )
    parser.add_argument(
        "--commit", metavar="TEXT", help="commit of the code, for a machine without its git folder (default: git's)"
    )
    parser.add_argument("--smoke", action="store_true", help="walk every stage at toy size on a CPU")
    parser.add_argument(
        "--out", type=absolute_path, metavar="DIR", help="folder of the results (default: runs/first_contact[_smoke])"
    )
    parser.add_argument("--stage", choices=NAMES, metavar="STAGE", help="run one stage here; the tool calls itself so")
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="time of --stage (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
