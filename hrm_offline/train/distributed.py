"""Share batches and sums among processes over `torch.distributed`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist

_TIMEOUT_SECONDS = 600  # longer than the slowest step and its saved state


@dataclass(frozen=True)
class World:
    """This process' rank among `size` processes; (0, 1) where it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shares(self, batch_size: int, parts: int) -> list[slice]:
        """Return the rows of a global batch that this process computes, in `parts` slices.

        The batch is cut into size x parts near-equal pieces. N processes with one part each thus compute the same
        pieces as one process with N parts. A piece of a small batch may be empty.
        """
        pieces = self.size * parts
        first = self.rank * parts  # of this process' pieces
        cuts = [piece * batch_size // pieces for piece in range(first, first + parts + 1)]
        return [slice(start, end) for start, end in pairwise(cuts)]

    def sum_gradients_(self, params: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes, with one message for all of them."""
        if self.size == 1:
            return
        grads = [p.grad for p in params if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([g.numel() for g in grads])):
            grad.copy_(part.view_as(grad))

    def gather_sequences(
        self, ids: torch.Tensor, grads: torch.Tensor, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a global batch's ids [B, I] and grads [B, I, D] from those of every process' share, in order of rank.

        The numbers of rows follow from `batch_size`, so that no process waits for its device to learn them.
        """
        if self.size == 1:
            return ids, grads
        cuts = [rank * batch_size // self.size for rank in range(self.size + 1)]  # as `shares` cuts
        counts = [end - start for start, end in pairwise(cuts)]
        return self._gather(ids, counts), self._gather(grads, counts)

    def _gather(self, own: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Return the rows of all processes. `counts` says how many each has."""
        # all_gather takes messages of one length: shorter ones are padded, and what arrives is cut again.
        padding = own.new_zeros(max(counts) - len(own), *own.shape[1:])
        message = torch.cat([own, padding])
        received = [torch.empty_like(message) for _ in counts]
        dist.all_gather(received, message)
        return torch.cat([part[:count] for part, count in zip(received, counts)])

    def sum_metrics(self, metrics: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return metrics summed over the processes, as numbers. They leave the device in one transfer."""
        values = torch.stack([value.float() for value in metrics.values()])
        if self.size > 1:
            dist.all_reduce(values)
        return dict(zip(metrics, values.tolist()))

    def agree(self, value: int, device: torch.device) -> int:
        """Return the first process' value, in all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=device)
        dist.broadcast(shared, 0)
        return int(shared)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


def join_world(backend: str) -> World:
    """Join the processes that torchrun started, or stand alone. `backend`: "gloo" on a CPU, "nccl" on GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    dist.init_process_group(backend, **_group_settings(backend))
    return World(dist.get_rank(), dist.get_world_size())


def meet(backend: str, meeting: str, rank: int, size: int) -> World:
    """Join `size` processes as number `rank`. They meet through the file `meeting`, which must not exist before."""
    where = Path(meeting).absolute().as_uri()
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, **_group_settings(backend))
    return World(rank, size)


def _group_settings(backend: str) -> dict:
    """Return a time-out, so that a lost process cannot hold the others for long, and NCCL's device."""
    settings: dict = {"timeout": timedelta(seconds=_TIMEOUT_SECONDS)}
    if backend == "nccl":
        settings["device_id"] = torch.device("cuda", torch.cuda.current_device())
    return settings


def leave_world() -> None:
    """Leave the processes that were joined, if any were. After a failure do not: the call may wait for the lost one."""
    if dist.is_initialized():
        dist.destroy_process_group()
