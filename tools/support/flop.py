"""Floating-point operations of the network, counted from its shapes, and what they make of a timetable."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import ExampleSource

# Dense bfloat16 matrix products, from NVIDIA's data sheet.
L4_TFLOPS = 121.0


def block_flop(config: ModelConfig, cells: int) -> float:
    """Of one sequence's pass through a block: its matrix products."""
    tokens, width = config.canvases * cells + config.puzzle_tokens, config.hidden_size
    return 2 * tokens * (4 * width * width + 3 * width * config.intermediate_size) + 4 * tokens**2 * width


def outer_step_flop(config: ModelConfig, cells: int) -> float:
    """Of one sequence's forward pass through an outer step."""
    return config.layer_passes * block_flop(config, cells)


def training_flop(config: ModelConfig, cells: int, look_ahead: bool = False) -> float:
    """Of one sequence's training step: the forward pass, the backward pass of what carries gradient (twice its
    forward), and a second forward pass where halting looks ahead."""
    backward = 2 * config.gradient_passes * block_flop(config, cells)
    return (2 if look_ahead else 1) * outer_step_flop(config, cells) + backward


def visit_flop(config: ModelConfig, source: ExampleSource) -> float:
    """Of learning every example of a source once."""
    return sum(len(b.members) * training_flop(config, b.area) for b in source.buckets)


def matrix_product_tflops(size: int = 2048) -> float:
    """What this machine's CPU reaches with the threads it is given: the best of five float32 products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e12


@dataclass(frozen=True)
class Projection:
    """What an adaptation would come to on several chips: steps, examples a step, visits of each pair, hours."""

    steps: float
    examples_per_step: float
    visits: float
    hours: float

    def __str__(self) -> str:
        return (
            f"{self.steps:,.0f} steps of {self.examples_per_step:,.0f} examples on average in {self.hours:.1f} h, "
            f"{self.visits:,.0f} visits of each demonstration"
        )


def project(
    config: ModelConfig, source: ExampleSource, chips: int, tflops: float, share_of_peak: float, hours: float
) -> Projection:
    """Every chip takes its part of the tasks and reaches `share_of_peak` of its dense product rate."""
    visits = chips * tflops * 1e12 * share_of_peak * hours * 3600 / visit_flop(config, source)
    examples = len(source.examples) / source.steps_per_visit
    return Projection(visits * source.steps_per_visit, examples, visits, hours)
