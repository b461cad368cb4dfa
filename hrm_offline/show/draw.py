"""Pictures (matplotlib) of tasks with their predictions, of outer steps, of votes, and of curves.

`collect` finds what they show.
"""

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
_RIGHT, _OTHER = _PALETTE[3], _PALETTE[5]  # bars of the right candidate, and of the others

Origins = dict[str, list[list[str]]]  # whose candidate each attempt is: {task_id: [[name, name] for each test input]}

_MAX_NAMED = 10  # curves of a panel that a legend names


@dataclass(frozen=True, eq=False)
class Unfolding:
    """A network's answer to one test input after each outer step: (step, grid, confidence).

    `truth` is None where it is not known.
    """

    name: str
    input: np.ndarray
    steps: list[tuple[int, np.ndarray, float]]
    truth: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Ballot:
    """The best candidates for one test input, best first, of `total` votes.

    `right` is the index of the right candidate; None where it is not among them or not known.
    """

    name: str
    candidates: list[Candidate]
    total: float
    right: int | None


@dataclass(frozen=True)
class Curve:
    """A value over steps."""

    name: str
    steps: list[int]
    values: list[float]


def draw_predictions(
    tasks: list[Task], submission: Submission, path: str | Path | None = None, origins: Origins | None = None
):
    """Draw one row per test input: two demonstrations, the input, the truth where it is known, and both attempts.

    `origins` says whose candidates the attempts are, which then stands above them. Saves a PNG at `path`
    if given. Returns the matplotlib figure.
    """
    rows = [(task, index) for task in tasks for index in range(len(task.test))]
    figure, axes = _sheet(len(rows), 8)
    for (task, index), line in zip(rows, axes):
        for ax, (title, grid) in zip(line, _panels(task, index, submission, origins or {})):
            _draw(ax, title, grid)
    if path is not None:
        figure.savefig(path, dpi=70)
    return figure


def _panels(task: Task, index: int, submission: Submission, origins: Origins) -> list[tuple[str, np.ndarray | None]]:
    """Return the titles and grids of a row of `draw_predictions`; a grid of None leaves its place empty."""
    demonstrations = []
    for number, pair in enumerate(task.train[:2], start=1):
        demonstrations += [(f"demo {number} input", pair.input), (f"demo {number} output", pair.output)]
    demonstrations += [("", None)] * (4 - len(demonstrations))
    test, entry = task.test[index], submission[task.id][index]
    whose = origins[task.id][index] if task.id in origins else [""] * len(ATTEMPTS)
    attempts = []
    for name, origin in zip(ATTEMPTS, whose):
        grid = np.array(entry[name])
        title = name.replace("_", " ") + _mark(grid, test.output)
        attempts.append((f"{title}\n{origin}" if origin else title, grid))
    return [*demonstrations, (f"{shown_name(task.id)} test {index}", test.input), ("truth", test.output), *attempts]


def draw_unfoldings(unfoldings: list[Unfolding], path: str | Path) -> None:
    """Save a PNG with one row per test input: the input, the answers after outer steps, the truth where it is known.

    The halting confidence stands above each answer.
    """
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
    """Save a PNG with a histogram for each test input: the votes of its candidates, best first.

    The right candidate is green. The mean confidence of each stands below its bar.
    """
    columns = min(4, len(ballots))
    rows = -(-len(ballots) // columns)
    figure = _figure(3.2 * columns, 2.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(ballots) :]:
        ax.axis("off")
    for ballot, ax in zip(ballots, axes):
        places = range(len(ballot.candidates))
        colours = [_RIGHT if place == ballot.right else _OTHER for place in places]
        ax.bar(places, [candidate.count for candidate in ballot.candidates], color=colours)
        ax.set_xticks(places, [f"{candidate.confidence:.2f}" for candidate in ballot.candidates], fontsize=7)
        ax.set_title(f"{ballot.name}: {round(ballot.total, 2):,g} votes", fontsize=8, parse_math=False)
    figure.savefig(path, dpi=70)


def draw_curves(panels: dict[str, list[Curve]], path: str | Path) -> None:
    """Save a PNG with a panel for each name, which shows the panel's curves over steps."""
    figure = _figure(6.0 * len(panels), 4.0)
    axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    for ax, (title, curves) in zip(axes, panels.items()):
        for curve in curves:
            marker = "." if len(curve.steps) == 1 else ""  # one point makes no line
            label = curve.name.replace("$", r"\$")  # matplotlib would read formulas
            ax.plot(curve.steps, curve.values, marker=marker, linewidth=0.8, label=label)
        ax.set(xlabel="steps", ylabel=title)
        if 1 < len(curves) <= _MAX_NAMED:
            ax.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _figure(width: float, height: float):
    """Return an empty matplotlib figure, sides in inches. Raises `InputError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib, which is not installed (pip install matplotlib)") from None
    return Figure(figsize=(width, height), layout="tight")


def _sheet(rows: int, columns: int):
    """Return a figure and its axes [rows, columns], each for one grid."""
    figure = _figure(1.625 * columns, 1.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    return figure, axes


def _mark(attempt: np.ndarray, truth: np.ndarray | None) -> str:
    """Return the end of an attempt's title: whether it is right, where that is known."""
    if truth is None:
        return ""
    return ": right" if np.array_equal(attempt, truth) else ": wrong"


def _draw(ax, title: str, grid: np.ndarray | None) -> None:
    """Draw a grid with its title. An empty grid has the title alone, and None leaves the place empty."""
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
