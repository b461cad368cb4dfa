"""What depends on the kind of network: its class, and the maker of its batches."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.model.batching import BatchMaker, OfferedBatch
from hrm_offline.model.decoder import DecoderModel
from hrm_offline.model.pairs import PairMaker
from hrm_offline.model.recursive import RecursiveModel

Network = RecursiveModel | DecoderModel


def build_network(config: ModelConfig, puzzle_rows: int, dtype: torch.dtype = torch.float32) -> Network:
    """Return a freshly initialised network whose puzzle embedding table has `puzzle_rows` rows.

    `dtype` is that of activations and states.
    """
    kind = DecoderModel if config.is_decoder else RecursiveModel
    return kind(config, puzzle_rows, dtype)


def training_batches(source: ExampleSource, device: torch.device) -> Callable[[int], OfferedBatch]:
    """Return a function from a step to the batch that is offered at it."""
    kind = PairMaker if source.puzzles.is_for_decoder else BatchMaker
    maker = kind(source.puzzles, source.examples, device)
    return lambda step: maker.offer(source.batch(step))
