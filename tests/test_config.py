"""Test the settings: presets, limits, and values that are refused."""

import dataclasses
from pathlib import Path

import pytest
from networks import ARCHITECTURES, TINY

from hrm_offline.common.errors import InputError
from hrm_offline.config import AdaptConfig, ModelConfig, PretrainConfig, PretrainOptions
from hrm_offline.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_the_recipes_of_a_preset_fit_its_network(name):
    chosen = PRESETS[name]
    assert chosen.model.puzzle_columns == chosen.adapt.puzzle_columns == chosen.pretrain.puzzle_columns
    assert chosen.pretrain.preset == name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "multiple"),
        ({"positions": "sine"}, "positions"),
        ({"H_layers": 0}, "H_layers"),
        ({"halt_exploration_prob": 1.5}, "halt_exploration_prob"),
        ({"hidden_size": 12, "num_heads": 2, "positions": "rope-2d"}, "rope-2d"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "rnn"},
        {"architecture": "transformer"},
        {"architecture": "shared"},
        {"architecture": "looped"},
        {"L_cycles": 0},
        {"architecture": "transformer", "L_layers": 0, "L_cycles": 1},
        {"context_pairs": 2},
        {"context_pairs": -1},
        {"puzzle_tokens": -1},
        {"puzzle_tokens": 1, "puzzle_columns": 2},
        {"puzzle_place": "added", "puzzle_emb_ndim": 16},
        {"puzzle_place": "behind"},
    ],
)
def test_an_architecture_with_another_ones_modules_is_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(ARCHITECTURES["hrm"], **change)


@pytest.mark.parametrize(
    ("preset", "change"),
    [
        ("urm-14m", {"pre_norm": True}),
        ("decoder-170k", {"pre_norm": True}),
        ("decoder-170k", {"puzzle_place": "both"}),
    ],
)
def test_settings_that_do_not_go_with_an_architecture_are_refused(preset, change):
    with pytest.raises(InputError, match=f"{next(iter(change))} is .*, expected .* for architecture"):
        dataclasses.replace(PRESETS[preset].model, **change)


def test_puzzle_tokens_are_as_many_as_asked_for_or_as_the_embeddings_fill():
    assert TINY.prefix_tokens == 1
    assert dataclasses.replace(TINY, puzzle_columns=3).prefix_tokens == 3
    assert dataclasses.replace(TINY, puzzle_columns=3, puzzle_tokens=16).prefix_tokens == 16
    assert dataclasses.replace(TINY, puzzle_columns=0, puzzle_tokens=16).prefix_tokens == 0
    assert PRESETS["decoder-75m"].model.prefix_tokens == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"canvas_rows": 512, "canvas_cols": 513}, "canvas_rows x canvas_cols is 262656"),
        ({"H_layers": 200, "L_layers": 200, "H_cycles": 10, "L_cycles": 10}, "is 22000, expected at most"),
        ({"hidden_size": 4, "num_heads": 2, "puzzle_emb_ndim": 16_000}, "is 4000, expected at most"),
    ],
)
def test_settings_that_are_too_much_together_are_refused(settings, reason):
    with pytest.raises(InputError, match=reason):
        ModelConfig(**settings)


def test_limits_leave_room_for_research():
    for preset in PRESETS.values():
        deep = {
            name: size
            for name, size in (("H_layers", 32), ("L_layers", 32), ("H_cycles", 8), ("L_cycles", 8))
            if getattr(preset.model, name)
        }
        dataclasses.replace(
            preset.model,
            **deep,
            canvas_rows=128,
            canvas_cols=128,
            hidden_size=8192,
            num_heads=64,
            puzzle_emb_ndim=8192,
            halt_max_steps=1 if preset.model.is_decoder else 256,
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptConfig(visits=-1),
        lambda: AdaptConfig(embeddings_only=2),
        lambda: PretrainConfig(data=()),
        lambda: PretrainConfig(steps=0),
        lambda: AdaptConfig(vote_augmentations=("mirrors",)),
        lambda: AdaptConfig(beta1=1.0),
        lambda: ModelConfig(puzzle_columns=-1),
        lambda: PretrainConfig(limit=-1),
        lambda: PretrainOptions(out=Path("x"), minutes=0.0),
        lambda: PretrainOptions(out=Path("x"), dtype="int3"),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()
