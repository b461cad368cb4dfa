"""Declare the studies that tools/study/study.py runs, each as a list of arms and findings.

The studies repeat ARC Prize's analysis of the Hierarchical Reasoning Model (arcprize.org/blog/hrm-analysis). They also
ask the questions that the analysis left open, and two that came after it. An arm says how a network learns and how its
votes are made. An arm sets everything that its study is about, so that the preset's own settings do not matter there.
Arms that learn alike are learned once, also across studies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hrm_offline.config import ModelConfig


@dataclass(frozen=True)
class Arm:
    """One way to learn and to vote.

    `learn` holds the changes that `Trial.changes` takes. `votes` holds settings of prediction, and under "solver" who
    votes: "network" (the default), "induction" or "both".
    """

    name: str
    learn: dict = field(default_factory=dict)
    votes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A published finding about two arms, or an open question if `published` is False.

    The finding says that `arm` scores more than `baseline`, by `size` points if a number was published. With a
    `margin`, it says that the two are at most so many points apart. The baseline None is the null baseline.
    """

    text: str
    arm: str
    baseline: str | None
    margin: float | None = None
    size: float | None = None
    published: bool = True


@dataclass(frozen=True)
class Study:
    """A question and the arms that answer it. `axis` names the setting in which the arms differ.

    A study that is not `in_all` runs only if it is named.
    """

    name: str
    question: str
    axis: str
    arms: tuple[Arm, ...]
    findings: tuple[Finding, ...]
    in_all: bool = True


_DEPTHS = (1, 2, 4, 8, 16)
_POOLS = (1, 8, 30, 100, 300)
_PLAIN = {"colour_permutations": 0, "translate": 0.0}
_RECOLOURED = {"colour_permutations": 22}
_INDUCTION = "induction, else the null baseline"
_AS_IT_IS = "as it is"
_NO_SYMMETRY = {"rotations": False, "flips": False}


def _of_depth(depth: int) -> Arm:
    return Arm(f"{depth}", {"halt_max_steps": depth}, {"outer_steps": depth})


def _run_deeper(trained: int, depth: int) -> Arm:
    return Arm(f"trained {trained}, run {depth}", {"halt_max_steps": trained}, {"outer_steps": depth})


def _augmented(count: int) -> dict:
    """Return the changes for `count` augmentations: the eight dihedral views, and recoloured ones for the rest.

    With fewer than 8, the task is learned as it is.
    """
    return {"translate": 0.0} | ({"colour_permutations": count - 8} if count >= 8 else _PLAIN | _NO_SYMMETRY)


def _kind(name: str, learn: dict) -> Arm:
    """Return an arm with one kind of augmentation, in training and in voting."""
    votes = [kind for kind in ("rotations", "flips") if learn.get(kind, True)]
    votes += ["colours"] if "colour_permutations" in learn else []
    votes += ["translation"] if "translate" in learn else []
    return Arm(name, _PLAIN | learn, {"vote_augmentations": votes, "vote_views": 30})


def studies_of(model: ModelConfig) -> tuple[Study, ...]:
    """Return all studies for a network in the form of the Hierarchical Reasoning Model."""
    return (_architecture(model), *_OTHERS, _ingredients(model))


def _architecture(model: ModelConfig) -> Study:
    layers, shared = model.H_layers + model.L_layers, {"architecture": "shared", "H_layers": 0}
    return Study(
        "architecture",
        "Does the hierarchy matter, or does a Transformer of the same size do as well?",
        "network",
        (
            Arm("HRM"),
            Arm("HRM, 2 x 2 cycles", {"H_cycles": 2, "L_cycles": 2}),
            Arm(
                "Transformer",
                {"architecture": "transformer", "H_layers": layers, "L_layers": 0, "H_cycles": 1, "L_cycles": 0},
            ),
            Arm("shared, same size", shared | {"L_layers": layers}),
            Arm("shared, same compute", shared | {"L_layers": model.L_layers}),
            # Small forms of the presets `trm-7m` and `urm-14m`.
            Arm("TRM's form", shared | {"L_layers": model.L_layers, "H_cycles": 2, "L_cycles": 2, "puzzle_tokens": 4}),
            Arm(
                "URM's form",
                {
                    "architecture": "looped",
                    "H_layers": layers,
                    "L_layers": 0,
                    "H_cycles": 2,
                    "L_cycles": 2,
                    "mlp_convolution": True,
                }
                | ({"pre_norm": False} if model.pre_norm else {}),  # this form has no such layers
            ),
        ),
        (
            Finding("a Transformer of the same size is within about 5 points of HRM", "Transformer", "HRM", 5),
            Finding(
                "one small network in both roles beats HRM (TRM, arXiv 2510.04871: 44.6% against 41%)",
                "shared, same size",
                "HRM",
                size=3.6,
            ),
        ),
    )


def _ingredients(model: ModelConfig) -> Study:
    """Return the study of one change at a time: from the preset, and back from a Transformer that has them all."""
    one_step, layers = {"halt_max_steps": 1}, 2 * (model.H_layers + model.L_layers)
    one_stack = {"architecture": "transformer", "L_layers": 0, "H_cycles": 1, "L_cycles": 0}
    normuon = {"optimizer": "normuon", "matrix_lr": 0.01, "lr": 0.002}
    added, batch = {"puzzle_place": "added"}, {"tokens_per_step": 2000}
    changed = one_step | one_stack | normuon | added | batch
    changed |= {"H_layers": layers, "pre_norm": True, "expansion": 3.0}
    once, convolution = {"outer_steps": 1}, {"mlp_convolution": True}
    arms = (
        Arm(_AS_IT_IS),
        Arm("1 outer step", one_step, once),
        Arm("2 outer steps", {"halt_max_steps": 2}, {"outer_steps": 2}),
        Arm("pre-norm", {"pre_norm": True}),
        Arm("embedding on every token", added),
        Arm("embedding in front and on every token", {"puzzle_place": "both"}),
        Arm("NorMuon", normuon),
        Arm("learning rate 1e-3", {"lr": 1e-3}),
        Arm("learning rate 6e-3", {"lr": 6e-3}),
        Arm("embeddings' rate 1e-2", {"puzzle_emb_lr": 1e-2}),
        Arm("batches of 375 tokens", {"tokens_per_step": 375}),
        Arm("batches of 2,000 tokens", batch),
        Arm("twice the layers", {"H_layers": 2 * model.H_layers, "L_layers": 2 * model.L_layers}),
        Arm("one stack", one_stack | {"H_layers": layers // 2}),
        Arm("convolution", convolution),
        Arm("8 recoloured views", {"colour_permutations": 8}),
        Arm("all changed", changed, once),
        Arm("all but NorMuon", {k: v for k, v in changed.items() if k not in normuon}, once),
        Arm("all but pre-norm", changed | {"pre_norm": False, "expansion": 1.5}, once),
        Arm("all but embedding on every token", changed | {"puzzle_place": "front"}, once),
        Arm("all but batches of 2,000 tokens", {k: v for k, v in changed.items() if k not in batch}, once),
        Arm("all but 1 outer step", changed | {"halt_max_steps": 2}, {"outer_steps": 2}),
        Arm("all and convolution", changed | convolution, once),
    )
    findings = tuple(
        Finding(f"does this learn more: {arm.name}?", arm.name, _AS_IT_IS, published=False) for arm in arms[1:]
    )
    question = "Which parts of the small network and of its recipe make it learn, and which does it waste?"
    return Study("ingredients", question, "change", arms, findings, in_all=False)


_OTHERS = (
    Study(
        "outer-loop",
        "What do outer steps add, in training and prediction together?",
        "outer steps",
        tuple(_of_depth(depth) for depth in _DEPTHS[:4]),
        (
            Finding("a second outer step adds 13 points", "2", "1", size=13),
            Finding("8 outer steps score twice as much as 1", "8", "1"),
        ),
    ),
    Study(
        "inference-loop",
        "Does refinement matter when a network is trained, or when it answers?",
        "outer steps",
        (_run_deeper(1, 1), _run_deeper(1, 4), *(_run_deeper(4, depth) for depth in _DEPTHS)),
        (
            Finding(
                "run with 1 outer step, a network trained with many scores 15 points more than one trained with 1",
                "trained 4, run 1",
                "trained 1, run 1",
                size=15,
            ),
            Finding(
                "a network trained with many outer steps loses little when run with 1",
                "trained 4, run 1",
                "trained 4, run 4",
                5,
            ),
        ),
    ),
    Study(
        "transfer",
        "What do other tasks add to the ones that are asked?",
        "learned from",
        (
            Arm("the tasks alone"),
            Arm("with 60 others", {"others": 60}),
            Arm("the tasks alone, 3 x the visits", {"visits_times": 3}),
            Arm("the package's artifact", {"artifact": "bundled"}),
        ),
        (
            Finding("other tasks add 10 points (31% to 41%)", "with 60 others", "the tasks alone", size=10),
            Finding("other tasks add no more than 10 points", "with 60 others", "the tasks alone", 10),
            Finding(
                "does a network that learned other tasks before do better?",
                "the package's artifact",
                "the tasks alone",
                published=False,
            ),
        ),
    ),
    Study(
        "augmentation",
        "How many augmentations does training need?",
        "augmentations",
        tuple(Arm(f"{count}", _augmented(count), {"vote_views": 30}) for count in (0, 8, 30, 300, 1000)),
        (
            Finding("300 augmentations score nearly as much as 1,000", "300", "1000", 4),
            Finding("30 augmentations score at most 4 points less than 1,000", "30", "1000", 4),
        ),
    ),
    Study(
        "vote-pool",
        "How many views does the vote need, of a network trained with 300 augmentations?",
        "views",
        tuple(Arm(f"{pool}", _augmented(300), {"vote_views": pool}) for pool in _POOLS),
        (
            Finding(
                "fewer views score nearly as much as all (256 to 512 views against 1,000, arXiv 2512.11847)",
                "100",
                "300",
                4,
            ),
            Finding("are 8 views enough?", "8", "300", 4, published=False),
        ),
    ),
    Study(
        "halting",
        "Is learned halting worth its place, in training and in prediction?",
        "trained / run",
        tuple(
            Arm(
                f"{form}, {'learned' if learned else 'fixed'} / {'learned' if early else 'fixed'}",
                {"halting": form, "halt_max_steps": 4, "learned_halting": learned},
                {"outer_steps": 4, "early_halting": early},
            )
            for form in ("halt-only", "q-learning")
            for learned in (True, False)
            for early in (True, False)
        ),
        (
            Finding(
                "learned halting is within a few points of a fixed number of steps",
                "q-learning, learned / learned",
                "q-learning, fixed / fixed",
                5,
            ),
            Finding(
                "the halt-only form does as well as Q-learning (TRM)",
                "halt-only, learned / learned",
                "q-learning, learned / learned",
                5,
            ),
        ),
    ),
    Study(
        "per-task",
        "Can each task be learned alone, by a network of its own?",
        "learned",
        (
            Arm("together"),
            Arm("each alone", {"alone": True}),
            Arm("each alone, 4 x the visits", {"alone": True, "visits_times": 4}),
        ),
        (
            Finding(
                "tasks can be solved from nothing but their own demonstrations (CompressARC, 20%)",
                "each alone, 4 x the visits",
                None,
            ),
            Finding(
                "does a network of its own do as well as a shared one?",
                "each alone, 4 x the visits",
                "together",
                5,
                published=False,
            ),
        ),
    ),
    Study(
        "conditioning",
        "How should the network know which task it is at?",
        "conditioning",
        (
            Arm("factored", {"conditioning": "factored"}),
            Arm("table", {"conditioning": "table"}),
            Arm("few-shot", {"conditioning": "few-shot", "context_pairs": 2}),
        ),
        (
            Finding(
                "what if demonstrations stood in the context instead of a puzzle id?",
                "few-shot",
                "factored",
                published=False,
            ),
            Finding(
                "an embedding for each augmentation beats an explicit code for it (Trelis, full size)",
                "table",
                "factored",
            ),
        ),
    ),
    Study(
        "augmentation-kinds",
        "Which augmentations matter?",
        "augmentations",
        (
            _kind("none", _NO_SYMMETRY),
            _kind("rotations", {"flips": False}),
            _kind("flips", {"rotations": False}),
            _kind("both", {}),
            _kind("colours", _NO_SYMMETRY | _RECOLOURED),
            _kind("translation", _NO_SYMMETRY | {"translate": 0.75}),
            _kind("all", _RECOLOURED | {"translate": 0.75}),
        ),
        tuple(
            Finding(text, arm, "none", published=False)
            for text, arm in (
                ("do rotations and flips help?", "both"),
                ("do recoloured copies help?", "colours"),
                ("do shifted copies help?", "translation"),
            )
        ),
    ),
    Study(
        "induction",
        "Do a search over programs and a network solve different tasks?",
        "who votes",
        tuple(
            Arm(name, {}, {"solver": solver})
            for name, solver in (("network", "network"), (_INDUCTION, "induction"), ("both", "both"))
        ),
        (
            Finding(
                "induction and transduction together solve more than transduction (Li et al., arXiv 2411.02272)",
                "both",
                "network",
            ),
            Finding("induction and transduction together solve more than induction", "both", _INDUCTION),
        ),
    ),
)
