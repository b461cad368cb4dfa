"""Write the report of the studies: tables, figures, and whether the runs agree with the published findings."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.data.sets import size_of
from hrm_offline.data.tasks import Task
from tools.study.differences import (
    AGREE,
    CANNOT_TELL,
    DISAGREE,
    MIN_PARTED,
    MIN_SEEDS,
    NULL,
    Difference,
    Measured,
    Result,
    compare,
    verdict,
)
from tools.study.studies import Finding, Study
from tools.study.trial import null_score
from tools.support.intervals import clustered_bootstrap

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
    report, and `workers` runs went side by side. With `core_seconds` each run learned so long, and the visits are a
    ceiling.
    """

    preset: str
    tasks: str
    visits: int
    seeds: tuple[int, ...]
    command: str
    workers: int
    core_seconds: float | None = None

    @property
    def length(self) -> str:
        """Return in words how long each run learned."""
        if self.core_seconds:
            return f"each run learned for {self.core_seconds:g} core-seconds"
        return f"each demonstration offered {self.visits} times unless an arm says otherwise"


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
    """Return the text of README.md: where the runs come from, what was found in all, and a row for each finding."""
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
        *_summary(rows),
        "",
        "| study | published finding, or open question | difference | test loss, nats per token | points of pass@2 | "
        "cells right | told apart | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for study, finding, difference in rows:
        lines.append(
            f"| [{study.name}]({study.name}.md) | {finding.text} | {_compared(finding)} | "
            f"{' | '.join(_numbers(difference))} | {_verdict(finding, difference)} |"
        )
    return "\n".join([*lines, "", _RULES, "", _limits([d for _, _, d in rows if d]), ""])


def _summary(rows: list[Row]) -> list[str]:
    """Return lines that count the comparisons that can be told apart, and list the findings that agree or do not."""
    apart = [difference for _, _, difference in rows if difference and difference.side]
    by_loss = sum(difference.test_loss is not None for difference in apart)
    not_run = sum(difference is None for _, _, difference in rows)
    lines = [
        f"**{len(apart)} of {len(rows)} comparisons can be told apart**, {by_loss} by test loss and "
        f"{len(apart) - by_loss} by points{f'; {not_run} were not run' if not_run else ''}. Published findings:",
        "",
    ]
    for word in (AGREE, DISAGREE, CANNOT_TELL):
        found = [f"{f.text} ({study.name})" for study, f, difference in rows if verdict(f, difference).startswith(word)]
        texts = "" if word == CANNOT_TELL or not found else f": {'; '.join(found)}"
        lines.append(f"- {word}, {len(found)}{texts}")
    return lines


def _numbers(difference: Difference | None) -> tuple[str, ...]:
    """Return the cells of a row about a difference: test loss, points, cells, and what can be told apart."""
    if difference is None:
        return ("",) * 4
    return _in_nats(difference), _in_points(difference.points), _in_points(difference.cells), _apart(difference)


def _apart(difference: Difference) -> str:
    """Return in words whether the arm is better or worse, and by which measure, or how measures contradict."""
    words, sides = {1: "better", -1: "worse", 0: "no"}, difference.sides
    judge = "points" if difference.test_loss is None else "test loss"
    if difference.side == sides[judge]:
        return f"{words[difference.side]}, by {judge}"
    others = " and ".join(name for name, side in sides.items() if side == -sides[judge])
    return f"no: {words[sides[judge]]} by {judge}, {words[-sides[judge]]} by {others}"


def _verdict(finding: Finding, difference: Difference | None) -> str:
    """Return the verdict, with the margin where one was published."""
    words = verdict(finding, difference)
    has_margin = finding.margin is not None and finding.published and difference is not None
    return f"{words} within {finding.margin:g} points" if has_margin else words


_RULES = (
    "Comparisons are judged by the test loss: how unlikely a network finds the true outputs, in nats per token, "
    "so that less is better. Differences are means over tasks and seeds, paired by both. In brackets stands the "
    "interval that holds 95% of 10,000 resamplings of the tasks, widened by what seeds differ beyond chance; "
    "after `of`, the test loss of the second arm. Two arms are told apart where the whole interval lies on one "
    f"side of 0 and there are at least {MIN_SEEDS} seeds. Where they have no test loss that could differ, the "
    f"points of pass@2 (percentage points) take its place, and at least {MIN_PARTED} tasks must tell the two arms "
    "apart. Where the whole interval of the points or of the cells says the opposite, the arm is less sure of its "
    "answers, but these are not better: the two are not told apart.\n\n"
    "`agree`: the arm that a finding calls better is better. `disagree`: it is worse. `cannot tell`: the two "
    "cannot be told apart. No number of nats was published. So a finding that names a size is judged by its "
    "direction alone, and its size is compared with the points: `but less than published` says that their whole "
    "interval lies below it. A finding that two arms are about alike names a margin in points, and a test loss "
    "cannot confirm it. So it is judged by the points: `agree` where their whole interval lies within the margin, "
    "`disagree` where it lies beyond. The column `told apart` still says which arm is better by test loss."
)


def _limits(differences: list[Difference]) -> str:
    """Return what the width of the intervals does not allow to conclude."""
    if not differences:
        return "Nothing was compared."
    reach = f"{_reach([difference.points for difference in differences]):.0f} points"
    if losses := [difference.test_loss for difference in differences if difference.test_loss]:
        reach += f", that of the test loss {_reach(losses):.3f} nats,"
    return (
        f"Limits: the median interval reaches {reach} to either side. A smaller effect does not show, and a smaller "
        "margin cannot be confirmed. The intervals tell about other tasks of this kind, not about larger networks, "
        "larger grids or longer training. Among many comparisons at 95%, about one in twenty stands out by chance."
    )


def _reach(measured: list[Measured]) -> float:
    """Return half of the median interval's width."""
    return float(np.median([(high - low) / 2 for _, low, high in measured]))


def _scale_line(tasks: tuple[Task, ...], scale: Scale) -> str:
    longest_side = max(size_of(task)[0] for task in tasks)
    outputs = sum(len(task.test) for task in tasks)
    return (
        f"Scale: preset `{scale.preset}`; {len(tasks)} tasks (`{scale.tasks}`, sides up to {longest_side}, "
        f"{outputs} test outputs); {scale.length}; seeds {', '.join(map(str, scale.seeds))}."
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
        f"| {study.axis} | test loss | pass@2 | each seed | cells right | parameters | example-steps | "
        "outer steps of voting | core-seconds of learning, voting |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| {NULL} | | {100 * null.measured(0).mean():.1f}% | | {100 * null.measured(1).mean():.1f}% | | | | |",
    ]
    lines += [_row(result) for result in results.values()]
    lines += [""]
    for finding, difference in zip(study.findings, differences):
        text = finding.text if finding.text.endswith("?") else f"{finding.text}."
        lines.append(f"- {'Published' if finding.published else 'Asked'}: {text} {_seen(finding, difference)}")
    return "\n".join([*lines, "", _RULES, "", _limits([d for d in differences if d]), ""])


def _row(result: Result) -> str:
    if not result.runs:
        return f"| {result.name} | not run | | | | | | | |"
    points, cells = (100 * result.measured(what) for what in (0, 1))
    seeds = " ".join(f"{seed.mean():.1f}" for seed in points)
    losses = result.test_losses()
    test_loss = "" if losses is None else _with_interval(losses, ".3f")
    return (
        f"| {result.name} | {test_loss} | {_with_interval(points, '.1f', '%')} | {seeds} | {cells.mean():.1f}% | "
        f"{result.mean('parameters'):,.0f} | {result.mean('examples'):,.0f} | {result.mean('vote steps'):,.0f} | "
        f"{result.mean('seconds'):.0f}, {result.mean('vote seconds'):.0f} |"
    )


def _with_interval(values: np.ndarray, form: str, unit: str = "") -> str:
    """Return the mean of [seeds, tasks] with its interval as text."""
    low, high = clustered_bootstrap(values)
    return f"{values.mean():{form}}{unit} ({low:{form}} to {high:{form}})"


def _seen(finding: Finding, difference: Difference | None) -> str:
    if difference is None:
        return "Not run."
    return (
        f"Seen: {_compared(finding)}: test loss {_in_nats(difference)}; {_in_points(difference.points)} points, cells "
        f"{_in_points(difference.cells)}; {difference.seeds} seeds; {difference.parted} tasks tell the two apart by "
        f"points. Told apart: {_apart(difference)}. **{_verdict(finding, difference)}**."
    )


def _compared(finding: Finding) -> str:
    """Return the two arms of a finding as a difference in words."""
    return f"{finding.arm} minus {finding.baseline or NULL}"


def _in_nats(difference: Difference) -> str:
    """Return the difference of test losses with its interval and the baseline's test loss, or why there is none."""
    if difference.test_loss is None:
        return f"none: {difference.no_loss}"
    mean, low, high = difference.test_loss
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) of {difference.base_loss:.3f}"


def _in_points(value: Measured) -> str:
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
    """Draw test loss and pass@2 of each arm on the left, and its costs beside."""
    from matplotlib.figure import Figure

    shown = [result for result in results.values() if result.runs]
    figure = Figure(figsize=(16, 1.6 + 0.42 * len(shown)), layout="tight")
    left, points, middle, right = figure.subplots(1, 4, sharey=True, width_ratios=(3, 3, 1, 1))
    places = range(len(shown))
    for place, result in zip(places, shown):
        _draw_interval(points, place, 100 * result.measured(0))
        losses = result.test_losses()
        if losses is not None:
            _draw_interval(left, place, losses)
    points.axvline(100 * null.measured(0).mean(), color="tab:gray", linestyle="--", linewidth=0.8)
    left.set(xlabel="test loss in nats per token (less is better), 95%; dots: seeds")
    points.set(xlabel="pass@2 in %, 95%; dots: seeds; dashed: null baseline")
    left.set_yticks(places, [result.name for result in shown])
    left.invert_yaxis()
    for axes, name, label in ((middle, "examples", "example-steps"), (right, "seconds", "core-seconds of learning")):
        axes.barh(places, [result.mean(name) for result in shown], color="tab:blue")
        axes.set(xlabel=label)
        axes.tick_params(labelsize=8)
    figure.suptitle(study.question, fontsize=10)
    figure.savefig(path, dpi=80)


def _draw_interval(axes, place: int, values: np.ndarray) -> None:
    """Draw an arm's values [seeds, tasks] on a line of the figure: their interval, each seed, and the mean."""
    low, high = clustered_bootstrap(values)
    axes.plot([low, high], [place, place], color="tab:blue", linewidth=1.5)
    axes.plot(values.mean(axis=1), [place] * len(values), ".", color="tab:gray", markersize=5)
    axes.plot(values.mean(), place, "o", color="tab:blue", markersize=7)
