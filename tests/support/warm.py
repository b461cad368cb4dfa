"""Start processes that have loaded PyTorch already: they are forked from a server, which loads it once per session.

To load PyTorch takes longer than most runs of a test. Tests of the start itself start a Python of their own.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["torch", "torch.distributed", "safetensors.torch", "numpy"])


class Context:
    """The part of a multiprocessing context that a `ProcessPool` uses. Processes have this process' environment."""

    Pipe = staticmethod(multiprocessing.Pipe)

    @staticmethod
    def Process(target: Callable, args: tuple = (), **more) -> multiprocessing.Process:
        return _server.Process(target=_begin, args=(dict(os.environ), os.getcwd(), target, args), **more)


def _begin(environment: dict[str, str], folder: str, target: Callable, args: tuple) -> None:
    """Take over what the test has changed since the server started, and call the target."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.process._parent_process = None  # it is the server, and `end_with_parent` expects the test
    target(*args)


def start_command(arguments: list[str], log: Path, **environment: str) -> multiprocessing.Process:
    """Start `hrm_offline` with a list of arguments, and return its process. All output goes into `log`."""
    process = Context.Process(target=_run_command, args=(arguments, log, environment))
    process.start()
    return process


def run_commands(commands: list[list[str]], log: Path, **environment: str) -> list[int]:
    """Run `hrm_offline` once with each list of arguments, all at the same time, and return the exit codes.

    The number of the command stands for "{rank}" in the values of `environment`. All output goes into `log`.
    """
    processes = []
    for rank, arguments in enumerate(commands):
        more = {name: value.format(rank=rank) for name, value in environment.items()}
        processes.append(start_command(arguments, log, **more))
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _run_command(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115 - for the rest of the process
    from hrm_offline.cli import main

    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def torchruns_variables(processes: int) -> dict[str, str]:
    """Return the environment that torchrun gives to its processes, for `run_commands`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "RANK": "{rank}",
        "LOCAL_RANK": "{rank}",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
