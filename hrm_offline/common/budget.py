"""Wall-clock budget of a run: parsing "11h30m", a deadline over an injectable clock, and the pace of steps."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable

from hrm_offline.common.errors import InputError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?$")

# Kept back for the last vote, the files and the end of the processes: a share of the budget within bounds.
_RESERVED_SHARE, _MIN_RESERVE, _MAX_RESERVE = 0.02, 0.5, 120.0


def parse_duration(text: str) -> float:
    """Seconds in "11h30m", "3m", "90s" or plain "90". Raises `InputError` for anything else."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    match = _DURATION.match(text)
    if not text or not match:
        raise InputError(f"budget '{text}' is not a duration, expected for example 11h30m, 3m or 90s")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def in_words(seconds: float) -> str:
    """Return a duration as a person says it: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Budget:
    """Seconds a run may take, counted from `started` on `clock` (both in seconds).

    A clock that jumps back makes no time: what had passed before the jump stays passed. May be asked by
    several threads.
    """

    def __init__(self, total: float, started: float | None = None, clock: Callable[[], float] = time.monotonic):
        self.total = total
        self.clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._elapsed = 0.0 if started is None else max(0.0, self._last - started)
        self._origin = self._last - self._elapsed

    def elapsed(self) -> float:
        with self._lock:
            now = self.clock()
            self._elapsed += max(0.0, now - self._last)
            self._last = now
            return self._elapsed

    def now(self) -> float:
        """What the clock would show had it never jumped back."""
        return self._origin + self.elapsed()

    def remaining(self) -> float:
        return self.total - self.elapsed()

    @property
    def reserve(self) -> float:
        """Seconds at the end in which nothing is computed: the last vote is taken and the files are written."""
        return min(_MAX_RESERVE, max(_MIN_RESERVE, _RESERVED_SHARE * self.total))

    def plannable(self) -> float:
        """Seconds left for adaptation and prediction, 0 at the least."""
        return max(0.0, self.remaining() - self.reserve)


class Pace:
    """How long steps take: the mean of the last `window`, without the first few, which are slow and say nothing."""

    _COLD = 5

    def __init__(self, window: int = 100):
        self.marks: deque[float] = deque(maxlen=window + 1)  # when the last steps ended
        self.window = window
        self.steps = 0
        self.first: float | None = None

    def tick(self, now: float) -> None:
        """A step has ended at `now`, in seconds."""
        self.steps += 1
        if self.steps >= self._COLD:
            self.marks.append(now)
        if self.steps == self._COLD + self.window:
            self.first = self.seconds()

    def seconds(self) -> float | None:
        """Mean seconds a step, None while too few were seen."""
        if len(self.marks) < 2:
            return None
        return max(0.0, self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)

    def slowdown(self) -> float:
        """How many times slower steps are now than they were in the first window; 1 at the least."""
        if not self.first:
            return 1.0
        return max(1.0, self.seconds() / self.first)
