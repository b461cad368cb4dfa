"""The score of a submission against solutions that were held back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.answers.submission import read_submission
from hrm_offline.data.tasks import read_solutions

Attempts = dict[str, list[list[np.ndarray]]]  # {task_id: [[grid, grid] for each test input]}


@dataclass(frozen=True)
class TaskScore:
    """The score of one task.

    `right_first` of its test `outputs` are right at the first attempt, `right_either` at one of the two. `cells` is the
    share of cells that the better attempt has right (see `cells_right`), a mean over the outputs.
    """

    id: str
    outputs: int
    right_first: int
    right_either: int
    cells: float

    @property
    def solved(self) -> bool:
        """Whether every test output is right at one of the two attempts."""
        return self.right_either == self.outputs

    def right(self, k: int) -> int:
        """Return how many outputs are right within k attempts (1 or 2)."""
        return self.right_first if k == 1 else self.right_either


@dataclass(frozen=True)
class Score:
    """The scores of all tasks. Shares are fractions, not percentages."""

    tasks: tuple[TaskScore, ...]

    @property
    def outputs(self) -> int:
        """Test outputs of all tasks."""
        return sum(task.outputs for task in self.tasks)

    def per_output(self, k: int) -> float:
        """Return the share of test outputs that are right within k attempts (1 or 2). With k = 2, Kaggle's score."""
        return sum(task.right(k) for task in self.tasks) / self.outputs

    def per_task(self, k: int) -> float:
        """Return the mean over tasks of the share of their outputs that are right: ARC Prize's own rule."""
        return self.task_points(k) / len(self.tasks)

    def task_points(self, k: int) -> float:
        """Return the sum over tasks of the share of their outputs that are right within k attempts."""
        return sum(task.right(k) / task.outputs for task in self.tasks)

    @property
    def solved(self) -> list[str]:
        """Ids of the tasks that are solved whole."""
        return [task.id for task in self.tasks if task.solved]

    def as_dict(self) -> dict:
        """Return the totals and the solved tasks as JSON values."""
        return {
            "outputs": self.outputs,
            "tasks": len(self.tasks),
            "pass@1 per output": self.per_output(1),
            "pass@2 per output": self.per_output(2),
            "pass@1 per task": self.per_task(1),
            "pass@2 per task": self.per_task(2),
            "solved": self.solved,
        }

    def as_text(self) -> str:
        """Return one line per task, then the totals."""
        lines = [f"{'task':<12}{'outputs':>8}{'pass@1':>8}{'pass@2':>8}"]
        lines += [f"{t.id:<12}{t.outputs:>8}{t.right_first:>8}{t.right_either:>8}" for t in self.tasks]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return the totals in one line."""
        return (
            f"pass@1 {self.per_output(1):.2%}, pass@2 {self.per_output(2):.2%} of {self.outputs} test outputs; "
            f"pass@1 {self.per_task(1):.2%}, pass@2 {self.per_task(2):.2%} by task "
            f"({self.task_points(2):.2f} of {len(self.tasks)}); {len(self.solved)} tasks solved whole"
        )


def score_attempts(attempts: Attempts, solutions: dict[str, list[np.ndarray]]) -> Score:
    """Score attempts against the solutions {task_id: [grid for each test input]}."""
    return Score(tuple(_score_task(task_id, attempts[task_id], truths) for task_id, truths in solutions.items()))


def _score_task(task_id: str, attempts: list[list[np.ndarray]], truths: list[np.ndarray]) -> TaskScore:
    hits = [[np.array_equal(grid, truth) for grid in pair] for pair, truth in zip(attempts, truths)]
    cells = [max(cells_right(grid, truth) for grid in pair) for pair, truth in zip(attempts, truths)]
    right_first, right_either = sum(hit[0] for hit in hits), sum(any(hit) for hit in hits)
    return TaskScore(task_id, len(truths), right_first, right_either, sum(cells) / len(cells))


def cells_right(grid: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of cells that are right when two grids are laid corner on corner.

    The share is of the rectangle that holds both grids, so missing and surplus rows and columns count as wrong.
    """
    rows, cols = np.minimum(grid.shape, truth.shape)
    area = np.maximum(grid.shape, truth.shape).prod()
    return float((grid[:rows, :cols] == truth[:rows, :cols]).sum() / area)


def score_files(submission: str | Path, solutions: str | Path) -> Score:
    """Score a submission file against a solutions file.

    Raises `InputError` for a file that is not valid, naming the task and the reason.
    """
    truths = read_solutions(solutions)
    return score_attempts(
        read_submission(submission, {task_id: len(grids) for task_id, grids in truths.items()}), truths
    )
