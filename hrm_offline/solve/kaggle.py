"""Work inside a Kaggle session: find the competition's files and ours, and run `solve` under a limit.

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

# Older public copies write a hyphen between the split and the word.
CHALLENGES = ("arc-agi_test_challenges.json", "arc-agi_test-challenges.json")
ARTIFACT_FILES = ("model.safetensors", "config.json")

_SECONDS_TO_SAVE = 10  # for a command that is asked to end
_SECONDS_TO_DRAIN = 10  # to read the last lines of a command that has ended or was killed

Say = Callable[[str], None]


def find_file(root: str | Path, names: tuple[str, ...], say: Say = print) -> Path:
    """Return the file under `root` that has one of `names`, wherever the platform mounted it.

    If several files match, the shallowest path is taken, and among equals the first in order. `say` gets a line about
    the others. Raises `InputError` that names the folders below `root` if no file matches.
    """
    root = Path(root)
    found = [path for name in names for path in root.rglob(name)] if root.is_dir() else []
    if not found:
        mounted = sorted(str(p.relative_to(root)) for p in root.glob("*")) if root.is_dir() else []
        raise InputError(f"{root}: no {' or '.join(names)} in any folder below; mounted there: {mounted}")
    return _nearest(found, lambda a, b: filecmp.cmp(a, b, shallow=False), say)


def find_artifact(root: str | Path, say: Say = print) -> Path | None:
    """Return the folder of a pretrained artifact under `root`, or None. Copies are treated as in `find_file`."""
    weights, _ = ARTIFACT_FILES
    found = [p.parent for p in Path(root).rglob(weights) if all((p.parent / name).exists() for name in ARTIFACT_FILES)]
    if not found:
        return None
    return _nearest(found, lambda a, b: all(filecmp.cmp(a / n, b / n, shallow=False) for n in ARTIFACT_FILES), say)


def _nearest(found: list[Path], same: Callable[[Path, Path], bool], say: Say) -> Path:
    taken, *others = sorted(found, key=lambda path: (len(path.parts), str(path)))
    if others:
        told = [f"{path} ({'the same' if same(taken, path) else 'DIFFERENT'})" for path in others]
        say(f"found {len(found)} times: taken {taken}; not taken {', '.join(told)}")
    return taken


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
