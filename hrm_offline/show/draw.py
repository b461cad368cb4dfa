"""Pictures (matplotlib): tasks with their predictions, outer steps, votes, curves. What is in them: see `album`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.answers.submission import ATTEMPTS, Submission
from hrm_offline.answers.vote import Candidate
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.data.tasks import Task

# ARC's customary colours, 0 to 9.
_PALETTE = (
    "#000000",
    "#0074D9",
    "#FF4136",
    "#2ECC40",
    "#FFDC00",
    "#AAAAAA",
    "#F012BE",
    "#FF851B",
    "#7FDBFF",
    "#870C25",
)


_MAX_NAMED = 10  # curves of a panel


@dataclass(frozen=True, eq=False)
class Unfolding:
    """What a network makes of one test input, by outer step: (step, grid, confidence). `truth` is None if unknown."""

    name: str
    input: np.ndarray
    steps: list[tuple[int, np.ndarray, float]]
    truth: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Ballot:
    """The candidates for one test input that have most votes, best first, of `total` votes. `right` is the index of
    the right one, None if it is not among them or not known."""

    name: str
    candidates: list[Candidate]
    total: int
    right: int | None


@dataclass(frozen=True)
class Curve:
    """A value over steps."""

    name: str
    steps: list[int]
    values: list[float]


def draw_predictions(tasks: list[Task], submission: Submission, path: str | Path | None = None):
    """One row a test input: its first two demonstrations, the input, the truth where it is known
    and both attempts. Saves a PNG at `path` if given; returns the matplotlib figure."""
    rows = [(task, index) for task in tasks for index in range(len(task.test))]
    figure, axes = _sheet(len(rows), 8)
    for (task, index), line in zip(rows, axes):
        panels = [
            (f"demo {i + 1} {part}", getattr(pair, part))
            for i, pair in enumerate(task.train[:2])
            for part in ("input", "output")
        ]
        panels += [("", None)] * (4 - len(panels))
        panels += [(f"{shown_name(task.id)} test {index}", task.test[index].input)]
        truth = task.test[index].output
        attempts = [np.array(submission[task.id][index][name]) for name in ATTEMPTS]
        panels += [("truth", truth)]
        panels += [(name.replace("_", " ") + _mark(grid, truth), grid) for name, grid in zip(ATTEMPTS, attempts)]
        for ax, (title, grid) in zip(line, panels):
            _draw(ax, title, grid)
    if path is not None:
        figure.savefig(path, dpi=70)
    return figure


def draw_unfoldings(unfoldings: list[Unfolding], path: str | Path) -> None:
    """Saves a PNG with one row a test input: the input, its answer after each of the outer steps with the halting
    confidence in it, and the truth where it is known."""
    figure, axes = _sheet(len(unfoldings), max(len(found.steps) for found in unfoldings) + 2)
    for found, line in zip(unfoldings, axes):
        panels = [(found.name, found.input)]
        panels += [
            (f"step {step}: {confidence:.2f}{_mark(grid, found.truth)}", grid) for step, grid, confidence in found.steps
        ]
        for ax, (title, grid) in zip(line, [*panels, ("truth", found.truth)]):
            _draw(ax, title, grid)
    figure.savefig(path, dpi=70)


def draw_ballots(ballots: list[Ballot], path: str | Path) -> None:
    """Saves a PNG with a histogram for each test input: the votes of its candidates, best first, the right one
    green, with their mean confidence below."""
    columns = min(4, len(ballots))
    rows = -(-len(ballots) // columns)
    figure = _figure(3.2 * columns, 2.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(ballots) :]:
        ax.axis("off")
    for ballot, ax in zip(ballots, axes):
        places = range(len(ballot.candidates))
        colours = [_PALETTE[3] if place == ballot.right else _PALETTE[5] for place in places]
        ax.bar(places, [candidate.count for candidate in ballot.candidates], color=colours)
        ax.set_xticks(places, [f"{candidate.confidence:.2f}" for candidate in ballot.candidates], fontsize=7)
        ax.set_title(f"{ballot.name}: {ballot.total} votes", fontsize=8, parse_math=False)
    figure.savefig(path, dpi=70)


def draw_curves(panels: dict[str, list[Curve]], path: str | Path) -> None:
    """Saves a PNG with a panel for each name, its curves over steps."""
    figure = _figure(6.0 * len(panels), 4.0)
    for ax, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False).ravel(), panels.items()):
        for curve in curves:
            ax.plot(
                curve.steps,
                curve.values,
                marker="." if len(curve.steps) == 1 else "",
                linewidth=0.8,
                label=curve.name.replace("$", r"\$"),
            )
        ax.set(xlabel="steps", ylabel=title)
        if 1 < len(curves) <= _MAX_NAMED:
            ax.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _figure(width: float, height: float):
    """An empty matplotlib figure, sides in inches. Raises `InputError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib, which is not installed (pip install matplotlib)") from None
    return Figure(figsize=(width, height), layout="tight")


def _sheet(rows: int, columns: int):
    """A figure and its axes [rows, columns], each for one grid."""
    figure = _figure(1.625 * columns, 1.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    return figure, axes


def _mark(attempt: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None:
        return ""
    return ": right" if np.array_equal(attempt, truth) else ": wrong"


def _draw(ax, title: str, grid: np.ndarray | None) -> None:
    if grid is None:
        return
    from matplotlib.colors import ListedColormap

    ax.set_title(title, fontsize=8, parse_math=False)
    if not grid.size:
        return
    ax.imshow(grid, cmap=ListedColormap(_PALETTE), vmin=0, vmax=9)
    ax.set_xticks(np.arange(-0.5, grid.shape[1]), [])
    ax.set_yticks(np.arange(-0.5, grid.shape[0]), [])
    ax.axis("on")
    ax.grid(color="#555555", linewidth=0.5)
    ax.tick_params(length=0)
