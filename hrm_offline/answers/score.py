"""The score of a submission against solutions that were held back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.answers.submission import read_submission
from hrm_offline.common.errors import shown_name
from hrm_offline.common.files import read_json
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import read_solutions

Attempts = dict[str, list[list[np.ndarray]]]  # {task_id: [[grid, grid] for each test input]}

_MIN_ID_WIDTH = 12  # columns of a task's id in the text


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
        """Return the mean over tasks of the share of their outputs that are right: each task counts the same."""
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
            "Kaggle's score": self.per_output(2),
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
        width = max([_MIN_ID_WIDTH, *(len(shown_name(task.id)) + 2 for task in self.tasks)])
        lines = [f"{'task':<{width}}{'outputs':>8}{'pass@1':>8}{'pass@2':>8}"]
        for task in self.tasks:
            name = shown_name(task.id)
            lines.append(f"{name:<{width}}{task.outputs:>8}{task.right_first:>8}{task.right_either:>8}")
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return the totals in one line: Kaggle's score first, then the one in which each task counts the same."""
        return (
            f"Kaggle's score, by test output: pass@2 {self.per_output(2):.2%} of {self.outputs} (pass@1 "
            f"{self.per_output(1):.2%}); by task: pass@2 {self.per_task(2):.2%}, {self.task_points(2):.2f} of "
            f"{len(self.tasks)} (pass@1 {self.per_task(1):.2%}); {len(self.solved)} tasks solved whole"
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
    """Score a submission file against a Kaggle solutions file, or against tasks that have their test outputs.

    Such tasks come from whatever `hrm_offline.data.sets.load_set` reads: a challenges file with labels, a folder, the
    name of a set. Raises `InputError` for a file that is not valid, naming the task and the reason.
    """
    is_file = os.path.isfile(solutions)
    truths = read_solutions(solutions) if is_file and not _holds_tasks(solutions) else _test_outputs(solutions)
    return score_attempts(
        read_submission(submission, {task_id: len(grids) for task_id, grids in truths.items()}), truths
    )


def _holds_tasks(path: str | Path) -> bool:
    """Return whether a file holds tasks in one of the forms that `load_set` reads, and not solutions.

    Pairs are objects, and no solution has an object in it.
    """
    content = read_json(path)
    values = list(content.values()) if isinstance(content, dict) else [content]
    pairs = [item for value in values if isinstance(value, list) for item in value]
    return any(isinstance(value, dict) for value in values + pairs)


def _test_outputs(source: str | Path) -> dict[str, list[np.ndarray]]:
    """Return the test outputs of a set, {task_id: [grid]}. Raises `InputError` if one is not known."""
    return {task.id: [pair.output for pair in task.test] for task in load_set(source).require_labelled()}
