"""Write docs/cards.md: what the package chooses on each GPU that Kaggle or a helper may lend.

    python tools/bench/write_cards.py

No GPU is needed: count, compute capability and memory of the cards are in `tools/support/cards.py`. A test compares the
page with the choices, so run this tool after every change of one.
"""

from __future__ import annotations

import script_setup

import dataclasses
import functools
import sys
from pathlib import Path

from hrm_offline.common.budget import Budget
from hrm_offline.common.files import write_bytes
from hrm_offline.config import PRESET_NAMES
from hrm_offline.data.tasks import Task, load_tasks
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.ops import dispatch
from hrm_offline.presets import preset
from hrm_offline.solve.choice import choose, nearest_preset
from hrm_offline.solve.gpu_recipe import gpu_recipe, is_small_decoder
from hrm_offline.solve.messages import Setup
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.sizing import GROUPS_PER_WORKER
from tools.support import environment
from tools.support.cards import CARDS, Card, faked
from tools.support.command_line import parser_of, run_tool
from tools.support.timetable import SHARE_OF_SMALL, TFLOPS_OF_SMALL, Shares, Work, spend

PAGE = environment.REPOSITORY / "docs" / "cards.md"

_TASKS = 240  # in the hidden set of a competition
_WHOLE = 11.5 * 3600
# The budget in words, in seconds, and the sets that are learned along.
_RUNS = (
    ("11 h 30 min", _WHOLE, ()),
    ("11 h 30 min, public tasks along", _WHOLE, ("arc1-train",)),
    ("1 h", 3600.0, ()),
)
_TIMETABLE_CARDS = ("T4", "L4", "H100")
# The settings of a recipe that the work depends on, beside visits and members.
_COUNTED = ("canvas", "colour_permutations", "outer_steps", "vote_views", "search_branches", "tokens_per_step")
_SHARE_OF_PEAK = 0.2  # assumed

_INTRODUCTION = """# What each card gets

<!-- Made by `python tools/bench/write_cards.py` from the package's own choices. Do not edit. -->

`python tools/bench/write_cards.py` makes this page. It tells the package that a card is there, by count, compute
capability and memory, and writes down the choices. Nothing was measured: none of these cards computed anything.

## Number format and operations

Our kernels serve the operations that are named, and PyTorch serves all others. Before a run, a
[self-test](kernels.md#the-self-test-at-the-start-of-a-gpu-run) tries all candidates for each of the named operations on
the card, and keeps the fastest that is right.

"""

_PLAN = """
## Network and plan

For {tasks} tasks without `--artifact` or `--preset`. GPU-seconds per task are the budget times the number of GPUs,
divided by the number of tasks. The last three columns count visits of each demonstration, views of each test input, and
networks that learn each task. They say how many would fit on tasks like ARC-AGI-2's public evaluation if a card reached
{share:.0%} of its peak in 16-bit matrix products. A small decoder is taken to learn at {small:.0%} of the peak, and to
predict at {predict} TFLOP/s; an H200 reached 14% and {predict} TFLOP/s. A card's share is not known before it is
measured. Tasks that are learned along are not counted: with them about half as many visits fit.

"""

_TIMETABLE = """
## Where 11 h 30 min go

The same assumption, for each preset. "adapt" and "predict" are the shares of the budget that the first network on each
task takes; the visits of a recipe are a ceiling. "members" is the share of further networks, which start when all
visits are made. "left" is the share that remains. Below the ceiling, the rest is a margin of prediction. Beyond the
ceiling, the rest is too short for a further network, or all networks are made and the run ends early.

"""


def page() -> str:
    """Return the whole page as Markdown."""
    operations, plans = [], []
    for card in CARDS:
        with faked(card):
            runtime = choose_runtime()
            operations.append(_operations(card, runtime))
            plans += [_plan(card, runtime, *run) for run in _RUNS]
    return (
        _INTRODUCTION
        + _table(
            ["card", "compute capability", "memory", "number format", "our kernels", "candidates of the self-test"],
            operations,
        )
        + _PLAN.format(tasks=_TASKS, share=_SHARE_OF_PEAK, small=SHARE_OF_SMALL, predict=TFLOPS_OF_SMALL)
        + _table(["card", "budget", "GPU-seconds per task", "preset", "visits", "views", "networks per task"], plans)
        + _TIMETABLE
        + _table(
            ["card", "preset", "start", "visits", "views", "networks per task", "adapt", "predict", "members", "left"],
            [
                _timetable(card, name, pretrained)
                for card in CARDS
                if card.name in _TIMETABLE_CARDS
                for name in PRESET_NAMES
                for pretrained in _starts(name)
            ],
        )
    )


def _starts(name: str) -> tuple[bool, ...]:
    """Return the starts whose recipes differ: random weights, and an artifact."""
    return (False, True) if preset(name).adapt_pretrained else (False,)


def _operations(card: Card, runtime: Runtime) -> list[str]:
    """Return the row of a card in the table of operations."""
    kernels = [
        op
        for op in dispatch.RULES
        if dispatch.decide_for(op, card.capability, dispatch.dtype_of(op, runtime.dtype)).triton
    ]
    return [
        f"{card.name} x {card.count}",
        f"{card.capability / 10:.1f}",
        f"{card.gib:.0f} GiB",
        str(runtime.dtype).removeprefix("torch."),
        "all" if len(kernels) == len(dispatch.RULES) else ", ".join(f"`{op}`" for op in kernels) or "none",
        _candidates(kernels),
    ]


def _candidates(kernels: list[str]) -> str:
    """Say among what the self-test chooses for the operations whose kernels serve."""
    if not kernels:
        return "none: no self-test"
    several = [
        f"; for `{op}` PyTorch, {' and '.join(f'our kernel ({name})' for name in names)}"
        for op, names in dispatch.VARIANTS.items()
        if op in kernels
    ]
    return "PyTorch and our kernel" + "".join(several)


def _plan(card: Card, runtime: Runtime, words: str, budget: float, along: tuple[str, ...]) -> list[str]:
    """Return the row of a card and a budget in the table of plans."""
    options = SolveOptions(challenges=Path("hidden.json"), out=Path("out"), bundled=True, along=along)
    choice = choose(Setup(options, Path("out"), budget / _TASKS), runtime, _hidden_tasks())
    name, is_pretrained = nearest_preset(choice.model), choice.artifact is not None
    return [
        f"{card.name} x {card.count}",
        words,
        f"{card.count * budget / _TASKS:.1f}",
        f"`{name}`",
        *_spending(card, name, is_pretrained, budget)[:3],
    ]


def _timetable(card: Card, name: str, pretrained: bool) -> list[str]:
    """Return the row of a card, a preset and a start in the table of whole budgets."""
    start = "an artifact" if pretrained else "random weights"
    return [f"{card.name} x {card.count}", f"`{name}`", start, *_spending(card, name, pretrained, _WHOLE)]


def _spending(card: Card, name: str, pretrained: bool, budget: float) -> list[str]:
    """Return how a run spends its budget: visits, views, networks per task, and the shares of its phases."""
    groups = 1 if card.count == 1 else GROUPS_PER_WORKER * card.count
    chosen = preset(name)
    recipe = gpu_recipe(chosen.recipe(pretrained), chosen.model, _hidden_tasks(), groups)
    is_counted_alike = all(getattr(recipe, setting) == getattr(chosen.adapt, setting) for setting in _COUNTED)
    work = dataclasses.replace(_work(name, pretrained and not is_counted_alike), recipe=recipe)
    is_small = is_small_decoder(chosen.model)
    share = Shares.of_small_decoder(card.tflops) if is_small else Shares(_SHARE_OF_PEAK, _SHARE_OF_PEAK)
    peak = card.count * card.tflops * 1e12
    seconds = budget - Budget(budget).reserve
    spent = spend(work, seconds, peak * share.adapt, peak * share.predict, groups)
    shares = (spent.adapt, spent.predict, spent.further, spent.left)
    return [
        f"{spent.visits:,.0f} of {work.recipe.visits:,}",
        f"{spent.views:.0%} of {work.recipe.vote_views}",
        f"{spent.networks:.3g} of {work.recipe.members}",
        *(f"{part / budget:.0%}" for part in shares),
    ]


@functools.cache
def _hidden_tasks() -> tuple[Task, ...]:
    """Return tasks like those of a competition, as many as there. The public ones are half as many."""
    return 2 * tuple(load_tasks("arc2-eval").tasks)


@functools.cache
def _work(name: str, pretrained: bool) -> Work:
    """Return the work of a preset on tasks like those of a competition."""
    return Work.of(preset(name).model, preset(name).recipe(pretrained), _hidden_tasks())


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    parser_of(__doc__).parse_args()
    write_bytes(PAGE, page().encode())
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
