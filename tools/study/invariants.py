"""Count how often true outputs break what a task's demonstrations have in common.

    python tools/study/invariants.py --set arc1-train

Prints for each property (see `hrm_offline.answers.invariants`) in how many test inputs the demonstrations share it,
how many true outputs break it, and the share that `BROKEN` should have.
"""

from __future__ import annotations

import script_setup

import argparse
import sys
from collections import Counter

from hrm_offline.answers.invariants import Invariants
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import Task
from tools.support.command_line import parser_of, run_tool


def count(tasks: tuple[Task, ...]) -> tuple[Counter, Counter]:
    """Return by property how many invariants the test inputs of tasks have, and how many their outputs break."""
    held, broken = Counter(), Counter()
    for task in tasks:
        invariants = Invariants.of(task.train)
        for pair in task.test:
            if pair.output is not None:
                held.update(name[0] for name in invariants.values)
                broken.update(invariants.broken_by(pair.input, pair.output))
    return held, broken


def shares(held: Counter, broken: Counter) -> dict[str, float]:
    """Return the share of invariants that are broken, by property, with one broken and one kept added."""
    return {name: (broken[name] + 1) / (held[name] + 2) for name in held}


def main() -> int:
    options = _parse_arguments()
    held, broken = count(load_set(options.set).require_good())
    found = shares(held, broken)
    for name in sorted(found, key=found.__getitem__):
        print(f'    "{name}": {found[name]:.4f},  # {broken[name]} of {held[name]}')
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--set", default="arc1-train", help="tasks with labels (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
