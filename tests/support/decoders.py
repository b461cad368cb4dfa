"""A small decoder on made-up puzzles."""

import dataclasses

import torch
from networks import DECODER

from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.model.decoder import DecoderModel
from hrm_offline.presets import PRESETS


def make_decoder(tasks, network=DECODER, **changes):
    """Return a decoder of random weights that are far from zero, its puzzle set, and its recipe without a search."""
    columns = 1 if network.puzzle_columns == 3 else 0
    recipe = dataclasses.replace(
        PRESETS["decoder-170k"].adapt, **({"colour_permutations": 4 * columns, "search_branches": 0} | changes)
    )
    puzzles = PuzzleSet(tasks, recipe, network, seed=0)
    torch.manual_seed(0)
    model = DecoderModel(network, puzzles.num_rows)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "emb" in name:
                param.mul_(20)  # so that tokens and puzzles tell
    return model, puzzles, recipe


def lean_towards(model, token, by):
    """Make a token likelier after all others, so that a random network ends rows and grids now and then, or never."""
    plain = model._logits

    def leaning(x, delta):
        logits = plain(x, delta)
        logits[:, token] += by
        return logits

    model._logits = leaning
