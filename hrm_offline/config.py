"""Declare every setting of learning and prediction, as frozen dataclasses. Standard library only.

`ModelConfig` is the network. `Recipe` is how weights are learned, and has two kinds: `PretrainConfig` and
`AdaptConfig`. `hrm_offline.presets` has the values that go together. docs/configuration.md lists all settings.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.common.errors import InputError, shown
from hrm_offline.common.settings import check, setting
from hrm_offline.common.tokens import COLOURS, DECODER_VOCABULARY

ARCHITECTURES = ("hrm", "transformer", "shared", "looped", "decoder")
POSITIONS = ("rope-1d", "rope-2d", "rope-3d", "learned")
HALTING = ("q-learning", "halt-only")
LOSSES = ("stablemax", "softmax")
OPTIMIZERS = ("adam-atan2", "muon", "normuon")
CONDITIONING = ("table", "factored", "few-shot")
HALTING_TARGETS = ("next-step", "look-ahead")
CANVAS = ("tight", "full")
PUZZLE_PLACES = ("front", "added", "both")
VOTES = ("rotations", "flips", "colours", "translation")
DTYPES = ("float32", "bfloat16", "float16")
CUDA_GRAPHS = ("measured", "yes", "no")
SHARING = ("sharded", "joint", "per-task")  # which tasks learn one network together
PRESET_NAMES = (  # of `hrm_offline.presets.PRESETS`, which imports this file
    "hrm-27m",
    "transformer-27m",
    "trm-7m",
    "urm-14m",
    "hrm-13m",
    "hrm-430k",
    "hrm-132k",
    "decoder-75m",
    "decoder-4m",
    "decoder-2m",
    "decoder-170k",
)

NOT_IN_WEIGHTS = ("num_heads", "H_cycles", "L_cycles", "halt_max_steps", "puzzle_tokens")  # what weights do not tell

# Headings of the flags that are made from the recipes' fields.
_RUN = "data and length of the run"
_BATCHES = "batches and canvas"
_LOSS = "loss and halting"
_OPTIMISER = "optimiser"
_VIEWS = "augmentation and conditioning"

MAX_SEED = 2**63 - 1  # PyTorch and numpy take it
MAX_THREADS = 2**10
_MAX_CELLS = 512 * 512
_MAX_PUZZLE_TOKENS = 256
_MAX_LAYERS_PER_STEP = 2**14


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the Hierarchical Reasoning Model's as published (27M parameters).

    The architectures differ in their stacks of layers, and an architecture has 0 of the layers and cycles that it
    lacks:

    - "hrm" has two stacks, H and L. Only the last pass of each carries gradient.
    - "transformer" has one stack, H, which is passed once per H cycle. This is the baseline of the same size in ARC
      Prize's analysis of the Hierarchical Reasoning Model.
    - "shared" has one stack, L, in both roles. The whole last cycle carries gradient (Tiny Recursive Model,
      arXiv 2510.04871).
    - "looped" has one stack, H, and one state, which H passes `L_cycles` times per H cycle. The input is added before
      each pass. The whole last cycle carries gradient (Universal Reasoning Model, arXiv 2512.14693).
    - "decoder" has one stack, H, of pre-norm layers, which is passed once per H cycle. It reads a pair as one sequence
      and predicts the output token by token. The others predict all cells of the output at once, in place. All
      passes carry gradient. Puzzle embeddings are added to every token, and there is no halting.

    The upper limits lie far beyond any use: a larger number is a mistake, or is meant to exhaust the machine.
    """

    architecture: str = setting(
        "hrm", "which stacks of layers the network has, and which passes carry gradient", ARCHITECTURES
    )
    hidden_size: int = setting(512, "numbers per token", above=0, most=2**14)
    num_heads: int = setting(8, "attention heads per layer", above=0, most=2**10)
    H_layers: int = setting(4, "layers of the H stack", most=256)
    L_layers: int = setting(4, "layers of the L stack", most=256)
    H_cycles: int = setting(2, "H passes per outer step", above=0, most=256)
    L_cycles: int = setting(2, "L passes per H pass", most=256)
    expansion: float = setting(4.0, "width of the SwiGLU: about 2/3 of this times hidden_size", above=0, most=64)
    mlp_convolution: bool = setting(
        False,
        "in the SwiGLU, each number is also mixed with that of the token before (Universal Reasoning Model); what is "
        "learned then depends on the width of the canvas",
        later=True,
    )
    pre_norm: bool = setting(
        False,
        "normalise before each half of a layer and after the last layer, as a decoder always does, in place of after "
        "each half",
        later=True,
    )
    rms_norm_eps: float = setting(1e-5, "added to the mean square in the normalisation", above=0, most=1)
    vocab_size: int = setting(
        12, "different tokens: PAD, EOS and ten colours, and three more for a decoder", above=0, most=2**16
    )
    positions: str = setting(
        "rope-1d",
        "rotary positions by the index in the canvas (rope-1d), half by row, half by column (rope-2d), by row, column "
        "and part of the sequence (rope-3d, for a decoder), or a learned table",
        POSITIONS,
    )
    rope_theta: float = setting(10000.0, "base of the rotary positions' wavelengths", above=0, most=1e12)
    # Flattened positions count along this width whatever canvas a batch uses, so a cell keeps its position.
    canvas_rows: int = setting(30, "rows of the largest canvas, in cells", above=0)
    canvas_cols: int = setting(30, "columns of the largest canvas, in cells", above=0)
    puzzle_columns: int = setting(
        1,
        "embeddings per sequence: 1 of its (puzzle, view), 2 of puzzle and dihedral transform, 3 also of the colours' "
        "mapping, 0 none",
        least=0,
        most=3,
    )
    puzzle_emb_ndim: int = setting(512, "numbers per puzzle embedding", least=0, most=2**14)
    puzzle_tokens: int = setting(
        0,
        "tokens in front of the canvas, of which the puzzle embeddings fill the first and zeros the others (the Tiny "
        "Recursive Model has 16); 0: as many as the embeddings fill",
        least=0,
        most=_MAX_PUZZLE_TOKENS,
        later=True,
    )
    puzzle_place: str = setting(
        "front",
        "where puzzle embeddings enter a network that is no decoder: as tokens in front of the canvas (front), added "
        "to every token (added), or both",
        PUZZLE_PLACES,
        later=True,
    )
    context_pairs: int = setting(
        0, "demonstrations in front of each sequence, in place of embeddings", least=0, most=16
    )
    halting: str = setting(
        "q-learning",
        "the halting head learns as published (q-learning), or only whether the answer is right (halt-only)",
        HALTING,
    )
    halt_max_steps: int = setting(16, "outer steps per sequence in training, at most", above=0, most=2**12)
    halt_exploration_prob: float = setting(
        0.1, "share of sequences in training that are kept from halting for a random number of steps", least=0, most=1
    )

    def __post_init__(self):
        check(self)
        self._require_modules()
        self._require_affordable()
        if self.hidden_size % self.num_heads:
            raise InputError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        multiple = {"rope-2d": 4, "rope-3d": 8}.get(self.positions, 2)
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
        if self.puzzle_tokens and self.puzzle_tokens < self._filled_tokens:
            raise InputError(
                f"puzzle_tokens is {self.puzzle_tokens}, expected {self._filled_tokens} or more for "
                f"{self.puzzle_columns} x {self.puzzle_emb_ndim} numbers"
            )
        if self.pre_norm and self.architecture == "looped":
            raise InputError("pre_norm is True, expected False for architecture 'looped'")
        self._require_decoder()
        self._require_addable_embeddings()

    def _require_modules(self) -> None:
        """Raise `InputError` unless the architecture has all of its stacks, and no other."""
        without_l = ("L_layers", "L_cycles")
        absent = {
            "hrm": (),
            "transformer": without_l,
            "shared": ("H_layers",),
            "looped": ("L_layers",),
            "decoder": without_l,
        }[self.architecture]
        for name in ("H_layers", "L_layers", "L_cycles"):
            value = getattr(self, name)
            if name in absent and value:
                raise InputError(f"{name} is {shown(value)}, expected 0 for architecture '{self.architecture}'")
            if name not in absent and not value > 0:
                raise InputError(f"{name} is {shown(value)}, expected more than 0")

    def _require_decoder(self) -> None:
        """Raise `InputError` where a decoder's settings are not a decoder's, or another network has some of them."""
        if (self.positions == "rope-3d") != self.is_decoder:
            raise InputError(f"positions '{self.positions}' do not go with architecture '{self.architecture}'")
        if not self.is_decoder:
            return
        for name, expected in (
            ("halt_max_steps", 1),
            ("context_pairs", 0),
            ("puzzle_tokens", 0),
            ("mlp_convolution", False),
            ("pre_norm", False),
            ("puzzle_place", "front"),
        ):
            if getattr(self, name) != expected:
                raise InputError(f"{name} is {getattr(self, name)}, expected {expected} for architecture 'decoder'")
        if self.vocab_size < DECODER_VOCABULARY:
            raise InputError(f"vocab_size is {self.vocab_size}, expected {DECODER_VOCABULARY} for a decoder")

    def _require_addable_embeddings(self) -> None:
        """Raise `InputError` where puzzle embeddings are added to tokens, and are not as wide as these."""
        is_added = self.is_decoder or self.puzzle_place != "front"
        if is_added and self.puzzle_columns and self.puzzle_emb_ndim != self.hidden_size:
            where = "a decoder" if self.is_decoder else f"puzzle_place '{self.puzzle_place}'"
            raise InputError(
                f"puzzle_emb_ndim is {self.puzzle_emb_ndim}, expected hidden_size {self.hidden_size} for {where}"
            )

    def _require_affordable(self) -> None:
        """Raise `InputError` where settings, each within its own limits, are together too much or too little."""
        if not self.intermediate_size:
            raise InputError(f"expansion is {self.expansion}, too little for hidden_size {self.hidden_size}")
        for what, value, most in (
            ("canvas_rows x canvas_cols", self.canvas_rows * self.canvas_cols, _MAX_CELLS),
            ("puzzle_columns x puzzle_emb_ndim in tokens of hidden_size", self._filled_tokens, _MAX_PUZZLE_TOKENS),
            ("layers that an outer step passes, cycles x layers,", self.layer_passes, _MAX_LAYERS_PER_STEP),
        ):
            if value > most:
                raise InputError(f"{what} is {shown(value)}, expected at most {most}")

    @property
    def is_decoder(self) -> bool:
        """Return whether the network predicts token by token."""
        return self.architecture == "decoder"

    @property
    def head_dim(self) -> int:
        """Return the numbers per attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_passes(self) -> int:
        """Return the number of layers that a sequence passes per outer step."""
        if self.architecture == "looped":
            return self.H_cycles * self.L_cycles * self.H_layers
        return self.H_cycles * (self.L_cycles * self.L_layers + (self.H_layers or self.L_layers))

    @property
    def gradient_passes(self) -> int:
        """Return the number of layer passes that carry gradient: the last ones of an outer step."""
        if self.is_decoder:
            return self.layer_passes
        if self.architecture == "looped":
            return self.L_cycles * self.H_layers
        cycles = self.L_cycles + 1 if self.architecture == "shared" else 1
        return self.H_layers + cycles * self.L_layers

    @property
    def intermediate_size(self) -> int:
        """Return the width of the SwiGLU: 2/3 of `expansion` x hidden, rounded up to a multiple of 256.

        That of pre-norm layers is rounded up to a multiple of 64.
        """
        multiple = 64 if self.is_decoder or self.pre_norm else 256
        return _ceil_div(round(self.expansion * self.hidden_size * 2 / 3), multiple) * multiple

    @property
    def puzzle_ids(self) -> int:
        """Return the rows of the embedding table that each sequence names. The third column is a mean of ten rows."""
        return 2 + COLOURS if self.puzzle_columns == 3 else self.puzzle_columns

    @property
    def prefix_tokens(self) -> int:
        """Return the tokens in front of the canvas: those that puzzle embeddings fill, and zeros after them.

        A network without embeddings has none.
        """
        return max(self.puzzle_tokens, self._filled_tokens) if self._filled_tokens else 0

    @property
    def _filled_tokens(self) -> int:
        if self.is_decoder or self.puzzle_place == "added":  # adds the embeddings to every token
            return 0
        return _ceil_div(self.puzzle_columns * self.puzzle_emb_ndim, self.hidden_size)

    @property
    def canvases(self) -> int:
        """Return the canvases per sequence: two per demonstration of its context, and the input's."""
        return 2 * self.context_pairs + 1

    def conditioned(self, recipe: Recipe) -> ModelConfig:
        """Return the network with the embeddings or the context that the recipe's conditioning needs."""
        few_shot = recipe.conditioning == "few-shot"
        return dataclasses.replace(
            self, puzzle_columns=recipe.puzzle_columns, context_pairs=recipe.context_pairs if few_shot else 0
        )


def _ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Recipe:
    """How weights are learned: what pretraining and test-time adaptation have in common.

    Smaller canvases make larger batches, since a step holds about `tokens_per_step` canvas tokens. The learning rate
    warms up for `warmup_steps`, stays for `constant_fraction` of the run and falls linearly to `final_lr_ratio` of
    itself. The plain views of a puzzle are its rotations and flips: all eight of the dihedral group with both, four
    with one of them.

    `conditioning` says how the network is told which puzzle a sequence belongs to:

    - "table" gives each (puzzle, view) an embedding of its own, as published.
    - "factored" gives one to the puzzle, one to the dihedral transform and, where colours are permuted, one to the
      colours' mapping.
    - "few-shot" gives none. `context_pairs` other demonstrations stand in the sequence instead, so that a task that
      was never trained can be answered.

    `halting_target` says where the target of q_continue comes from: the pass that the next step makes anyway
    ("next-step"), or a second pass that is made for nothing else ("look-ahead", as published).
    """

    loss: str = setting("stablemax", "how outputs become probabilities in the loss", LOSSES, group=_LOSS)
    tokens_per_step: int = setting(768 * 900, "canvas tokens per optimiser step, about", above=0, group=_BATCHES)
    micro_batches: int = setting(
        1,
        "parts of a step that each process computes one after another, to save memory",
        above=0,
        most=2**16,
        group=_BATCHES,
    )
    cuda_graphs: str = setting(
        "measured",
        "on a GPU, record the work at each shape once and replay it: where a trial gives the same numbers in less time "
        "(measured), always, or never",
        CUDA_GRAPHS,
        group=_BATCHES,
        recorded=False,
    )
    optimizer: str = setting(
        "adam-atan2",
        "what moves the network; muon moves all matrices by Muon, as the Universal Reasoning Model was trained for "
        "ARC-AGI-2, and normuon those of the layers by NorMuon; both move the rest by AdamW",
        OPTIMIZERS,
        group=_OPTIMISER,
        later=True,
    )
    lr: float = setting(1e-4, "learning rate of the network", above=0, group=_OPTIMISER)
    matrix_lr: float = setting(
        1e-2, "learning rate of the matrices with normuon", above=0, group=_OPTIMISER, later=True
    )
    max_gradient_norm: float = setting(
        0.0,
        "gradients of the network with a larger norm are scaled down to this norm; 0: no limit",
        least=0,
        group=_OPTIMISER,
        later=True,
    )
    beta1: float = setting(
        0.9,
        "decay per step of the mean of gradients in Adam-atan2, and in AdamW beside muon",
        least=0,
        most=1,
        group=_OPTIMISER,
    )
    beta2: float = setting(
        0.95,
        "decay per step of the mean of squared gradients in Adam-atan2, and in AdamW beside muon",
        least=0,
        most=1,
        group=_OPTIMISER,
    )
    weight_decay: float = setting(
        0.1,
        "weight decay of the network, times lr per step; with normuon of its matrices alone, times matrix_lr",
        least=0,
        group=_OPTIMISER,
    )
    puzzle_emb_lr: float = setting(
        1e-2,
        "learning rate of the puzzle embeddings (SignSGD; in a decoder as `optimizer` says)",
        above=0,
        group=_OPTIMISER,
    )
    puzzle_emb_weight_decay: float = setting(
        0.1, "weight decay of the puzzle embeddings, times puzzle_emb_lr per step", least=0, group=_OPTIMISER
    )
    warmup_steps: int = setting(2000, "steps in which the learning rate rises from 0", least=0, group=_OPTIMISER)
    constant_fraction: float = setting(
        1.0, "share of the run after which the learning rate falls", least=0, most=1, group=_OPTIMISER
    )
    final_lr_ratio: float = setting(
        1.0, "learning rate at the end of the run, as a share of lr", least=0, most=1, group=_OPTIMISER
    )
    ema: float = setting(
        0.999, "decay per step of the averaged weights that predict; 0: no average", least=0, most=1, group=_OPTIMISER
    )
    ema_rises: bool = setting(
        True,
        "the decay of the averaged weights rises to its value, so that random weights are soon forgotten; otherwise it "
        "is constant from the first step on, as the Tiny Recursive Model has it",
        group=_OPTIMISER,
        later=True,
    )
    canvas: str = setting(
        "tight", "each example on a canvas of its size, or all on the full one", CANVAS, group=_BATCHES
    )
    conditioning: str = setting(
        "table",
        "how the network is told the puzzle: an embedding per (puzzle, view), embeddings of its factors, or "
        "demonstrations in the sequence",
        CONDITIONING,
        group=_VIEWS,
    )
    context_pairs: int = setting(3, "demonstrations in each sequence with few-shot conditioning", above=0, group=_VIEWS)
    learned_halting: bool = setting(
        True,
        "in training, end a sequence when the network thinks its answer is right; otherwise after halt_max_steps",
        group=_LOSS,
    )
    dropout: float = setting(
        0.0,
        "share of each layer's results that a decoder leaves out in training",
        least=0,
        most=1,
        group=_LOSS,
        later=True,
    )
    loss_on_input: bool = setting(
        False, "a decoder also learns to predict the input's tokens, not the output's alone", group=_LOSS, later=True
    )
    halting_target: str = setting(
        "next-step", "where the target of q_continue comes from", HALTING_TARGETS, group=_LOSS
    )
    rotations: bool = setting(True, "learn rotated views of each puzzle", group=_VIEWS)
    flips: bool = setting(True, "learn mirrored views of each puzzle", group=_VIEWS)
    colour_permutations: int = setting(
        100, "recoloured views of each puzzle, beside the plain ones", least=0, group=_VIEWS
    )
    recoloured_tokens: int = setting(
        0,
        "most tokens of a task's demonstrations, summed, for which a decoder gets recoloured views; 0: no limit",
        least=0,
        group=_VIEWS,
        metavar="N",
        later=True,
    )
    translate: float = setting(
        0.75,
        "share of examples placed away from the canvas' corner",
        least=0,
        most=1,
        group=_VIEWS,
    )

    def __post_init__(self):
        check(self)
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1:  # a mean that never learns, divided by 1 - 1
                raise InputError(f"{name} is 1, expected less than 1")

    @property
    def puzzle_columns(self) -> int:
        """Return the embeddings per sequence that the conditioning needs."""
        if self.conditioning == "few-shot":
            return 0
        if self.conditioning == "table":
            return 1
        return 3 if self.colour_permutations else 2


@dataclass(frozen=True)
class AdaptConfig(Recipe):
    """Test-time adaptation and prediction.

    Random weights have nothing to protect, so without a pretrained artifact `embeddings_only` does not apply. The views
    that vote are those of the learned ones that `vote_augmentations` can make. "translation" adds each a second time,
    elsewhere on its canvas, where there is room.
    """

    visits: int = setting(
        1000,
        "times each demonstration pair is offered, if the budget allows; 0: the network stays as it is",
        least=0,
        most=10**9,
        metavar="N",
    )
    length_power: float = setting(
        0.0,
        "where the budget does not allow 40 visits of all, a decoder's examples are offered in proportion to "
        "1 / length to this power, short ones 40 times; 0: all equally often",
        least=0,
        most=8,
        later=True,
    )
    members: int = setting(
        1,
        "networks of different seeds that learn the same tasks and vote together, at most; a further one starts once "
        "all visits are made, if there is time for all of it",
        above=0,
        most=2**10,
        metavar="N",
        later=True,
    )
    group_tasks: int = setting(
        0,
        "tasks that share one network, at most, where no number of groups is given; 0: no limit",
        least=0,
        metavar="N",
        later=True,
    )
    embeddings_only: float = setting(
        0.25,
        "share of the steps, at the start, in which only new puzzle embeddings of a pretrained network learn",
        least=0,
        most=1,
    )
    along: tuple[str, ...] = setting(
        (),
        "task sets, files or folders that are learned along with the tasks to answer; what is among these is left out",
        metavar="SET",
        later=True,
    )
    along_share: float = setting(
        0.5,
        "share of the steps that learn the tasks of `along`",
        above=0,
        most=0.999,
        later=True,
    )
    outer_steps: int = setting(16, "outer steps per prediction", above=0)
    early_halting: bool = setting(
        False, "in prediction, end a sequence when the halting head thinks its answer is right"
    )
    vote_views: int = setting(256, "views of each test input that vote, at most", above=0)
    vote_augmentations: tuple[str, ...] = setting(
        ("rotations", "flips", "colours"), "augmentations that make the views that vote", VOTES
    )
    vote_doubts: bool = setting(
        False,
        "the vote of a network that predicts in place counts less where its grid breaks what the demonstrations have "
        "in common; a decoder's scores always take that into account",
        later=True,
    )
    predict_tokens: int = setting(128 * 900, "canvas tokens per batch in prediction, about", above=0)
    search_branches: int = setting(
        0,
        "further grids that a decoder searches for in each plain view of a test input, at most",
        least=0,
        most=64,
        later=True,
    )
    search_bound: float = setting(
        0.02,
        "in that search, grids whose beginning is less likely than this are given up",
        above=0,
        most=1,
        later=True,
    )


@dataclass(frozen=True)
class PretrainConfig(Recipe):
    """Offline pretraining: the network, the tasks and the length of the run.

    A task that has the name of a task of the `held_out` sets, or shares a pair with one in any view, is left out, and
    so is a task that shares a pair with an earlier task. A task of 20 pairs or more loses just the pair.
    """

    preset: str = setting("hrm-27m", "network and recipe; other settings override the recipe", PRESET_NAMES, group=_RUN)
    data: tuple[str, ...] = setting(
        ("arc1-train",),
        "task sets to learn: bundled sets, synthetic-N, deep-N, files or folders",
        metavar="SET",
        group=_RUN,
    )
    held_out: tuple[str, ...] = setting(
        ("arc1-eval", "arc2-eval", "rehearsal"),
        "task sets of which no pair may be learned, in any view",
        metavar="SET",
        group=_RUN,
    )
    max_side: int = setting(
        30,
        "leave out tasks with a larger grid side than this; a task of 20 pairs or more just loses its larger pairs",
        above=0,
        group=_RUN,
    )
    limit: int = setting(0, "learn only the first N of the tasks; 0: all", least=0, metavar="N", group=_RUN)
    recoloured: int = setting(
        0, "recoloured copies of each task, learned as puzzles of their own", least=0, metavar="N", group=_RUN
    )
    include_tests: bool = setting(True, "learn test pairs with known outputs too", group=_RUN)
    steps: int = setting(10_000, "optimiser steps of the whole run", above=0, group=_RUN)
    log_every: int = setting(10, "steps per line of metrics.jsonl, averaged over them", above=0, group=_RUN)
    save_every: int = setting(1000, "steps between two saved states", above=0, group=_RUN)
    seed: int = setting(0, "seed of weights, views and the order of examples", least=0, most=MAX_SEED, group=_RUN)
    start: str = setting(
        "",
        "artifact of the same network, with whose weights the run begins in place of random ones; bundled: the one "
        "that comes with the package",
        metavar="DIR",
        later=True,
        group=_RUN,
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.data:
            raise InputError("data is empty, expected at least one set of tasks")


@dataclass(frozen=True)
class PretrainOptions:
    """Where and how long `pretrain` runs. Nothing here changes what is learned, but for rounding."""

    out: Path = setting(help="folder for state, metrics.jsonl and the artifact", metavar="DIR")
    device: str | None = setting(None, "cpu, cuda or cuda:N", metavar="DEVICE", unset="a GPU if there is one")
    dtype: str | None = setting(
        None, "number format of the network's computations", DTYPES, unset="what suits the device"
    )
    threads: int | None = setting(
        None, "CPU threads per process", least=1, most=MAX_THREADS, metavar="N", unset="PyTorch's choice"
    )
    minutes: float | None = setting(
        None,
        "stop after M minutes of training, with the state saved and exit code 1",
        above=0,
        metavar="M",
        unset="train to the last step",
    )
    relay: Path | None = setting(
        None,
        "also write the run into this folder when it stops, in files of at most 16 MB; go on from there where it is "
        "further on than --out",
        metavar="DIR",
        unset="no relay",
    )
    relay_moments: bool = setting(True, "put Adam's moments into the relay too, a third of its size")
    store: str = setting(
        "float32", "numbers of the artifact's matrices; int8 takes a quarter of the bytes", ("float32", "int8")
    )

    def __post_init__(self):
        check(self)
