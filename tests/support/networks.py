"""Configurations of networks that are small enough to test in no time."""

import dataclasses

import torch

from hrm_offline.config import ModelConfig
from hrm_offline.model.halting import Sequences
from hrm_offline.presets import PRESETS

TINY = ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=1, puzzle_emb_ndim=32, halt_max_steps=3)


def sequences(size: int, cells: int, seed: int = 0) -> Sequences:
    """Return `size` random sequences of `cells` cells whose labels are their inputs."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 12, (size, cells), generator=generator)
    return Sequences(tokens.int(), tokens.long(), torch.zeros(size, 1, dtype=torch.long))


ARCHITECTURES = {
    "hrm": ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=1, puzzle_emb_ndim=32, halt_max_steps=3),
    "transformer": ModelConfig(
        architecture="transformer",
        hidden_size=32,
        num_heads=2,
        H_layers=2,
        L_layers=0,
        H_cycles=2,
        L_cycles=0,
        puzzle_emb_ndim=32,
        halt_max_steps=3,
    ),
    "shared": ModelConfig(
        architecture="shared",
        hidden_size=32,
        num_heads=2,
        H_layers=0,
        L_layers=1,
        H_cycles=2,
        L_cycles=3,
        puzzle_emb_ndim=32,
        halt_max_steps=3,
    ),
    "looped": ModelConfig(
        architecture="looped",
        hidden_size=32,
        num_heads=2,
        H_layers=1,
        L_layers=0,
        H_cycles=2,
        L_cycles=2,
        mlp_convolution=True,
        puzzle_emb_ndim=32,
        puzzle_tokens=2,
        halt_max_steps=3,
    ),
    "pre-norm": ModelConfig(
        architecture="transformer",
        hidden_size=32,
        num_heads=2,
        H_layers=2,
        L_layers=0,
        H_cycles=1,
        L_cycles=0,
        pre_norm=True,
        puzzle_place="added",
        puzzle_emb_ndim=32,
        halt_max_steps=3,
    ),
}


ROPE_2D = ModelConfig(
    hidden_size=64,
    num_heads=4,
    H_layers=1,
    L_layers=1,
    H_cycles=1,
    L_cycles=2,
    puzzle_emb_ndim=64,
    positions="rope-2d",
    rope_theta=100.0,
    halt_max_steps=3,
)


DECODER = dataclasses.replace(
    PRESETS["decoder-170k"].model, hidden_size=32, num_heads=2, H_layers=2, puzzle_emb_ndim=32
)
