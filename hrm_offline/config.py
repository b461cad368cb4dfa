"""Every setting, as frozen dataclasses, and the named presets. Standard library only.

A preset joins a network (`ModelConfig`) with the recipes that pretrain it (`PretrainConfig`) and
adapt it at test time (`AdaptConfig`). `from_dict` reads a dataclass back from JSON and refuses unknown keys and wrong
types, so that a typo in a config file is an error and not a silent default.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from dataclasses import dataclass

from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.tokens import COLOURS

ARCHITECTURES = ("hrm", "transformer", "shared")
POSITIONS = ("rope-1d", "rope-2d", "learned")
HALTING = ("q-learning", "halt-only")
LOSSES = ("stablemax", "softmax")
CONDITIONING = ("table", "factored", "few-shot")
HALTING_TARGETS = ("next-step", "look-ahead")
CANVAS = ("tight", "full")
VOTES = ("rotations", "flips", "colours", "translation")
SHARING = ("sharded", "joint", "per-task")  # which tasks learn one network together

# Far beyond any use. A config beyond them is a mistake, or there to exhaust the machine that builds it.
_MAX_VALUES = {
    "hidden_size": 2**14,
    "num_heads": 2**10,
    "H_layers": 256,
    "L_layers": 256,
    "H_cycles": 256,
    "L_cycles": 256,
    "expansion": 64,
    "rms_norm_eps": 1,
    "vocab_size": 2**16,
    "rope_theta": 1e12,
    "puzzle_columns": 3,
    "puzzle_emb_ndim": 2**14,
    "context_pairs": 16,
    "halt_max_steps": 2**12,
    "halt_exploration_prob": 1,
}
_MAX_CELLS = 512 * 512
_MAX_PUZZLE_TOKENS = 256
_MAX_LAYERS_PER_STEP = 2**14


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the Hierarchical Reasoning Model's as published (27M parameters).

    `architecture`: "hrm" has two modules, H and L, of which only the last pass each carries gradient. "transformer"
    is one stack, H, passed once a cycle (no L), the same-size baseline of ARC Prize's analysis. "shared" is
    one stack, L, in both roles, with gradient through the whole last cycle (Tiny Recursive Model,
    arXiv 2510.04871). What an architecture lacks has 0 layers and cycles.
    `positions`: "rope-1d" rotates by the index in the flattened canvas, as published; "rope-2d"
    rotates half of each head by the row and half by the column; "learned" adds a table.
    `canvas_rows` x `canvas_cols` is the largest canvas. Flattened positions count along its
    width whatever canvas a batch uses, so a cell keeps its position on a tighter one.
    `puzzle_columns` embeddings of `puzzle_emb_ndim` numbers each condition a sequence: 1 its puzzle's and
    view's; 2 its puzzle's and its dihedral transform's; 3 also the mean of ten that say what becomes of
    each colour; 0 none. Together they fill ceil(columns * ndim / hidden_size) tokens in front of it.
    With `context_pairs` that many demonstrations stand in front of it instead, each on two canvases.
    `halting`: "q-learning" as published, "halt-only" learns just whether the answer is right and
    halts when it thinks so.
    """

    architecture: str = "hrm"
    hidden_size: int = 512
    num_heads: int = 8
    H_layers: int = 4
    L_layers: int = 4
    H_cycles: int = 2
    L_cycles: int = 2
    expansion: float = 4.0
    rms_norm_eps: float = 1e-5
    vocab_size: int = 12
    positions: str = "rope-1d"
    rope_theta: float = 10000.0
    canvas_rows: int = 30
    canvas_cols: int = 30
    puzzle_columns: int = 1
    puzzle_emb_ndim: int = 512
    context_pairs: int = 0
    halting: str = "q-learning"
    halt_max_steps: int = 16
    halt_exploration_prob: float = 0.1

    def __post_init__(self):
        _require_positive(
            self,
            "hidden_size",
            "num_heads",
            "H_cycles",
            "expansion",
            "vocab_size",
            "canvas_rows",
            "canvas_cols",
            "halt_max_steps",
            "rope_theta",
            "rms_norm_eps",
        )
        for name in ("puzzle_columns", "puzzle_emb_ndim", "context_pairs", "halt_exploration_prob"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {shown(getattr(self, name))}, expected 0 or more")
        self._require_modules()
        for name, most in _MAX_VALUES.items():
            if getattr(self, name) > most:
                raise InputError(f"{name} is {shown(getattr(self, name))}, expected at most {most}")
        self._require_affordable()
        _require_choice(self, "positions", POSITIONS)
        _require_choice(self, "halting", HALTING)
        if self.hidden_size % self.num_heads:
            raise InputError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        multiple = 4 if self.positions == "rope-2d" else 2
        if self.positions != "learned" and self.head_dim % multiple:
            raise InputError(
                f"{self.positions} needs a head dimension that is a multiple of {multiple}, not {self.head_dim}"
            )
        if self.puzzle_columns and not self.puzzle_emb_ndim:
            raise InputError(f"puzzle_columns is {self.puzzle_columns} and puzzle_emb_ndim 0, expected more than 0")
        if self.puzzle_columns and self.context_pairs:
            raise InputError(
                f"puzzle_columns is {self.puzzle_columns} and context_pairs {self.context_pairs}, expected one of them"
            )

    def _require_modules(self) -> None:
        """The modules that the architecture has, and no other."""
        _require_choice(self, "architecture", ARCHITECTURES)
        absent = {"hrm": (), "transformer": ("L_layers", "L_cycles"), "shared": ("H_layers",)}[self.architecture]
        for name in ("H_layers", "L_layers", "L_cycles"):
            if name not in absent:
                _require_positive(self, name)
            elif getattr(self, name):
                raise InputError(
                    f"{name} is {shown(getattr(self, name))}, expected 0 for architecture '{self.architecture}'"
                )

    def _require_affordable(self) -> None:
        """Settings within their own limits can still be too much, or too little, together."""
        if not self.intermediate_size:
            raise InputError(f"expansion is {self.expansion}, too little for hidden_size {self.hidden_size}")
        for what, value, most in (
            ("canvas_rows x canvas_cols", self.canvas_rows * self.canvas_cols, _MAX_CELLS),
            ("puzzle_columns x puzzle_emb_ndim in tokens of hidden_size", self.puzzle_tokens, _MAX_PUZZLE_TOKENS),
            ("layers that an outer step passes, cycles x layers,", self.layer_passes, _MAX_LAYERS_PER_STEP),
        ):
            if value > most:
                raise InputError(f"{what} is {shown(value)}, expected at most {most}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def layer_passes(self) -> int:
        """Blocks that a sequence passes in an outer step."""
        return self.H_cycles * (self.L_cycles * self.L_layers + (self.H_layers or self.L_layers))

    @property
    def gradient_passes(self) -> int:
        """Those of them, the last, that carry gradient."""
        cycles = self.L_cycles + 1 if self.architecture == "shared" else 1
        return self.H_layers + cycles * self.L_layers

    @property
    def intermediate_size(self) -> int:
        """Width of the SwiGLU: 2/3 of `expansion` x hidden, rounded up to a multiple of 256."""
        return -(-round(self.expansion * self.hidden_size * 2 / 3) // 256) * 256

    @property
    def puzzle_ids(self) -> int:
        """Rows of the embedding table that a sequence names."""
        return 2 + COLOURS if self.puzzle_columns == 3 else self.puzzle_columns

    @property
    def puzzle_tokens(self) -> int:
        """Tokens that the puzzle embedding fills in front of the canvas."""
        return -(-self.puzzle_columns * self.puzzle_emb_ndim // self.hidden_size)

    @property
    def canvases(self) -> int:
        """Canvases in a sequence: two a demonstration of its context, and the input's."""
        return 2 * self.context_pairs + 1

    def conditioned(self, recipe: Recipe) -> ModelConfig:
        """The network with what the recipe's conditioning needs."""
        few_shot = recipe.conditioning == "few-shot"
        return dataclasses.replace(
            self, puzzle_columns=recipe.puzzle_columns, context_pairs=recipe.context_pairs if few_shot else 0
        )


@dataclass(frozen=True)
class Recipe:
    """How weights are learned: what pretraining and test-time adaptation have in common.

    A step holds about `tokens_per_step` canvas tokens, so smaller canvases make larger batches.
    Each process computes its share in `micro_batches` parts, one after another, to save memory.
    `cuda_graphs` records each bucket's step once on a GPU and replays it.
    `canvas`: "tight" is sized for each example (see `hrm_offline.data.canvas`), "full" the model's largest.
    With `learned_halting` a sequence in training ends when the network thinks its answer right, otherwise after
    the model's `halt_max_steps`; the halting head learns either way.
    The learning rate warms up for `warmup_steps`, stays for `constant_fraction` of the run and
    falls linearly to `final_lr_ratio` of itself. `ema` is the decay of the averaged weights that
    predict (0: none). A puzzle's plain views are its `rotations` and `flips`: all eight of the dihedral group with
    both, four with one of them. `colour_permutations` is the number of recoloured views beside them;
    `translate` the share of examples placed off the canvas' corner.
    `conditioning`: "table" gives each (puzzle, view) its own embedding, as published; "factored" one for
    the puzzle, one for the dihedral transform and, where colours are permuted, one for their mapping; "few-shot" none,
    but `context_pairs` other demonstrations in the sequence, so that a task never trained can be answered.
    `halting_target`: what q_continue learns is read off the next step's own pass ("next-step"), or off
    a second pass that is made for nothing else ("look-ahead", as published).
    """

    loss: str = "stablemax"
    tokens_per_step: int = 768 * 900
    micro_batches: int = 1
    cuda_graphs: bool = False
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    puzzle_emb_lr: float = 1e-2
    puzzle_emb_weight_decay: float = 0.1
    warmup_steps: int = 2000
    constant_fraction: float = 1.0
    final_lr_ratio: float = 1.0
    ema: float = 0.999
    canvas: str = "tight"
    conditioning: str = "table"
    context_pairs: int = 3
    learned_halting: bool = True
    halting_target: str = "next-step"
    rotations: bool = True
    flips: bool = True
    colour_permutations: int = 100
    translate: float = 0.75

    def __post_init__(self):
        _require_positive(self, "tokens_per_step", "micro_batches", "lr", "puzzle_emb_lr", "context_pairs")
        _require_choice(self, "loss", LOSSES)
        _require_choice(self, "canvas", CANVAS)
        _require_choice(self, "conditioning", CONDITIONING)
        _require_choice(self, "halting_target", HALTING_TARGETS)
        for name in ("beta1", "beta2", "ema", "constant_fraction", "final_lr_ratio", "translate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name in ("warmup_steps", "colour_permutations", "weight_decay", "puzzle_emb_weight_decay"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")

    @property
    def puzzle_columns(self) -> int:
        """Embeddings that condition a sequence under this recipe."""
        if self.conditioning == "few-shot":
            return 0
        if self.conditioning == "table":
            return 1
        return 3 if self.colour_permutations else 2


@dataclass(frozen=True)
class AdaptConfig(Recipe):
    """Test-time adaptation and prediction.

    Every demonstration pair is offered `visits` times if the budget allows (0: the network stays as it is).
    With a pretrained artifact only the new puzzle embeddings learn for the first `embeddings_only` of the
    steps; random weights have nothing to protect and learn from the first step. Prediction runs
    `outer_steps` over at most `vote_views` views of each test input, those of the learned ones that
    `vote_augmentations` can make ("translation": each a second time elsewhere on its canvas, where there is
    room); with `early_halting` a sequence that the halting head thinks right stops before.
    """

    visits: int = 1000
    embeddings_only: float = 0.25
    outer_steps: int = 16
    early_halting: bool = False
    vote_views: int = 256
    vote_augmentations: tuple[str, ...] = ("rotations", "flips", "colours")
    predict_tokens: int = 128 * 900

    def __post_init__(self):
        super().__post_init__()
        _require_positive(self, "outer_steps", "vote_views", "predict_tokens")
        if self.visits < 0:
            raise InputError(f"visits is {self.visits}, expected 0 or more")
        for name in self.vote_augmentations:
            if name not in VOTES:
                raise InputError(f"vote_augmentations has '{shown_name(name)}', expected some of {', '.join(VOTES)}")
        if not 0 <= self.embeddings_only <= 1:
            raise InputError(f"embeddings_only is {self.embeddings_only}, expected 0 to 1")


@dataclass(frozen=True)
class PretrainConfig(Recipe):
    """Offline pretraining.

    `data` names task sets (see `hrm_offline.data.sets.load_set`). Tasks with a grid side over `max_side` are
    left out, and so are those that share a pair, in any view, with a task of the `held_out` sets or an
    earlier one; the first `limit` of the rest are taken (0: all), each also in `recoloured` copies, puzzles
    of their own. Test pairs with known outputs are learned too where `include_tests` is set. State is saved
    every `save_every` steps and metrics are averaged over `log_every`.
    """

    preset: str = "hrm-27m"
    data: tuple[str, ...] = ("arc1-train",)
    held_out: tuple[str, ...] = ("arc1-eval", "arc2-eval", "rehearsal")
    max_side: int = 30
    limit: int = 0
    recoloured: int = 0
    include_tests: bool = True
    steps: int = 10_000
    log_every: int = 10
    save_every: int = 1000
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        _require_positive(self, "steps", "log_every", "save_every", "max_side")
        if not self.data:
            raise InputError("data is empty, expected at least one set of tasks")


@dataclass(frozen=True)
class Preset:
    """A network, the recipe that adapts it at test time and the one that pretrains it; where `adapt_pretrained` is
    set, pretrained weights are adapted by that."""

    model: ModelConfig
    adapt: AdaptConfig
    pretrain: PretrainConfig
    adapt_pretrained: AdaptConfig | None = None

    def recipe(self, pretrained: bool) -> AdaptConfig:
        """What adapts pretrained weights, or random ones."""
        return self.adapt_pretrained if pretrained and self.adapt_pretrained else self.adapt


T = typing.TypeVar("T")


def from_dict(cls: type[T], values: dict, where: str) -> T:
    """Build the dataclass `cls` from parsed JSON.

    `where` names the source in errors. Raises `InputError` for an unknown key, a wrong type or a
    value that the dataclass refuses.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object of settings, found {type(values).__name__}")
    types = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"{where}: unknown setting '{shown_name(unknown[0])}', expected one of {', '.join(sorted(known))}"
        )
    try:
        return cls(**{name: _typed(value, types[name], name) for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _typed(value, kind, name: str):
    if typing.get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise InputError(f"'{name}' is {shown(value)}, expected a list of strings")
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is float or type(value) is not kind:
        expected = "a finite number" if kind is float else kind.__name__
        raise InputError(f"'{name}' is {shown(value)}, expected {expected}")
    return value


def _require_positive(config, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{name} is {shown(getattr(config, name))}, expected more than 0")


def _require_choice(config, name: str, choices: tuple[str, ...]) -> None:
    if getattr(config, name) not in choices:
        raise InputError(f"{name} is '{shown_name(getattr(config, name))}', expected one of {', '.join(choices)}")


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
_LATE_DECAY = dict(warmup_steps=200, constant_fraction=0.5, final_lr_ratio=0.05)

PRESETS = {
    "hrm-27m": Preset(
        ModelConfig(),
        AdaptConfig(tokens_per_step=96 * 900, **_LATE_DECAY),
        PretrainConfig(preset="hrm-27m", canvas="full", colour_permutations=1000, steps=400_000),
    ),
    "transformer-27m": Preset(
        ModelConfig(architecture="transformer", H_layers=8, L_layers=0, H_cycles=1, L_cycles=0),
        AdaptConfig(tokens_per_step=96 * 900, **_LATE_DECAY),
        PretrainConfig(preset="transformer-27m", canvas="full", colour_permutations=1000, steps=400_000),
    ),
    "shared-7m": Preset(
        ModelConfig(architecture="shared", H_layers=0, L_layers=2, H_cycles=3, L_cycles=4, halting="halt-only"),
        AdaptConfig(tokens_per_step=96 * 900, **_LATE_DECAY),
        PretrainConfig(preset="shared-7m", canvas="full", colour_permutations=1000, steps=400_000),
    ),
    "hrm-3m": Preset(
        ModelConfig(
            hidden_size=256,
            num_heads=8,
            H_layers=2,
            L_layers=2,
            positions="rope-2d",
            rope_theta=100.0,
            puzzle_columns=3,
            puzzle_emb_ndim=256,
            halt_max_steps=8,
        ),
        AdaptConfig(tokens_per_step=32 * 900, lr=3e-4, conditioning="factored", outer_steps=8, **_LATE_DECAY),
        PretrainConfig(preset="hrm-3m", tokens_per_step=128 * 900, lr=3e-4, conditioning="factored", steps=100_000),
    ),
    "hrm-132k": Preset(
        ModelConfig(
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
        AdaptConfig(**_SMALL_RECIPE, **_SMALL_PREDICTION, visits=800),
        PretrainConfig(preset="hrm-132k", **_SMALL_RECIPE, steps=20_000),
        # Chosen by measurement: see LOG.md, 2026-11-25.
        AdaptConfig(**(_SMALL_RECIPE | {"lr": 1e-3}), **_SMALL_PREDICTION, visits=300, embeddings_only=0.05),
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises `InputError` naming the ones there are."""
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}', expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
