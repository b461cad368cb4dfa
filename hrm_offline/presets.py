"""The named presets: a network, and the recipes that pretrain and adapt it. Standard library only.

A preset's numbers were published, or were measured here: the comments say where. `hrm_offline.config` explains every
setting.
"""

from __future__ import annotations

from dataclasses import dataclass

from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import DECODER_VOCABULARY
from hrm_offline.config import AdaptConfig, ModelConfig, PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network, the recipe that adapts it at test time, and the recipe that pretrains it.

    Where `adapt_pretrained` is set, pretrained weights are adapted by that recipe instead.
    """

    model: ModelConfig
    adapt: AdaptConfig
    pretrain: PretrainConfig
    adapt_pretrained: AdaptConfig | None = None

    def recipe(self, pretrained: bool) -> AdaptConfig:
        """Return the recipe that adapts pretrained weights, or random ones."""
        return self.adapt_pretrained if pretrained and self.adapt_pretrained else self.adapt


# ---- Length of a run: common to all families ----

# A short run gains from a learning rate that falls in its second half.
_LATE_DECAY = dict(warmup_steps=200, constant_fraction=0.5, final_lr_ratio=0.05)
# Visits that were published for networks of millions of parameters: from random weights (arXiv 2506.21734, 2510.04871),
# and after pretraining (NVARC adapted a Tiny Recursive Model for 2,000 and 4,000 epochs on Kaggle). They are a
# ceiling: a run makes as many of them as its budget has time for.
# In time beyond that further members vote. On 40 tasks of ConceptARC two members of decoder-170k have 9.67 and 7.67
# points alone and 10.00 together, by votes. A published ensemble of networks of 18M parameters went from 54.5 to 60.4%
# (arXiv 2511.14761). The limits of members keep a run from going on for a small gain; they were not measured.
_LARGE_MEMBERS, _SMALL_MEMBERS = 16, 4
_FROM_RANDOM = _LATE_DECAY | dict(visits=100_000, members=_LARGE_MEMBERS)
_FROM_PRETRAINED = _LATE_DECAY | dict(visits=4000, members=_LARGE_MEMBERS)


# ---- Published networks that predict in place ----

_FULL_BATCH = dict(tokens_per_step=96 * 900)  # per GPU
_LONG_PRETRAINING = dict(canvas="full", colour_permutations=1000, steps=400_000)

# Adaptation of a published trunk, by what others report of the Tiny Recursive Model at test time. New embeddings start
# from the mean of the pretrained ones (Trelis, arXiv 2511.02886), which an artifact brings along.
_PUBLISHED_TRUNK = dict(
    canvas="full",  # the only canvas that such weights have seen; all published adaptations kept it
    tokens_per_step=96 * 900,  # per GPU; on four GPUs Trelis' batch of 384
    lr=1e-4,  # Trelis: 1e-4 to 2e-4. The least, since each GPU learns its own tasks with a quarter of the batch
    embeddings_only=0.25,  # Trelis: embeddings alone for the first quarter, then everything
    warmup_steps=200,  # NVARC (github.com/1ytic/NVARC)
    ema_rises=False,  # TRM's averages have a constant decay; here they start from weights worth keeping
    visits=4000,  # NVARC: 2,000 epochs scored 7.5% on hidden tasks, 4,000 scored 10.0%
    members=_LARGE_MEMBERS,
    colour_permutations=248,  # with eight plain views 256. NVARC learned 128 views, Trelis voted over 256 to 512
    vote_views=256,  # 256 to 512 differ little from 1,000 (arXiv 2512.11847)
    outer_steps=10,  # NVARC; most accuracy is there at the first outer step (arXiv 2512.11847)
)

_PUBLISHED_PRESETS = {
    "hrm-27m": Preset(
        model=ModelConfig(),
        adapt=AdaptConfig(**_FULL_BATCH, **_FROM_RANDOM),
        pretrain=PretrainConfig(preset="hrm-27m", **_LONG_PRETRAINING),
        adapt_pretrained=AdaptConfig(**_FULL_BATCH, **_FROM_PRETRAINED),
    ),
    "transformer-27m": Preset(
        model=ModelConfig(architecture="transformer", H_layers=8, L_layers=0, H_cycles=1, L_cycles=0),
        adapt=AdaptConfig(**_FULL_BATCH, **_FROM_RANDOM),
        pretrain=PretrainConfig(preset="transformer-27m", **_LONG_PRETRAINING),
        adapt_pretrained=AdaptConfig(**_FULL_BATCH, **_FROM_PRETRAINED),
    ),
    # The Tiny Recursive Model as published for ARC (SamsungSAILMontreal/TinyRecursiveModels).
    "trm-7m": Preset(
        model=ModelConfig(
            architecture="shared",
            H_layers=0,
            L_layers=2,
            H_cycles=3,
            L_cycles=4,
            puzzle_tokens=16,
            halting="halt-only",
        ),
        adapt=AdaptConfig(**_FULL_BATCH, **_FROM_RANDOM),
        pretrain=PretrainConfig(preset="trm-7m", **_LONG_PRETRAINING, ema_rises=False),
        adapt_pretrained=AdaptConfig(**_PUBLISHED_TRUNK),
    ),
    # The Universal Reasoning Model as published for ARC (arXiv 2512.14693). Its convolution sees where a row of the
    # canvas ends, so every example lies on the full one.
    "urm-14m": Preset(
        model=ModelConfig(
            architecture="looped",
            L_layers=0,
            H_cycles=2,
            L_cycles=6,
            mlp_convolution=True,
            halting="halt-only",
        ),
        adapt=AdaptConfig(**_FULL_BATCH, canvas="full", **_FROM_RANDOM),
        pretrain=PretrainConfig(preset="urm-14m", **_LONG_PRETRAINING, ema_rises=False),
        adapt_pretrained=AdaptConfig(
            **_PUBLISHED_TRUNK
        ),  # nobody has reported an adaptation of this network: the other's recipe
    ),
}


# ---- Networks of our own that predict in place ----

# A network this small learns on a CPU in minutes: small batches, large rates, few steps.
_SMALL_RECIPE = dict(
    loss="softmax",
    tokens_per_step=750,
    lr=3e-3,
    puzzle_emb_lr=3e-2,
    warmup_steps=50,
    constant_fraction=0.5,
    final_lr_ratio=0.05,
    ema=0.99,
    conditioning="factored",
    colour_permutations=0,
    translate=0.0,
)
_SMALL_PREDICTION = dict(outer_steps=2, vote_views=8, predict_tokens=4096)

# A single pass: no outer loop, and each stack is passed once.
_ONE_PASS = dict(
    H_cycles=1,
    L_cycles=1,
    pre_norm=True,
    positions="rope-2d",
    rope_theta=100.0,
    puzzle_columns=3,
    halting="halt-only",
    halt_max_steps=1,
)
_ONE_PASS_RECIPE = _SMALL_RECIPE | dict(optimizer="normuon", lr=2e-3, matrix_lr=1e-2, colour_permutations=16)
# Views and doubts were chosen on ConceptARC: see LOG.md, 2026-11-27.
_ONE_PASS_PREDICTION = dict(outer_steps=1, vote_views=72, vote_doubts=True, predict_tokens=4096)
_LARGE_ONE_PASS_RECIPE = dict(
    loss="softmax", optimizer="normuon", lr=1e-3, matrix_lr=2e-3, conditioning="factored", translate=0.0
)
_LARGE_ONE_PASS_ADAPTATION = _LARGE_ONE_PASS_RECIPE | dict(tokens_per_step=32 * 900, outer_steps=1, vote_doubts=True)

_IN_PLACE_PRESETS = {
    # The form of `hrm-430k`, wider and deeper, for a GPU. Nothing of it was measured at this size.
    "hrm-13m": Preset(
        model=ModelConfig(**_ONE_PASS, hidden_size=512, num_heads=8, H_layers=2, L_layers=2, puzzle_emb_ndim=512),
        adapt=AdaptConfig(**_LARGE_ONE_PASS_ADAPTATION, **_FROM_RANDOM),
        pretrain=PretrainConfig(
            preset="hrm-13m", tokens_per_step=128 * 900, **_LARGE_ONE_PASS_RECIPE, **_LATE_DECAY, steps=100_000
        ),
        adapt_pretrained=AdaptConfig(**_LARGE_ONE_PASS_ADAPTATION, **_FROM_PRETRAINED),
    ),
    # One pass in place of four outer steps, pre-norm layers, NorMuon and recoloured views. At equal core-seconds its
    # test loss is lower than that of `hrm-132k`: see LOG.md, 2026-11-27.
    "hrm-430k": Preset(
        model=ModelConfig(**_ONE_PASS, hidden_size=128, num_heads=8, H_layers=1, L_layers=1, puzzle_emb_ndim=128),
        adapt=AdaptConfig(**(_ONE_PASS_RECIPE | _ONE_PASS_PREDICTION), visits=800),
        pretrain=PretrainConfig(
            preset="hrm-430k",
            **(_ONE_PASS_RECIPE | dict(tokens_per_step=1500, warmup_steps=200, colour_permutations=8)),
            steps=24_000,
        ),
        adapt_pretrained=AdaptConfig(
            **(_ONE_PASS_RECIPE | _ONE_PASS_PREDICTION | dict(lr=1e-3, matrix_lr=5e-3)), visits=300, embeddings_only=0.0
        ),
    ),
    "hrm-132k": Preset(
        model=ModelConfig(
            hidden_size=64,
            num_heads=4,
            H_layers=1,
            L_layers=1,
            H_cycles=1,
            L_cycles=1,
            positions="rope-2d",
            rope_theta=100.0,
            puzzle_columns=2,
            puzzle_emb_ndim=64,
            halting="halt-only",
            halt_max_steps=4,
            halt_exploration_prob=0.5,
        ),
        adapt=AdaptConfig(**_SMALL_RECIPE, **_SMALL_PREDICTION, visits=800),
        pretrain=PretrainConfig(preset="hrm-132k", **_SMALL_RECIPE, steps=20_000),
        # These rates and visits were chosen by measurement: see LOG.md, 2026-11-25.
        adapt_pretrained=AdaptConfig(
            **(_SMALL_RECIPE | {"lr": 1e-3}), **_SMALL_PREDICTION, visits=300, embeddings_only=0.05
        ),
    ),
}


# ---- Decoders: autoregressive Transformers ----

_DECODER = dict(
    architecture="decoder",
    L_layers=0,
    H_cycles=1,
    L_cycles=0,
    rms_norm_eps=1e-6,
    vocab_size=DECODER_VOCABULARY,
    positions="rope-3d",
    rope_theta=100.0,
    halting="halt-only",
    halt_max_steps=1,
)
# A decoder learns matrices by NorMuon; its embeddings of puzzles and views are learned by AdamW as the rest is.
_DECODER_RECIPE = dict(
    loss="softmax",
    optimizer="normuon",
    max_gradient_norm=1.0,
    puzzle_emb_weight_decay=0.01,
    warmup_steps=50,
    final_lr_ratio=0.0,
    ema=0.0,
    conditioning="factored",
    learned_halting=False,
    translate=0.0,
)
# The search was chosen on ConceptARC's tasks of ranks 30 to 70 by size: see LOG.md, 2026-11-26.
_DECODER_ADAPTATION = dict(
    constant_fraction=0.8, outer_steps=1, embeddings_only=0.0, search_branches=4, search_bound=0.03
)

# The sizes, rates and dropout that mdlARC publishes (2026-03; its 75M network, 300 views).
_LARGE_DECODER = _DECODER_RECIPE | dict(
    lr=1e-3, matrix_lr=1.66e-3, puzzle_emb_lr=1e-3, dropout=0.1, colour_permutations=300
)

_SMALL_DECODER = _DECODER_RECIPE | dict(
    tokens_per_step=2000, lr=2e-3, matrix_lr=1e-2, puzzle_emb_lr=5e-3, colour_permutations=0
)
_WIDER = dict(lr=1.5e-3, matrix_lr=5e-3)  # the rates of a network of three times the width
_GPU_PRETRAINING = (
    _SMALL_DECODER | _WIDER | dict(tokens_per_step=32_000, warmup_steps=200, constant_fraction=0.6, recoloured=3)
)
# The power was chosen among 0, 1, 1.5 and 2 on 80 tasks of all sizes: see LOG.md, 2026-11-27.
_SMALL_DECODER_ADAPTATION = _DECODER_ADAPTATION | dict(
    vote_views=8, predict_tokens=32768, members=_SMALL_MEMBERS, length_power=1.5
)
_SMALL_FROM_RANDOM = _SMALL_DECODER | _SMALL_DECODER_ADAPTATION | dict(visits=300)
# The visits were chosen among 80, 160 and 320 on ConceptARC's 30 smallest tasks with `decoder-170k`: see LOG.md,
# 2026-11-25. With `decoder-2m` on an H200 84, 133 and 160 visits solved the same number of tasks. Averaged weights have
# a lower test loss: see LOG.md, 2026-11-26. More recoloured views solve more of ConceptARC, and fewer of the tasks that
# are new in ARC-AGI-2. The limit on a task's tokens was not tuned.
_SMALL_FROM_PRETRAINED = (
    _SMALL_DECODER
    | _SMALL_DECODER_ADAPTATION
    | dict(puzzle_emb_lr=1e-2, ema=0.98, colour_permutations=4, recoloured_tokens=1000, visits=160)
)
# Chosen among three for `decoder-2m` on ConceptARC and tasks that are new in ARC-AGI-2: see LOG.md, 2026-11-27.
_WIDER_FROM_PRETRAINED = _SMALL_FROM_PRETRAINED | dict(lr=5e-4, matrix_lr=1.5e-3)

_DECODER_PRESETS = {
    "decoder-75m": Preset(
        model=ModelConfig(
            **_DECODER, hidden_size=768, num_heads=12, H_layers=8, expansion=6.0, puzzle_columns=3, puzzle_emb_ndim=768
        ),
        adapt=AdaptConfig(
            **_LARGE_DECODER,
            **_DECODER_ADAPTATION,
            tokens_per_step=64 * 512,
            # 650 are published for hundreds of tasks at a time. On an H200, 30 small tasks made 288 steps in 2,000
            # visits, and their loss was still 0.40: see LOG.md, 2026-11-26. By epoch they make 2,000 steps or more,
            # which was not tried there.
            visits=2000,
            members=_LARGE_MEMBERS,
            vote_views=64,
            predict_tokens=2**17,
        ),
        pretrain=PretrainConfig(
            preset="decoder-75m", **_LARGE_DECODER, constant_fraction=0.7, tokens_per_step=128 * 512, steps=100_000
        ),
    ),
    # The largest that the package brings along: it learned for six minutes on a GPU. Its recipe is that of
    # `decoder-2m`; nothing of it was chosen for this width.
    "decoder-4m": Preset(
        model=ModelConfig(
            **_DECODER, hidden_size=256, num_heads=8, H_layers=6, expansion=3.0, puzzle_columns=2, puzzle_emb_ndim=256
        ),
        adapt=AdaptConfig(**(_SMALL_FROM_RANDOM | _WIDER)),
        pretrain=PretrainConfig(preset="decoder-4m", **_GPU_PRETRAINING, steps=27_268),
        adapt_pretrained=AdaptConfig(**_WIDER_FROM_PRETRAINED),
    ),
    "decoder-2m": Preset(
        model=ModelConfig(
            **_DECODER, hidden_size=192, num_heads=12, H_layers=6, expansion=3.0, puzzle_columns=2, puzzle_emb_ndim=192
        ),
        adapt=AdaptConfig(**(_SMALL_FROM_RANDOM | _WIDER)),
        pretrain=PretrainConfig(preset="decoder-2m", **_GPU_PRETRAINING, steps=9500),
        adapt_pretrained=AdaptConfig(**_WIDER_FROM_PRETRAINED),
    ),
    "decoder-170k": Preset(
        model=ModelConfig(
            **_DECODER, hidden_size=64, num_heads=4, H_layers=4, expansion=3.0, puzzle_columns=2, puzzle_emb_ndim=64
        ),
        adapt=AdaptConfig(**_SMALL_FROM_RANDOM),
        pretrain=PretrainConfig(preset="decoder-170k", **_SMALL_DECODER, constant_fraction=0.7, steps=20_000),
        # Half the rates of random weights, but for the embeddings, which are new.
        adapt_pretrained=AdaptConfig(**(_SMALL_FROM_PRETRAINED | dict(lr=1e-3, matrix_lr=5e-3))),
    ),
}


PRESETS = {**_PUBLISHED_PRESETS, **_IN_PLACE_PRESETS, **_DECODER_PRESETS}

# The presets whose networks predict all cells at once.
RECURSIVE_PRESETS = tuple(name for name, chosen in PRESETS.items() if not chosen.model.is_decoder)

# The published networks whose weights can be imported, and the presets that have their settings.
PUBLISHED = {"HRM": "hrm-27m", "TRM": "trm-7m", "URM": "urm-14m"}


def preset(name: str) -> Preset:
    """Return the preset of that name. Raises `InputError` naming the presets there are."""
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}', expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
