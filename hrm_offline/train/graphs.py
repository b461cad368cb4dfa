"""CUDA graphs of a training step: each bucket's step is recorded once, then replayed in one launch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

from hrm_offline.model.halting import Carry, Sequences

# Runs before a recording, so that workspaces and kernels that are made at first use exist by then. PyTorch's notes on
# CUDA graphs ask for them.
_WARM_UP = 3


@dataclass
class _Recorded:
    """A graph, the tensors that it reads, and the tensors that it fills."""

    graph: torch.cuda.CUDAGraph
    offered: Sequences
    min_steps: torch.Tensor
    result: Any


class Graphs:
    """Runs `compute(carry, offered, min_steps, size)`, and replays a recording from the fourth run of a key on.

    A key must come with the same carry, shapes and size each time. Results must be read before the next step, whose
    replays overwrite them. Where recording fails, the reason is printed once, and from then on every step is computed
    without a recording.
    """

    def __init__(self, compute: Callable[[Carry, Sequences, torch.Tensor, int], Any]):
        self.compute = compute
        self.failed = False
        self.runs: Counter[Hashable] = Counter()
        self.recorded: dict[Hashable, _Recorded] = {}
        self.stream = torch.cuda.Stream()  # recording is refused on the default one
        self.pool = torch.cuda.graph_pool_handle()

    def clear(self) -> None:
        """Forget all recordings."""
        self.runs.clear()
        self.recorded.clear()

    def run(self, key: Hashable, carry: Carry, offered: Sequences, min_steps: torch.Tensor, size: int) -> Any:
        """Return what `compute` returns for these arguments."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = self._run(key, carry, offered, min_steps, size)
        current.wait_stream(self.stream)
        return result

    def _run(self, key, carry, offered, min_steps, size):
        self.runs[key] += 1
        if self.failed or self.runs[key] <= _WARM_UP:
            return self.compute(carry, offered, min_steps, size)
        if key not in self.recorded:
            try:
                self.recorded[key] = self._record(carry, offered, min_steps, size)
            except RuntimeError as error:
                self.failed = True
                print(f"CUDA graphs: not used, recording failed ({error})", file=sys.stderr)
                return self.compute(carry, offered, min_steps, size)
        recorded = self.recorded[key]
        # The graph reads from fixed addresses, so the new arguments are copied there.
        read_by_graph = [*vars(recorded.offered).values(), recorded.min_steps]
        given = [*vars(offered).values(), min_steps]
        for own, new in zip(read_by_graph, given):
            if own is not None:
                own.copy_(new)
        recorded.graph.replay()
        return recorded.result

    def _record(self, carry, offered, min_steps, size) -> _Recorded:
        own = Sequences(*(None if given is None else given.clone() for given in vars(offered).values()))
        min_steps = min_steps.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            result = self.compute(carry, own, min_steps, size)
        return _Recorded(graph, own, min_steps, result)
