"""Start small pretraining runs in processes of their own, and read what they measured."""

import json
import subprocess
import sys

import warm
from places import REPOSITORY

# Sixteen real tasks on small canvases of three sizes, steps of a few milliseconds. The file is quickly read.
SETTINGS = [
    "--preset",
    "hrm-132k",
    "--data",
    str(REPOSITORY / "tools" / "bench" / "contact" / "data" / "small.json"),
    "--held-out",
    "--max-side",
    "5",
    "--limit",
    "16",
    "--tokens-per-step",
    "150",
    "--steps",
    "60",
    "--warmup-steps",
    "5",
    "--save-every",
    "10",
    "--log-every",
    "5",
    "--threads",
    "1",
]


def run_by_torchrun(out, processes):
    """Run a pretraining in processes that torchrun starts, as users do. It must succeed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "hrm_offline", "pretrain", "--out", str(out), *SETTINGS]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout


def start(out):
    """Start a pretraining in a process that has PyTorch loaded, and return the process."""
    return warm.start_command(["pretrain", "--out", str(out), *SETTINGS], _log_of(out))


def run(out, *extra, processes=1, code=0):
    """Run a pretraining that ends with exit code `code`, in processes that have PyTorch loaded. Return its output.

    Several processes find each other as torchrun has them do. What an earlier process said of `out` comes first.
    """
    arguments = ["pretrain", "--out", str(out), *SETTINGS, *extra]
    codes = warm.run_commands([arguments] * processes, _log_of(out), **warm.torchruns_variables(processes))
    assert codes == [code] * processes, _log_of(out).read_text()
    return _log_of(out).read_text()


def _log_of(out):
    return out.with_name(f"{out.name}.log")


def metrics(out):
    """Return the lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
