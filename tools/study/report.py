"""Write the report of the studies: tables, figures, and whether the runs agree with the published findings."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.data.sets import size_of
from hrm_offline.data.tasks import Task
from tools.study.differences import MIN_PARTED, MIN_SEEDS, NULL, Difference, Result, compare, verdict
from tools.study.studies import Finding, Study
from tools.study.trial import null_score
from tools.support.intervals import bootstrap

_CSV_COLUMNS = (
    "arm",
    "seed",
    "pass@2",
    "cells",
    "solved",
    "loss",
    "test loss",
    "parameters",
    "example-steps",
    "vote steps",
    "seconds",
    "vote seconds",
    "commit",
)
Found = dict[int, dict[tuple[str, str], dict]]  # lines of runs.jsonl by seed and (study, arm)
Row = tuple[Study, Finding, Difference | None]


@dataclass(frozen=True)
class Scale:
    """What all runs of a report have in common.

    `tasks` names the tasks as `tasks_of` does. `visits` is how often each demonstration is offered. `command` made the
    report, and `workers` runs went side by side.
    """

    preset: str
    tasks: str
    visits: int
    seeds: tuple[int, ...]
    command: str
    workers: int


# ----- reports


def write_reports(studies: list[Study], found: Found, tasks: tuple[Task, ...], scale: Scale, out: Path) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.png for each study, and a README.md over all. Returns the paths."""
    null = _null_result(tasks)
    written, rows = [], []
    for study in studies:
        results = {arm.name: _result_of(study, arm.name, found) for arm in study.arms}
        differences = [compare(results[f.arm], results[f.baseline] if f.baseline else null) for f in study.findings]
        rows += [(study, finding, difference) for finding, difference in zip(study.findings, differences)]
        _write_csv(results, out / f"{study.name}.csv")
        _draw(study, results, null, out / f"{study.name}.png")
        text = _study_report(study, results, null, differences, tasks, scale)
        (out / f"{study.name}.md").write_text(text)
        written += [out / f"{study.name}{suffix}" for suffix in (".md", ".csv", ".png")]
    (out / "README.md").write_text(_overview(rows, found, tasks, scale))
    return [*written, out / "README.md"]


def _result_of(study: Study, arm: str, found: Found) -> Result:
    """Return the runs of an arm that were found."""
    return Result(arm, {seed: runs[study.name, arm] for seed, runs in found.items() if (study.name, arm) in runs})


def _null_result(tasks: tuple[Task, ...]) -> Result:
    """Return the null baseline in the form of an arm's runs."""
    outcomes = {task.id: (task.right_either / task.outputs, task.cells) for task in null_score(tasks).tasks}
    return Result(NULL, {-1: {"outcomes": outcomes}})


def _overview(rows: list[Row], found: Found, tasks: tuple[Task, ...], scale: Scale) -> str:
    """Return the text of README.md: where the runs come from, and a row for each finding."""
    runs = {run["run"]: run for runs in found.values() for run in runs.values()}.values()
    commits, machines = (sorted({run[name] for run in runs}) for name in ("commit", "machine"))
    learned = {(run["seed"], str(run["learn"])): run["seconds"] for run in runs}  # each learning once, whoever votes
    seconds = sum(learned.values()) + sum(run["vote seconds"] for run in runs)
    lines = [
        "# ARC Prize's analysis, repeated at a small scale",
        "",
        f"`{scale.command}`",
        "",
        _scale_line(tasks, scale),
        "",
        f"Commit {', '.join(commits)}; {'; '.join(machines)}; {scale.workers} runs at a time, with one thread each; "
        f"{seconds:,.0f} core-seconds in all.",
        "",
        "| study | published finding, or open question | difference | points of pass@2 | cells right | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for study, finding, difference in rows:
        numbers = ("", "") if difference is None else (_in_points(difference.points), _in_points(difference.cells))
        lines.append(
            f"| [{study.name}]({study.name}.md) | {finding.text} | {_compared(finding)} | {' | '.join(numbers)} | "
            f"{verdict(finding, difference)} |"
        )
    return "\n".join([*lines, "", _RULES, "", _limits([d for _, _, d in rows if d]), ""])


_RULES = (
    "A difference is in percentage points: paired over the tasks, averaged over the seeds, and in brackets the "
    "interval that holds 95% of 10,000 resamplings of the tasks. The verdict looks at pass@2 only. `agree`: the whole "
    "interval lies where the finding says, which is above 0, or within a margin if two arms are said to be alike. "
    "`disagree`: the whole interval lies elsewhere. `cannot tell`: neither, or there are fewer than "
    f"{MIN_SEEDS} seeds, or fewer than {MIN_PARTED} tasks tell the two arms apart. `but less than published`: the "
    "whole interval lies below the published difference."
)


def _limits(differences: list[Difference]) -> str:
    """Return what the width of the intervals does not allow to conclude."""
    if not differences:
        return "Nothing was compared."
    width = float(np.median([(high - low) / 2 for _, low, high in (d.points for d in differences)]))
    return (
        f"Limits: the median interval reaches {width:.0f} points to either side. A smaller effect does not show, and a "
        "smaller margin cannot be confirmed. The intervals tell about other tasks of this kind, not about larger "
        "networks, larger grids or longer training. Among many comparisons at 95%, about one in twenty stands out by "
        "chance."
    )


def _scale_line(tasks: tuple[Task, ...], scale: Scale) -> str:
    longest_side = max(size_of(task)[0] for task in tasks)
    outputs = sum(len(task.test) for task in tasks)
    return (
        f"Scale: preset `{scale.preset}`; {len(tasks)} real tasks (`{scale.tasks}`, sides up to {longest_side}, "
        f"{outputs} test outputs); each demonstration offered {scale.visits} times unless an arm says otherwise; seeds "
        f"{', '.join(map(str, scale.seeds))}."
    )


def _study_report(
    study: Study,
    results: dict[str, Result],
    null: Result,
    differences: list[Difference | None],
    tasks: tuple[Task, ...],
    scale: Scale,
) -> str:
    """Return the text of NAME.md: a row for each arm, and a line for each finding."""
    lines = [
        f"# {study.name}",
        "",
        study.question,
        "",
        _scale_line(tasks, scale),
        "",
        f"![{study.name}]({study.name}.png)",
        "",
        f"| {study.axis} | pass@2 | each seed | cells right | test loss | parameters | example-steps | "
        "outer steps of voting | core-seconds of learning, voting |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| {NULL} | {100 * null.measured(0).mean():.1f}% | | {100 * null.measured(1).mean():.1f}% | | | | | |",
    ]
    lines += [_row(result) for result in results.values()]
    lines += [""]
    for finding, difference in zip(study.findings, differences):
        lines.append(f"- {'Published' if finding.published else 'Asked'}: {finding.text}. {_seen(finding, difference)}")
    return "\n".join([*lines, "", _RULES, "", _limits([d for d in differences if d]), ""])


def _row(result: Result) -> str:
    if not result.runs:
        return f"| {result.name} | not run | | | | | | | |"
    points, cells = (100 * result.measured(what) for what in (0, 1))
    low, high = bootstrap(points.mean(axis=0))
    seeds = " ".join(f"{seed.mean():.1f}" for seed in points)
    losses = result.test_losses()
    test_loss = "" if losses is None else f"{losses.mean():.3f}"
    return (
        f"| {result.name} | {points.mean():.1f}% ({low:.1f} to {high:.1f}) | {seeds} | {cells.mean():.1f}% | "
        f"{test_loss} | {result.mean('parameters'):,.0f} | {result.mean('examples'):,.0f} | "
        f"{result.mean('vote steps'):,.0f} | {result.mean('seconds'):.0f}, {result.mean('vote seconds'):.0f} |"
    )


def _seen(finding: Finding, difference: Difference | None) -> str:
    if difference is None:
        return "Not run."
    loss = ""
    if difference.test_loss is not None:
        loss = ", test loss {:+.3f} ({:+.3f} to {:+.3f})".format(*difference.test_loss)
    return (
        f"Seen: {_compared(finding)}: {_in_points(difference.points)} points, cells {_in_points(difference.cells)}"
        f"{loss}; {difference.seeds} seeds, {difference.parted} tasks tell the two apart. "
        f"**{verdict(finding, difference)}**."
    )


def _compared(finding: Finding) -> str:
    """Return the two arms of a finding as a difference in words."""
    return f"{finding.arm} minus {finding.baseline or NULL}"


def _in_points(value: tuple[float, float, float]) -> str:
    mean, low, high = value
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


# ----- files


def _write_csv(results: dict[str, Result], path: Path) -> None:
    """Write a line for each run."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, _CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(_csv_row(result, seed) for result in results.values() for seed in result.runs)


def _csv_row(result: Result, seed: int) -> dict:
    run = result.runs[seed]
    points, cells = (result.measured(what, [seed])[0] for what in (0, 1))
    scores = {"pass@2": round(points.mean(), 4), "cells": round(cells.mean(), 4), "solved": int((points == 1).sum())}
    losses = result.test_losses([seed])
    if losses is not None:
        scores["test loss"] = round(float(losses.mean()), 4)
    copied = ("loss", "parameters", "vote steps", "seconds", "vote seconds", "commit")
    return {"arm": result.name, "seed": seed, "example-steps": run["examples"]} | scores | {k: run[k] for k in copied}


def _draw(study: Study, results: dict[str, Result], null: Result, path: Path) -> None:
    """Draw pass@2 of each arm on the left, and its costs beside."""
    from matplotlib.figure import Figure

    shown = [result for result in results.values() if result.runs]
    figure = Figure(figsize=(13, 1.6 + 0.42 * len(shown)), layout="tight")
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(3, 1, 1))
    places = range(len(shown))
    for place, result in zip(places, shown):
        _draw_points(left, place, 100 * result.measured(0))
    left.axvline(100 * null.measured(0).mean(), color="tab:gray", linestyle="--", linewidth=0.8)
    left.set(xlabel="pass@2 in %, 95% over tasks; dots: seeds; dashed: null baseline")
    left.set_yticks(places, [result.name for result in shown])
    left.invert_yaxis()
    for axes, name, label in ((middle, "examples", "example-steps"), (right, "seconds", "core-seconds of learning")):
        axes.barh(places, [result.mean(name) for result in shown], color="tab:blue")
        axes.set(xlabel=label)
        axes.tick_params(labelsize=8)
    figure.suptitle(study.question, fontsize=10)
    figure.savefig(path, dpi=80)


def _draw_points(axes, place: int, points: np.ndarray) -> None:
    """Draw an arm's points [seeds, tasks] on a line of the figure: their interval, each seed, and the mean."""
    low, high = bootstrap(points.mean(axis=0))
    axes.plot([low, high], [place, place], color="tab:blue", linewidth=1.5)
    axes.plot(points.mean(axis=1), [place] * len(points), ".", color="tab:gray", markersize=5)
    axes.plot(points.mean(), place, "o", color="tab:blue", markersize=7)
