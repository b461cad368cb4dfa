"""Work inside a Kaggle session: find what the dataset brings, and run `solve` under a limit.

The notebook imports this module before any package is installed, so it needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.task_files import is_pair_list, read_raw_tasks, tasks_in

ARTIFACT_FILES = ("model.safetensors", "config.json")
ALONG_FILE = "learn_along.json"  # the tasks that `solve` learns along

_SECONDS_TO_SAVE = 10  # for a command that is asked to end
_SECONDS_TO_DRAIN = 10  # to read the last lines of a command that has ended or was killed

Say = Callable[[str], None]


def find_artifact(root: str | Path, say: Say = print) -> Path | None:
    """Return the folder of a pretrained artifact under `root`, wherever the platform mounted it, or None.

    If there are several, the shallowest path is taken, and among equals the first in order. `say` gets a line about
    the others.
    """
    weights, _ = ARTIFACT_FILES
    found = [p.parent for p in Path(root).rglob(weights) if all((p.parent / name).exists() for name in ARTIFACT_FILES)]
    return _taken(found, ARTIFACT_FILES, say)


def along_flags(root: str | Path, say: Say = print) -> list[str]:
    """Return the flags with which `solve` learns the tasks of the dataset along, none if there are no such tasks.

    If there are several files of them under `root`, one is taken as for an artifact. A file that is damaged, or that
    holds no task, gives no flags, because `solve` refuses to start with it and the run would be lost.
    """
    folder = _taken([path.parent for path in Path(root).rglob(ALONG_FILE)], (ALONG_FILE,), say)
    if folder is None:
        return []
    path = folder / ALONG_FILE
    try:
        tasks = read_raw_tasks(path)
    except InputError as error:
        say(f"WARNING: nothing is learned along: {error}")
        return []
    if not tasks_in(tasks) and not any(map(is_pair_list, tasks.values())):
        say(f"WARNING: {path} has no task, so nothing is learned along")
        return []
    return ["--along", str(path)]


def _taken(folders: list[Path], names: tuple[str, ...], say: Say) -> Path | None:
    """Return the folder with the shallowest path of those that hold files of these names, and tell of the others."""
    if not folders:
        return None
    taken, *others = sorted(folders, key=lambda path: (len(path.parts), str(path)))
    if others:
        told = [f"{path} ({'the same' if _are_same(taken, path, names) else 'DIFFERENT'})" for path in others]
        say(f"found {len(folders)} times: taken {taken}; not taken {', '.join(told)}")
    return taken


def _are_same(a: Path, b: Path, names: tuple[str, ...]) -> bool:
    return all(filecmp.cmp(a / name, b / name, shallow=False) for name in names)


def run_with_limit(command: list[str], seconds: float, say: Say = print) -> int:
    """Run a command, `say` its output line by line, and return its exit code.

    When the command ends, or after `seconds`, the rest of its process group is killed. So a run that hangs cannot use
    up the session. A notebook that is interrupted gives the command some seconds to write what it has.
    """
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    # A thread reads, since a process that left the group may hold the pipe open for ever.
    reader = threading.Thread(target=lambda: [say(line.rstrip("\n")) for line in run.stdout], daemon=True)
    reader.start()
    try:
        run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        say(f"still running after {seconds:.0f} s: killed")
    except KeyboardInterrupt:
        run.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=_SECONDS_TO_SAVE)
        raise
    finally:
        _kill_group(run)
        reader.join(_SECONDS_TO_DRAIN)
    return run.wait()


def _kill_group(run: subprocess.Popen) -> None:
    """Kill a command and what it has started. Windows knows no groups; solve's workers end there when solve does."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS denies it once all are dead
            os.killpg(run.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    elif run.poll() is None:
        run.terminate()
