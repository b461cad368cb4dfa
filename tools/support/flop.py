"""Count the floating-point operations (FLOP) of the network from its shapes, and project them to other chips.

Only matrix products are counted, an addition and a multiplication each, because nearly all work is in them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import ExampleSource

# The rate of dense bfloat16 matrix products, from NVIDIA's data sheet of the L4.
L4_TFLOPS = 121.0


def block_flop(config: ModelConfig, cells: int) -> float:
    """Return the FLOP of one block for one sequence whose canvases have `cells` cells each."""
    tokens, width = config.canvases * cells + config.prefix_tokens, config.hidden_size
    weights = 4 * width * width + 3 * width * config.intermediate_size  # query, key, value, output; gate, up, down
    attention = 4 * tokens**2 * width  # queries with keys, and the weighted sum of values
    return 2 * tokens * weights + attention


def outer_step_flop(config: ModelConfig, cells: int) -> float:
    """Return the FLOP of the forward pass of one outer step, for one sequence."""
    return config.layer_passes * block_flop(config, cells)


def training_flop(config: ModelConfig, cells: int, look_ahead: bool = False) -> float:
    """Return the FLOP of one training step, for one sequence.

    The backward pass costs twice the forward pass of the blocks that carry gradient. Halting that looks ahead needs a
    second forward pass.
    """
    forward = (2 if look_ahead else 1) * outer_step_flop(config, cells)
    backward = 2 * config.gradient_passes * block_flop(config, cells)
    return forward + backward


def visit_flop(config: ModelConfig, source: ExampleSource) -> float:
    """Return the FLOP of learning every example of a source once."""
    return sum(len(bucket.members) * training_flop(config, bucket.area) for bucket in source.buckets)


def matrix_product_tflops(size: int = 2048) -> float:
    """Return the TFLOP/s of this CPU's matrix products: the best of five float32 products, with torch's threads."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e12


@dataclass(frozen=True)
class Projection:
    """An adaptation projected to other chips: its steps, examples per step, visits per demonstration, and hours."""

    steps: float
    examples_per_step: float
    visits: float
    hours: float


def project(
    config: ModelConfig, source: ExampleSource, chips: int, tflops: float, share_of_peak: float, hours: float
) -> Projection:
    """Project the adaptation of a source to `chips` chips that share the tasks.

    Each chip is assumed to reach the share `share_of_peak` of its `tflops`, which is its rate of dense products.
    """
    flop_in_all = chips * tflops * 1e12 * share_of_peak * hours * 3600
    visits = flop_in_all / visit_flop(config, source)
    examples_per_step = len(source.examples) / source.steps_per_visit
    return Projection(visits * source.steps_per_visit, examples_per_step, visits, hours)
