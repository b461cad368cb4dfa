"""The wall-clock budget of a run, and the pace of its steps."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable

from hrm_offline.common.errors import InputError, shown

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?$")
_MAX_SECONDS = 1e9

# Kept back for the last vote, the files and the end of the processes: a share of the budget, in seconds within bounds.
_RESERVED_SHARE, _MIN_RESERVE, _MAX_RESERVE = 0.02, 0.5, 120.0


def parse_duration(text: str) -> float:
    """Return the seconds in "11h30m", "3m", "90s" or plain "90". Raises `InputError` for anything else.

    That includes a budget of more than thirty years, for which the system's timers are too short.
    """
    match = _DURATION.match(f"{text}s" if re.fullmatch(r"\d+(?:\.\d+)?", text) else text)
    if not text or not match:
        raise InputError(f"budget '{text}' is not a duration, expected for example 11h30m, 3m or 90s")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total > _MAX_SECONDS:
        raise InputError(f"budget {shown(text)} is {total:g} seconds, expected at most {_MAX_SECONDS:g}")
    return total


def in_words(seconds: float) -> str:
    """Return a duration as a person says it: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Budget:
    """The `total` seconds that a run may take, counted from `started` on `clock` (both in seconds).

    Without `started`, counting begins now. When the clock jumps back, the elapsed time stays as it was and goes on from
    there. Several threads may use one budget.
    """

    def __init__(self, total: float, started: float | None = None, clock: Callable[[], float] = time.monotonic):
        self.total = total
        self.clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._elapsed = 0.0 if started is None else max(0.0, self._last - started)
        self._origin = self._last - self._elapsed

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        with self._lock:
            now = self.clock()
            self._elapsed += max(0.0, now - self._last)
            self._last = now
            return self._elapsed

    def now(self) -> float:
        """Return the time, in seconds, that the clock would show if it had never jumped back."""
        return self._origin + self.elapsed()

    def remaining(self) -> float:
        """Return the seconds left, negative when the budget is spent."""
        return self.total - self.elapsed()

    @property
    def reserve(self) -> float:
        """Return the seconds at the end in which nothing is computed: the last vote is taken and files are written."""
        return min(_MAX_RESERVE, max(_MIN_RESERVE, _RESERVED_SHARE * self.total))

    def plannable(self) -> float:
        """Return the seconds left for adaptation and prediction, at least 0."""
        return max(0.0, self.remaining() - self.reserve)


class Pace:
    """The mean time of the last `window` steps. The first few steps are left out: they are slow and not typical."""

    _COLD = 5

    def __init__(self, window: int = 100):
        self.marks: deque[float] = deque(maxlen=window + 1)  # when the last steps ended, in seconds
        self.window = window
        self.steps = 0
        self.first: float | None = None

    def tick(self, now: float) -> None:
        """Count a step that ended at `now`, in seconds."""
        self.steps += 1
        if self.steps >= self._COLD:
            self.marks.append(now)
        if self.steps == self._COLD + self.window:
            self.first = self.seconds()

    def seconds(self) -> float | None:
        """Return the mean seconds per step, or None while too few steps have ended."""
        if len(self.marks) < 2:
            return None
        return max(0.0, self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)

    def slowdown(self) -> float:
        """Return how many times slower steps are now than in the first window, at least 1."""
        if not self.first:
            return 1.0
        return max(1.0, self.seconds() / self.first)
