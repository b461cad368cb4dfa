"""Count what this machine lends to a run: physical cores and free memory. Standard library only."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Collection
from pathlib import Path

_TOPOLOGY = "devices/system/cpu/cpu{}/topology/thread_siblings_list"
_CGROUP = "fs/cgroup"


def physical_cores(root: Path = Path("/sys")) -> int:
    """Return how many physical cores this process may use, at least 1.

    Two threads of one core count once where the system tells which they are (Linux). A container's share of the
    processors' time is a limit too. `root` is where the system describes itself.
    """
    siblings = {_read(root / _TOPOLOGY.format(number)) or str(number) for number in _processors()}
    return max(1, min(len(siblings), _quota(root)))


def usable_cores(root: Path = Path("/sys")) -> int:
    """Return how many processes this machine lets compute at a time, at least 1. Threads of one core count each."""
    return max(1, min(len(_processors()), _quota(root)))


def free_memory(proc: Path = Path("/proc"), root: Path = Path("/sys")) -> float:
    """Return the bytes of memory that processes can still take, or infinity where the system does not tell."""
    lines = (_read(proc / "meminfo") or "").splitlines()
    available = [1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *_free_in_container(root / _CGROUP)], default=math.inf)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held so far, or 0 where the system does not tell."""
    with contextlib.suppress(ImportError):  # Windows lacks the module
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 0


def _free_in_container(cgroup: Path) -> list[float]:
    """Return the bytes that a container's limit leaves, or an empty list without a limit."""
    limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return []
    # Files that were read and not asked for again count as used, and give way to processes.
    lines = (_read(cgroup / "memory.stat") or "").splitlines()
    cached = [float(line.split()[1]) for line in lines if line.startswith("inactive_file ")]
    return [min(limit, max(0.0, limit - used + sum(cached)))]


def _processors() -> Collection[int]:
    """Return the numbers of the processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _quota(root: Path) -> float:
    """Return the processors whose time a container may take, rounded up; infinity without a limit."""
    quota, _, period = (_read(root / _CGROUP / "cpu.max") or "max").partition(" ")
    return math.inf if quota == "max" else math.ceil(float(quota) / float(period))


def _number(path: Path) -> float | None:
    text = _read(path)
    return float(text) if text is not None and text.isdigit() else None


def _read(path: Path) -> str | None:
    """Return the text of a small file, or None where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
