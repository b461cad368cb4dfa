"""Write docs/cards.md: what the package chooses on each GPU that Kaggle or a helper may lend.

    python tools/bench/write_cards.py

No GPU is needed: count, compute capability and memory of the cards are in `tools/support/cards.py`. A test compares the
page with the choices, so run this tool after every change of one.
"""

from __future__ import annotations

import script_setup

import sys
from pathlib import Path

import torch

from hrm_offline.common.files import write_bytes
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import Task, load_tasks
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.ops import dispatch
from hrm_offline.solve.choice import Choice, choose, nearest_preset
from hrm_offline.solve.messages import Setup
from hrm_offline.solve.options import SolveOptions
from tools.support import environment
from tools.support.cards import CARDS, Card, faked
from tools.support.command_line import parser_of, run_tool
from tools.support.flop import visit_flop
from tools.support.timetable import ADAPT_SHARE, prediction_flop

PAGE = environment.REPOSITORY / "docs" / "cards.md"

_TASKS = 240  # in the hidden set of a competition
_BUDGETS = {"11 h 30 min": 11.5 * 3600, "1 h": 3600.0}
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
divided by the number of tasks. The last two columns count visits of each demonstration and views of each test input.
They say how many would fit on tasks like ARC-AGI-2's public evaluation if a card reached {share:.0%} of its peak in
16-bit matrix products. A card's share is not known before it is measured.

"""


def page() -> str:
    """Return the whole page as Markdown."""
    tasks = load_tasks("arc2-eval").tasks
    operations, plans = [], []
    for card in CARDS:
        with faked(card):
            runtime = choose_runtime()
            operations.append(_operations(card, runtime))
            for words, seconds in _BUDGETS.items():
                plans.append(_plan(card, runtime, words, seconds, tasks))
    return (
        _INTRODUCTION
        + _table(
            ["card", "compute capability", "memory", "number format", "our kernels", "candidates of the self-test"],
            operations,
        )
        + _PLAN.format(tasks=_TASKS, share=_SHARE_OF_PEAK)
        + _table(["card", "budget", "GPU-seconds per task", "preset", "visits", "views"], plans)
    )


def _operations(card: Card, runtime: Runtime) -> list[str]:
    """Return the row of a card in the table of operations."""
    float32 = dispatch.FLOAT32_OPS
    kernels = [
        op
        for op in dispatch.RULES
        if dispatch.decide_for(op, card.capability, torch.float32 if op in float32 else runtime.dtype).triton
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


def _plan(card: Card, runtime: Runtime, words: str, budget: float, tasks: tuple[Task, ...]) -> list[str]:
    """Return the row of a card and a budget in the table of plans."""
    options = SolveOptions(challenges=Path("hidden.json"), out=Path("out"))
    choice = choose(Setup(options, Path("out"), budget / _TASKS), runtime)
    seconds = card.count * budget / _TASKS
    visits, views = _what_fits(choice, seconds * card.tflops * 1e12 * _SHARE_OF_PEAK, tasks)
    recipe = choice.recipe
    return [
        f"{card.name} x {card.count}",
        words,
        f"{seconds:.1f}",
        f"`{nearest_preset(choice.model)}`",
        f"{visits * recipe.visits:,.0f} of {recipe.visits:,}",
        f"{views:.0%} of {recipe.vote_views}",
    ]


def _what_fits(choice: Choice, flop: float, tasks: tuple[Task, ...]) -> tuple[float, float]:
    """Return the shares of a recipe's visits and views that `flop` per task allow."""
    puzzles = PuzzleSet(tasks, choice.recipe, choice.model, 0)
    adapt = choice.recipe.visits * visit_flop(choice.model, ExampleSource(puzzles, 0)) / len(tasks)
    predict = prediction_flop(choice.model, puzzles) / len(tasks)
    visits = min(1.0, ADAPT_SHARE * flop / adapt)
    return visits, min(1.0, (flop - visits * adapt) / predict)


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
