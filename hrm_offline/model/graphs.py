"""Record work as CUDA graphs, and find out whether replays give the same numbers in less time.

A recording holds all launches of some work at one shape. A replay launches them at once, which saves the time between
launches. The work must not wait for the device, and must read and write the same memory each time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hrm_offline.ops.faults import KernelFault, first_line, is_context_lost, is_out_of_memory

# Runs before a recording, so that workspaces and kernels that are made at first use exist by then. PyTorch's notes on
# CUDA graphs ask for them.
WARM_UP = 3
_WORTH_RECORDING = 6  # runs of work that is thrown away afterwards: a recording takes as long as about two
_MORE_THAN_NOISE = 2.0  # replays may be this many times as far from a plain run as a second plain run is

Inputs = tuple[torch.Tensor | None, ...]
T = TypeVar("T")


class Cuda:
    """The parts of CUDA that recordings need. Tests put a CPU in its place."""

    device = torch.device("cuda")

    def __init__(self):
        self.stream = torch.cuda.Stream()  # recording is refused on the default one
        self.renew()

    def renew(self) -> None:
        """Take a new pool of memory for recordings. The old one is freed with the last recording in it."""
        self.pool = self.new_pool()

    def new_pool(self) -> Any:
        """Return a pool of memory of its own."""
        return torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Launch on the stream for recordings, after all work so far and before all work that follows."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)

    def capture(self, compute: Callable[[], Any], own_pool: Any = None) -> Callable[[], Any]:
        """Record the launches of `compute` without running them.

        Returns a function that runs them and returns what `compute` returned, in the same memory each time. Raises what
        `compute` raises, or `RuntimeError` where it does something that cannot be recorded. With `own_pool` the
        recording takes its memory from that pool, and begins at once: PyTorch's own context would collect garbage and
        free cached memory first.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as NCCL's, may go on asking the device.
        settings = {"pool": own_pool or self.pool, "capture_error_mode": "thread_local"}
        cause = None
        try:
            with self._begun(graph, settings) if own_pool else torch.cuda.graph(graph, stream=self.stream, **settings):
                try:
                    result = compute()
                except Exception as error:
                    cause = error
                    raise
        except RuntimeError:
            # The end of a recording that failed raises an error of its own, which would hide the cause.
            if cause is not None:
                raise cause from None
            raise
        finally:
            cause = None  # the error knows this frame: together they would keep the failed work's tensors

        def replay():
            graph.replay()
            return result

        return replay

    @contextlib.contextmanager
    def _begun(self, graph: torch.cuda.CUDAGraph, settings: dict) -> Iterator[None]:
        """Record into a graph."""
        with self.beside():
            graph.capture_begin(**settings)
            try:
                yield
            finally:
                graph.capture_end()

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds from the first launch of a call to the end of its work."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def open_cuda(device: torch.device) -> Cuda | None:
    """Return what recordings need on a device, None where there is no CUDA."""
    return Cuda() if device.type == "cuda" else None


@dataclass
class GraphChoice:
    """Whether one kind of work is recorded in this process.

    `serves` is None until it is measured. `reason` says why it was decided so, None where there is nothing to say.
    `cuda` is None where nothing can be recorded.
    """

    cuda: Cuda | None
    serves: bool | None
    reason: str | None = None

    @classmethod
    def of(cls, setting: str, device: torch.device) -> GraphChoice:
        """Return the choice by the setting `cuda_graphs`: "yes", "no" or "measured"."""
        cuda = None if setting == "no" else open_cuda(device)
        if cuda is None:
            return cls(None, False)
        return cls(cuda, True, "asked for") if setting == "yes" else cls(cuda, None)

    def decide(self, serves: bool, reason: str) -> None:
        """Settle the choice, or change it."""
        self.serves, self.reason = serves, reason

    def __str__(self) -> str:
        return f"CUDA graphs {'on' if self.serves else 'off'}: {self.reason}"


@dataclass(frozen=True)
class _Recorded:
    """The tensors that a recording reads, and what runs it."""

    inputs: Inputs
    replay: Callable[[], Any]


class Recorder:
    """Runs work, and replays a recording from the fourth run of a key on.

    `on` says whether it records, and begins as the choice is. A key must come with the same work and the same shapes
    each time. Results must be read before the next run, whose replay overwrites them.
    """

    def __init__(self, choice: GraphChoice):
        self.choice = choice
        self.on = choice.serves is True
        self.runs: Counter[Hashable] = Counter()
        self.recorded: dict[Hashable, _Recorded] = {}
        self.clear()  # PyTorch refuses a pool whose recordings are gone, such as those of an earlier recorder

    def clear(self) -> None:
        """Forget all recordings. Keys are recorded again after as many runs as at first."""
        self.runs.clear()
        self.recorded.clear()
        if self.choice.cuda is not None:
            self.choice.cuda.renew()

    def turn_off(self, reason: str) -> None:
        """Record nothing from now on, here and in later recorders of the same choice."""
        self.on = False
        self.choice.decide(False, reason)
        self.clear()

    def run(self, key: Hashable, inputs: Inputs, compute: Callable[..., Any]) -> Any:
        """Return what `compute(*inputs)` returns.

        Where recording fails, all work is computed without recordings from then on. Raises an error of the memory or of
        a lost device, and what `compute` raises.
        """
        if not self.on:
            return compute(*inputs)
        with self.choice.cuda.beside():
            self.runs[key] += 1
            if self.runs[key] > WARM_UP and (key in self.recorded or self._record(key, inputs, compute)):
                return self._replay(self.recorded[key], inputs)
            return compute(*inputs)

    def run_within_memory(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute()` returns, as `run` does. Where memory runs out, nothing is recorded from then on.

        The work must change nothing before it has all its memory.
        """
        try:
            return self.run(key, (), compute)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self.on:
            self.turn_off("recordings do not fit into memory")
        return compute()

    def _record(self, key: Hashable, inputs: Inputs, compute: Callable[..., Any]) -> bool:
        """Record the work of a key. Return False where that is impossible."""
        own = tuple(None if given is None else given.clone() for given in inputs)
        replay, problem = _captured(self.choice.cuda, lambda: compute(*own))
        if replay is None:
            self.turn_off(problem)
            return False
        self.recorded[key] = _Recorded(own, replay)
        return True

    def _replay(self, recorded: _Recorded, inputs: Inputs) -> Any:
        """Run a recording. It reads from fixed addresses, so the new inputs are copied there."""
        for own, new in zip(recorded.inputs, inputs):
            if own is not None:
                own.copy_(new)
        return recorded.replay()


class Repeater:
    """Runs work again and again in the same memory, and replays a recording of it from the second run on.

    For work that is never done again afterwards, so that a recording lives as long as its work. `on` says whether it
    records, and begins as the choice is.
    """

    def __init__(self, choice: GraphChoice):
        self.choice = choice
        self.on = choice.serves is True
        self._pool: Any = None
        # A small recording that is kept: PyTorch gives a pool up when its last recording is gone.
        self._anchor: Callable[[], Any] | None = None
        self._last: Callable[[], Any] | None = None  # kept while the device may still work on it

    def runner(self, compute: Callable[[], Any], times: int) -> Callable[[], None]:
        """Return a function that does the work once per call, `times` at most. It raises what `compute` raises.

        Where recording fails, all work is computed without recordings from then on. Raises an error of the memory or of
        a lost device.
        """
        replay, runs = None, 0

        def run() -> None:
            nonlocal replay, runs
            runs += 1
            if not self.on or times < _WORTH_RECORDING:
                compute()
            elif runs == 1:
                with self.choice.cuda.beside():  # workspaces of that stream are made here
                    compute()
            else:
                replay = replay or self._record(compute)
                (replay or compute)()

        return run

    def turn_off(self, reason: str) -> None:
        """Record nothing from now on, here and in later repeaters of the same choice."""
        self.on, self._anchor, self._last = False, None, None
        self.choice.decide(False, reason)

    def _record(self, compute: Callable[[], Any]) -> Callable[[], Any] | None:
        """Return a recording of work, None where that is impossible."""
        cuda = self.choice.cuda
        if self._anchor is None:
            self._pool = cuda.new_pool()
            self._anchor, _ = _captured(cuda, lambda: torch.zeros(1, device=cuda.device), self._pool)
        replay, problem = _captured(cuda, compute, self._pool)
        if replay is None:
            self.turn_off(problem)
        self._last = replay
        return replay


def _captured(
    cuda: Cuda, compute: Callable[[], Any], own_pool: Any = None
) -> tuple[Callable[[], Any] | None, str | None]:
    """Return a recording and None, or None and why there is none. Raises an error of the memory or of a lost device."""
    try:
        return cuda.capture(compute, own_pool), None
    except RuntimeError as error:
        if is_out_of_memory(error) or is_context_lost(error):
            raise
        return None, f"recording failed: {first_line(error)}"


def settle(choice: GraphChoice, trial: Callable[[], tuple[bool, str]]) -> None:
    """Decide by a trial whether work is recorded, where that is to be measured. A trial that fails says no."""
    if choice.serves is not None:
        return
    try:
        found = trial()
    except (KernelFault, RuntimeError, MemoryError) as error:
        if is_context_lost(error):
            raise
        found = False, f"the trial failed: {first_line(error)}"
    choice.decide(*found)


@dataclass(frozen=True)
class Outcome:
    """What some runs gave, as tensors on the CPU, and the seconds that they took together."""

    seconds: float
    numbers: tuple[torch.Tensor, ...]


def compare_outcomes(plain: Outcome, recorded: Outcome, plain_again: Callable[[], Outcome]) -> tuple[bool, str]:
    """Return whether recordings should serve, and why.

    They have to give the same numbers in less time. Operations that add in no fixed order differ from run to run. So
    where the numbers differ, plain runs are repeated, and recordings may differ about as much as plain runs do.
    """
    off = _distance(plain.numbers, recorded.numbers)
    if off > 0:
        noise = _distance(plain.numbers, plain_again().numbers)
        if not off <= _MORE_THAN_NOISE * noise:
            return False, f"replays give other numbers: off by {off:.2g}, two plain runs by {noise:.2g}"
    times = f"{1e3 * recorded.seconds:.4g} ms recorded, {1e3 * plain.seconds:.4g} ms launched one by one"
    if recorded.seconds >= plain.seconds:
        return False, f"no faster: {times}"
    return True, f"same numbers, faster: {times}"


def _distance(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> float:
    """Return the largest difference, relative to the largest number of each tensor; infinity for NaN."""
    worst = 0.0
    for one, other in zip(some, others, strict=True):
        differs = one != other  # infinite numbers may be the same
        if differs.any():
            largest = one.double().nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp_min(1e-30)
            difference = float((one.double() - other.double())[differs].abs().max() / largest)
            worst = max(worst, difference) if difference == difference else float("inf")
    return worst
