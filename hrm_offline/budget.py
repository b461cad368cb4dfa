"""Wall-clock budget of a run: parsing "11h30m" and a deadline over an injectable clock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from hrm_offline.errors import InputError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?$")


def parse_duration(text: str) -> float:
    """Seconds in "11h30m", "3m", "90s" or plain "90". Raises `InputError` for anything else."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    match = _DURATION.match(text)
    if not text or not match:
        raise InputError(f"budget '{text}' is not a duration, expected for example 11h30m, 3m or 90s")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


class Budget:
    """Seconds a run may take, counted from `started` on `clock` (both in seconds)."""

    def __init__(self, total: float, started: float | None = None,
                 clock: Callable[[], float] = time.monotonic):
        self.total = total
        self.clock = clock
        self.started = clock() if started is None else started

    def elapsed(self) -> float:
        return self.clock() - self.started

    def remaining(self) -> float:
        return self.total - self.elapsed()

    def part(self, seconds: float) -> Budget:
        """A budget over the same clock that starts now and ends in `seconds`, or with this one."""
        return Budget(min(seconds, self.remaining()), self.clock(), self.clock)
