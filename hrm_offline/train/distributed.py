"""Data parallelism over `torch.distributed`: who we are, our share of a batch, summed gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process' rank among `size` processes; (0, 1) without torchrun."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Rows of a global batch that this process computes; shares differ by one row at most."""
        return slice(self.rank * batch_size // self.size, (self.rank + 1) * batch_size // self.size)

    def sum_gradients_(self, params: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes, in one message."""
        if self.size == 1:
            return
        grads = [p.grad for p in params if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([g.numel() for g in grads])):
            grad.copy_(part.view_as(grad))

    def gather_rows(self, ids: torch.Tensor, grads: torch.Tensor,
                    batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of all processes: ids [R], grads [R, D] -> ids, grads of the whole batch.

        `batch_size` is the global one; shares are padded to the largest so that they can be
        exchanged, and the padding (id -1) is dropped again.
        """
        if self.size == 1:
            return ids, grads
        own = self.share(batch_size)
        columns = len(ids) // max(1, own.stop - own.start)
        longest = columns * -(-batch_size // self.size)
        ids = torch.cat([ids, ids.new_full((longest - len(ids),), -1)])
        grads = torch.cat([grads, grads.new_zeros(longest - len(grads), grads.shape[1])])
        all_ids = [torch.empty_like(ids) for _ in range(self.size)]
        all_grads = [torch.empty_like(grads) for _ in range(self.size)]
        dist.all_gather(all_ids, ids)
        dist.all_gather(all_grads, grads)
        ids, grads = torch.cat(all_ids), torch.cat(all_grads)
        return ids[ids >= 0], grads[ids >= 0]

    def sum_metrics(self, metrics: dict[str, torch.Tensor]) -> dict[str, float]:
        """Metrics summed over the processes, as numbers; one transfer from the device."""
        values = torch.stack([value.float() for value in metrics.values()])
        if self.size > 1:
            dist.all_reduce(values)
        return dict(zip(metrics, values.tolist()))

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def join_world(backend: str) -> World:
    """Join the processes torchrun started ("gloo" on CPU, "nccl" on GPUs), or stand alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    dist.init_process_group(backend)
    return World(dist.get_rank(), dist.get_world_size())


def leave_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
