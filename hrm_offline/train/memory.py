"""Count the bytes that the batches to come will take, so that they are computed in parts before memory runs out.

Nothing is known about a network beforehand. The first steps show how many bytes a step takes per token while it runs,
and how many it keeps until its bucket comes again. Both grow with the tokens of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.model.network import Network
from hrm_offline.train.distributed import World

_MARGIN = 1.1  # for gaps between allocations, and for workspaces that grow with the shape


class DeviceMemory:
    """What PyTorch's allocator knows of the current GPU, in bytes. Tests put other numbers in its place."""

    def used(self) -> int:
        """Return the bytes of all tensors."""
        return torch.cuda.memory_allocated()

    def forget_peak(self) -> None:
        """Have `peak` count from now on."""
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return the most bytes that tensors had at once."""
        return torch.cuda.max_memory_allocated()

    def limit(self) -> int:
        """Return the bytes that this process can have: those that it holds, and those that are free."""
        return torch.cuda.memory_reserved() + torch.cuda.mem_get_info()[0]


def open_memory(device: torch.device) -> DeviceMemory | None:
    """Return the memory of a GPU, None for a CPU: its memory is not ours to plan."""
    return DeviceMemory() if device.type == "cuda" else None


def tokens_by_bucket(source: ExampleSource, config: ModelConfig) -> dict[int, int]:
    """Return the tokens of a batch of each bucket, those of the puzzles included."""
    return {
        index: size * (config.prefix_tokens + config.canvases * bucket.area)
        for index, (bucket, size) in enumerate(zip(source.buckets, source.batch_sizes))
    }


@dataclass
class MemoryPlan:
    """The bytes that are known of steps. `tokens` are those of a batch of each bucket that will come.

    `step_bytes` is per token of a part while it is computed, and `carry_bytes` per token of a batch between its steps;
    both are 0 while nothing was measured. `is_new` says whether `step_bytes` has grown since `is_short` was asked.
    """

    device: DeviceMemory
    tokens: dict[int, int]
    step_bytes: float = 0.0
    carry_bytes: float = 0.0
    is_new: bool = False

    def measured(self, bucket: int, parts: int, step: int, carry: int) -> None:
        """Take in the bytes of a step on a bucket in `parts` parts, and of the bucket's carries."""
        found = max(self.step_bytes, step * parts / self.tokens[bucket])
        self.is_new |= found > self.step_bytes
        self.step_bytes = found
        self.carry_bytes = max(self.carry_bytes, carry / self.tokens[bucket])

    def is_short(self, parts: int, seen: set[int], pending: int) -> bool:
        """Return whether some step to come will not fit in `parts` parts, and would fit in more.

        Buckets that are not `seen` will have carries too. `pending` are bytes that the optimiser has yet to take.
        """
        self.is_new = False
        carries = self.carry_bytes * sum(count for bucket, count in self.tokens.items() if bucket not in seen)
        room = self.device.limit() - self.device.used() - carries - pending
        step = _MARGIN * self.step_bytes * max(self.tokens.values()) / parts
        return step > room > 0


def plan_memory(source: ExampleSource, model: Network, world: World) -> MemoryPlan | None:
    """Return a plan for the batches of a source, None where nothing is planned: on a CPU, and in several processes.

    Processes that learn together would have to agree on the parts. A decoder's batches leave nothing behind. Their
    tokens differ, up to about twice `tokens_per_step`. A batch that does not fit is halved.
    """
    device = open_memory(model.device)
    if device is None or world.size > 1 or model.config.is_decoder:
        return None
    return MemoryPlan(device, tokens_by_bucket(source, model.config))
