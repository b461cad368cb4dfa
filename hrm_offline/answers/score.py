"""Scoring a submission against held-back solutions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.answers.submission import read_submission
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import read_solutions

_ID_WIDTH = 12  # the columns that an id has in a table, at least

Attempts = dict[str, list[list[np.ndarray]]]


@dataclass(frozen=True)
class TaskScore:
    """Test outputs of a task that are right at the first attempt, and at either of the two; `cells` is the share of
    cells that the better attempt has right (see `cells_right`), a mean over the outputs."""

    id: str
    outputs: int
    right_first: int
    right_either: int
    cells: float

    @property
    def solved(self) -> bool:
        """Every test output right at one of the two attempts."""
        return self.right_either == self.outputs


@dataclass(frozen=True)
class Score:
    """Scores of all tasks. Percentages are fractions here."""

    tasks: tuple[TaskScore, ...]

    @property
    def outputs(self) -> int:
        return sum(t.outputs for t in self.tasks)

    def per_output(self, k: int) -> float:
        """Share of test outputs right within k attempts (1 or 2); for k = 2 Kaggle's score."""
        return sum(_right(t, k) for t in self.tasks) / self.outputs

    def per_task(self, k: int) -> float:
        """Mean over tasks of the share of its outputs that are right: ARC Prize's own rule."""
        return self.task_points(k) / len(self.tasks)

    def task_points(self, k: int) -> float:
        """Sum over tasks of the share of outputs that are right within k attempts."""
        return sum(_right(t, k) / t.outputs for t in self.tasks)

    @property
    def solved(self) -> list[str]:
        """Ids of the tasks solved whole."""
        return [t.id for t in self.tasks if t.solved]

    def as_dict(self) -> dict:
        return {
            "outputs": self.outputs,
            "tasks": len(self.tasks),
            "pass@1 per output": self.per_output(1),
            "pass@2 per output": self.per_output(2),
            "pass@1 per task": self.per_task(1),
            "pass@2 per task": self.per_task(2),
            "solved": self.solved,
        }

    def table(self) -> str:
        """Return a line per task, then the totals."""
        width = max(_ID_WIDTH, *(len(shown_name(task.id)) + 2 for task in self.tasks))
        lines = [f"{'task':<{width}}{'outputs':>8}{'pass@1':>8}{'pass@2':>8}"]
        lines += [
            f"{shown_name(task.id):<{width}}{task.outputs:>8}{task.right_first:>8}{task.right_either:>8}"
            for task in self.tasks
        ]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        return (
            f"pass@1 {self.per_output(1):.2%}, pass@2 {self.per_output(2):.2%} of {self.outputs} test outputs; "
            f"pass@1 {self.per_task(1):.2%}, pass@2 {self.per_task(2):.2%} by task "
            f"({self.task_points(2):.2f} of {len(self.tasks)}); {len(self.solved)} tasks solved whole"
        )


def score_attempts(attempts: Attempts, solutions: dict[str, list[np.ndarray]]) -> Score:
    """Score attempts {task_id: [[grid, grid] a test input]} against {task_id: [grid]}."""
    tasks = []
    for task_id, truths in solutions.items():
        hits = [[np.array_equal(grid, truth) for grid in pair] for pair, truth in zip(attempts[task_id], truths)]
        cells = [max(cells_right(grid, truth) for grid in pair) for pair, truth in zip(attempts[task_id], truths)]
        tasks.append(
            TaskScore(task_id, len(truths), sum(h[0] for h in hits), sum(any(h) for h in hits), sum(cells) / len(cells))
        )
    return Score(tuple(tasks))


def cells_right(grid: np.ndarray, truth: np.ndarray) -> float:
    """Cells that two grids, laid corner on corner, have in common, as a share of the rectangle that holds both."""
    rows, cols = np.minimum(grid.shape, truth.shape)
    area = np.maximum(grid.shape, truth.shape).prod()
    return float((grid[:rows, :cols] == truth[:rows, :cols]).sum() / area)


def score_files(submission: str | Path, solutions: str | Path) -> Score:
    """Score a submission file against a Kaggle solutions file, or against a set of tasks with test outputs.

    `solutions` is the file, or the set's name or folder (see `hrm_offline.data.sets.load_set`). Raises `InputError`
    naming the file, the task and the reason.
    """
    truths = read_solutions(solutions) if os.path.isfile(solutions) else _outputs_of_set(solutions)
    return score_attempts(read_submission(submission, {task_id: len(g) for task_id, g in truths.items()}), truths)


def _outputs_of_set(source: str | Path) -> dict[str, list[np.ndarray]]:
    """Return the test outputs of a set's tasks. Raises `InputError` where one is not known."""
    outputs = {}
    for task in load_set(source).require_good():
        outputs[task.id] = [pair.output for pair in task.test]
        if any(output is None for output in outputs[task.id]):
            raise InputError(f"{source}: task {shown_name(task.id)}: has a test input without output, nothing to score")
    return outputs


def _right(task: TaskScore, k: int) -> int:
    return task.right_first if k == 1 else task.right_either
