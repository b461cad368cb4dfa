"""GPUs that a run may wake up on, described well enough for the package to make its choices without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import torch


@dataclass(frozen=True)
class Card:
    """`count` GPUs of one kind: compute capability (89 is 8.9), GiB of memory each.

    `tflops` is the rate of dense 16-bit matrix products by NVIDIA's data sheets.
    """

    name: str
    count: int
    capability: int
    gib: float
    tflops: float


CARDS = (
    Card("P100", 1, 60, 15.9, 18.7),
    Card("T4", 2, 75, 14.6, 65.0),
    Card("L4", 4, 89, 22.2, 121.0),
    Card("A100", 1, 80, 39.4, 312.0),
    Card("H100", 1, 90, 79.1, 989.0),
    Card("RTX Pro 6000", 1, 120, 94.9, 504.0),
)


@contextlib.contextmanager
def faked(card: Card) -> Iterator[None]:
    """Within, torch says that it finds this card. Nothing can be computed on it."""
    answers = {
        "is_available": True,
        "device_count": card.count,
        "get_device_capability": divmod(card.capability, 10),
        "get_device_name": card.name,
        "get_device_properties": SimpleNamespace(total_memory=int(card.gib * 2**30)),
        "get_arch_list": [],
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer: answer))
        yield
