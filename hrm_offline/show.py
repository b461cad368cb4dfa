"""Pictures of tasks with their predictions (matplotlib)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrm_offline.data.tasks import Task
from hrm_offline.infer.submission import ATTEMPTS, Submission

# ARC's customary colours, 0 to 9.
_PALETTE = (
    "#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00", "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25",
)


def draw_predictions(tasks: list[Task], submission: Submission, path: str | Path | None = None):
    """One row a test input: its first two demonstrations, the input, the truth where it is known
    and both attempts. Saves a PNG at `path` if given; returns the matplotlib figure."""
    from matplotlib.figure import Figure

    rows = [(task, index) for task in tasks for index in range(len(task.test))]
    figure = Figure(figsize=(13, 1.7 * len(rows)), layout="tight")
    axes = figure.subplots(len(rows), 8, squeeze=False)
    for (task, index), line in zip(rows, axes):
        for ax in line:
            ax.axis("off")
        panels = [(f"demo {i + 1} {part}", getattr(pair, part)) for i, pair in enumerate(task.train[:2])
                  for part in ("input", "output")]
        panels += [("", None)] * (4 - len(panels))
        panels += [(f"{task.id} test {index}", task.test[index].input)]
        truth = task.test[index].output
        attempts = [np.array(submission[task.id][index][name]) for name in ATTEMPTS]
        panels += [("truth", truth)]
        panels += [(name.replace("_", " ") + _mark(grid, truth), grid) for name, grid in zip(ATTEMPTS, attempts)]
        for ax, (title, grid) in zip(line, panels):
            _draw(ax, title, grid)
    if path is not None:
        figure.savefig(path, dpi=70)
    return figure


def _mark(attempt: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None:
        return ""
    return ": right" if np.array_equal(attempt, truth) else ": wrong"


def _draw(ax, title: str, grid: np.ndarray | None) -> None:
    if grid is None:
        return
    from matplotlib.colors import ListedColormap

    ax.imshow(grid, cmap=ListedColormap(_PALETTE), vmin=0, vmax=9)
    ax.set_title(title, fontsize=8)
    ax.set_xticks(np.arange(-0.5, grid.shape[1]), [])
    ax.set_yticks(np.arange(-0.5, grid.shape[0]), [])
    ax.axis("on")
    ax.grid(color="#555555", linewidth=0.5)
    ax.tick_params(length=0)
