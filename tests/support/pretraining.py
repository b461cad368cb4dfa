"""Start small pretraining runs in processes of their own, and read what they measured."""

import json
import subprocess
import sys

import warm

# Eight real tasks, the smallest canvases, steps of a few milliseconds.
SETTINGS = [
    "--preset",
    "hrm-132k",
    "--data",
    "arc1-train",
    "--held-out",
    "--max-side",
    "5",
    "--limit",
    "8",
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


def launch(out, *extra, processes=1):
    """Start a pretraining run in `processes` processes."""
    program = ["-m", "hrm_offline", "pretrain", "--out", str(out), *SETTINGS, *extra]
    if processes > 1:
        program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *program]
    return subprocess.Popen([sys.executable, *program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    """Wait for a run, which must succeed, and return its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run(out, *extra, processes=1, code=0):
    """Run a pretraining that ends with exit code `code`, in processes that have PyTorch loaded. Return its output.

    Several processes find each other as torchrun has them do.
    """
    log = out.with_name(f"{out.name}.log")
    arguments = ["pretrain", "--out", str(out), *SETTINGS, *extra]
    codes = warm.run_commands([arguments] * processes, log, **warm.torchruns_variables(processes))
    assert codes == [code] * processes, log.read_text()
    return log.read_text()


def metrics(out):
    """Return the lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
