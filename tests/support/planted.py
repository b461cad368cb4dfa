"""Tasks that are solved by a known program."""

import numpy as np

from hrm_offline.data.tasks import Pair, Task


def grids(count, seed=0, side=7, colours=4):
    """Draw grids of several shapes. Half of their cells are black, and none is empty."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(1, colours, rng.integers(4, side, 2)) for _ in range(count)]
    return [(g * (rng.random(g.shape) < 0.5)).astype(np.uint8) for g in drawn]


def planted(program, inputs, name="t"):
    """Return a task that a program solves. The last two grids are its test inputs."""
    pairs = tuple(Pair(g, np.ascontiguousarray(program(g), dtype=np.uint8)) for g in inputs)
    return Task(name, pairs[:-2], pairs[-2:])
