"""What the runs of a study say: tables, figures, and which published findings they agree with."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrm_offline.data.sets import size_of
from hrm_offline.data.tasks import Task
from tools.study.studies import Finding, Study
from tools.study.trial import null_score
from tools.support.intervals import bootstrap

MIN_SEEDS = 3
_MIN_PARTED = 6  # tasks: with fewer no sign test reaches 5%, and a bootstrap's interval is too narrow
_NULL = "the null baseline"
_COLUMNS = (
    "arm",
    "seed",
    "pass@2",
    "cells",
    "solved",
    "loss",
    "parameters",
    "example-steps",
    "vote steps",
    "seconds",
    "vote seconds",
    "commit",
)


@dataclass(frozen=True)
class Scale:
    """What all runs of a report have in common: the preset, the tasks (as `tasks_of` names them), how often each
    demonstration is offered, the seeds, the command and how many runs went side by side."""

    preset: str
    tasks: str
    visits: int
    seeds: tuple[int, ...]
    command: str
    workers: int


@dataclass(frozen=True, eq=False)
class Result:
    """The runs of an arm by seed, lines of runs.jsonl. The null baseline's is one run that holds for any seed."""

    name: str
    runs: dict[int, dict]

    def measured(self, what: int, seeds: list[int] | None = None) -> np.ndarray:
        """[seeds, tasks]: the share of a task's outputs that are right (`what` 0) or of their cells (1)."""
        chosen = self.runs.values() if seeds is None else [self.runs[seed] for seed in seeds]
        return np.array([[outcome[what] for outcome in run["outcomes"].values()] for run in chosen])

    def mean(self, name: str) -> float:
        return float(np.mean([run[name] for run in self.runs.values()]))


@dataclass(frozen=True)
class Difference:
    """How many points of pass@2 an arm is above another, in percent of the tasks, paired over tasks and averaged over
    the seeds that both have, with its 95% interval over resampled tasks; the same of cells right."""

    points: tuple[float, float, float]
    cells: tuple[float, float, float]
    seeds: int
    parted: int  # tasks whose points differ


def compare(arm: Result, baseline: Result) -> Difference | None:
    """None where the two have no seed in common."""
    fixed = baseline.name == _NULL
    seeds = [seed for seed in arm.runs if fixed or seed in baseline.runs]
    if not seeds:
        return None
    bases = [baseline.measured(what) if fixed else baseline.measured(what, seeds) for what in (0, 1)]
    gains = [100 * (arm.measured(what, seeds) - base).mean(axis=0) for what, base in enumerate(bases)]
    means = [(float(gain.mean()), *bootstrap(gain)) for gain in gains]
    return Difference(*means, len(seeds), int(np.count_nonzero(gains[0])))


def verdict(finding: Finding, difference: Difference | None) -> str:
    """Whether the interval lies where the finding says: above 0, or within the margin on both sides of it. Too few
    seeds, or too few tasks that tell the two apart, are no evidence."""
    if difference is None:
        return "not run"
    if not finding.published:
        return "open question"
    if difference.seeds < MIN_SEEDS or difference.parted < _MIN_PARTED:
        return "cannot tell"
    _, low, high = difference.points
    margin = finding.margin
    agrees = low > 0 if margin is None else -margin <= low and high <= margin
    disagrees = high < 0 if margin is None else low > margin or high < -margin
    if disagrees:
        return "disagree"
    smaller = finding.size is not None and high < finding.size
    return ("agree" if agrees else "cannot tell") + ", but less than published" * smaller


# ----- reports


def write_reports(
    studies: list[Study],
    found: dict[int, dict[tuple[str, str], dict]],
    tasks: tuple[Task, ...],
    scale: Scale,
    out: Path,
) -> list[Path]:
    """NAME.md, NAME.csv and NAME.png of each study, and README.md over all of them. `found` has the runs by seed and
    (study, arm)."""
    null = Result(
        _NULL,
        {
            -1: {
                "outcomes": {
                    task.id: (task.right_either / task.outputs, task.cells) for task in null_score(tasks).tasks
                }
            }
        },
    )
    written, rows = [], []
    for study in studies:
        results = {
            arm.name: Result(
                arm.name,
                {seed: runs[study.name, arm.name] for seed, runs in found.items() if (study.name, arm.name) in runs},
            )
            for arm in study.arms
        }
        differences = [compare(results[f.arm], results[f.baseline] if f.baseline else null) for f in study.findings]
        rows += [(study, finding, difference) for finding, difference in zip(study.findings, differences)]
        _write_csv(results, out / f"{study.name}.csv")
        _draw(study, results, null, out / f"{study.name}.png")
        text = _study_report(study, results, null, differences, tasks, scale)
        (out / f"{study.name}.md").write_text(text)
        written += [out / f"{study.name}{suffix}" for suffix in (".md", ".csv", ".png")]
    (out / "README.md").write_text(_overview(rows, found, tasks, scale))
    return [*written, out / "README.md"]


def _overview(
    rows: list[tuple[Study, Finding, Difference | None]], found: dict[int, dict], tasks: tuple[Task, ...], scale: Scale
) -> str:
    runs = {run["run"]: run for runs in found.values() for run in runs.values()}.values()
    commits, machines = (sorted({run[name] for run in runs}) for name in ("commit", "machine"))
    learned = {(run["seed"], str(run["learn"])): run["seconds"] for run in runs}
    seconds = sum(learned.values()) + sum(run["vote seconds"] for run in runs)
    lines = [
        "# ARC Prize's analysis, repeated at a small scale",
        "",
        f"`{scale.command}`",
        "",
        _scale_line(tasks, scale),
        "",
        f"Commit {', '.join(commits)}; {'; '.join(machines)}; {scale.workers} runs at a time, a thread each; "
        f"{seconds:,.0f} core-seconds in all.",
        "",
        "| study | published, or asked | compared | points of pass@2 | cells right | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for study, finding, difference in rows:
        seen = ("", "") if difference is None else (_in_points(difference.points), _in_points(difference.cells))
        lines.append(
            f"| [{study.name}]({study.name}.md) | {finding.text} | {finding.arm} less "
            f"{finding.baseline or _NULL} | {' | '.join(seen)} | {verdict(finding, difference)} |"
        )
    return "\n".join([*lines, "", _RULES, "", _limits([d for _, _, d in rows if d]), ""])


_RULES = (
    "Differences are in percentage points, paired over tasks, means over seeds, with 95% of 10,000 resamplings of the "
    "tasks. `agree`: all of the interval lies where the finding says, above 0 or, where it is that two are alike, "
    "within its margin. `disagree`: all of it lies on the other side. Else, and where less than "
    f"{MIN_SEEDS} seeds or less than {_MIN_PARTED} tasks tell the two apart: `cannot tell`. `but less than "
    "published`: all of it lies below the published difference. Only pass@2 counts for the verdict."
)


def _limits(differences: list[Difference]) -> str:
    """What the scale forbids to conclude, by how wide the intervals are."""
    if not differences:
        return "Nothing was compared."
    width = float(np.median([(high - low) / 2 for _, low, high in (d.points for d in differences)]))
    return (
        f"What cannot be concluded: the intervals reach {width:.0f} points to either side (the median), so an "
        "effect smaller than that does not show, and a margin smaller than that cannot be confirmed. They tell of "
        "other tasks of this kind, not of larger networks, larger grids or longer training. Of many comparisons "
        "at 95%, about one in twenty stands out by chance."
    )


def _scale_line(tasks: tuple[Task, ...], scale: Scale) -> str:
    return (
        f"Scale: preset `{scale.preset}`, {len(tasks)} real tasks (`{scale.tasks}`, sides up to "
        f"{max(size_of(task)[0] for task in tasks)}, {sum(len(task.test) for task in tasks)} test outputs), each "
        f"demonstration offered {scale.visits} times unless an arm says otherwise, seeds "
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
    lines = [
        f"# {study.name}",
        "",
        study.question,
        "",
        _scale_line(tasks, scale),
        "",
        f"![{study.name}]({study.name}.png)",
        "",
        f"| {study.axis} | pass@2 | each seed | cells right | parameters | example-steps | steps of voting | "
        "core-seconds of learning, voting |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| {_NULL} | {100 * null.measured(0).mean():.1f}% | | {100 * null.measured(1).mean():.1f}% | | | | |",
    ]
    lines += [_row(result) for result in results.values()]
    lines += [""]
    for finding, difference in zip(study.findings, differences):
        lines.append(f"- {'Published' if finding.published else 'Asked'}: {finding.text}. {_seen(finding, difference)}")
    return "\n".join([*lines, "", _RULES, "", _limits([d for d in differences if d]), ""])


def _row(result: Result) -> str:
    if not result.runs:
        return f"| {result.name} | not run | | | | | | |"
    points, cells = (100 * result.measured(what) for what in (0, 1))
    low, high = bootstrap(points.mean(axis=0))
    seeds = " ".join(f"{seed.mean():.1f}" for seed in points)
    return (
        f"| {result.name} | {points.mean():.1f}% ({low:.1f} to {high:.1f}) | {seeds} | {cells.mean():.1f}% | "
        f"{result.mean('parameters'):,.0f} | {result.mean('examples'):,.0f} | {result.mean('vote steps'):,.0f} | "
        f"{result.mean('seconds'):.0f}, {result.mean('vote seconds'):.0f} |"
    )


def _seen(finding: Finding, difference: Difference | None) -> str:
    if difference is None:
        return "Not run."
    return (
        f"Seen: {finding.arm} less {finding.baseline or _NULL} {_in_points(difference.points)} points, cells "
        f"{_in_points(difference.cells)}; seeds: {difference.seeds}, tasks that tell "
        f"the two apart: {difference.parted}. **{verdict(finding, difference)}**."
    )


def _in_points(value: tuple[float, float, float]) -> str:
    mean, low, high = value
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


# ----- files


def _write_csv(results: dict[str, Result], path: Path) -> None:
    """A line a run."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for result in results.values():
            for seed, run in result.runs.items():
                points, cells = (result.measured(what, [seed])[0] for what in (0, 1))
                writer.writerow(
                    [
                        result.name,
                        seed,
                        round(points.mean(), 4),
                        round(cells.mean(), 4),
                        int((points == 1).sum()),
                        run["loss"],
                        run["parameters"],
                        run["examples"],
                        run["vote steps"],
                        run["seconds"],
                        run["vote seconds"],
                        run["commit"],
                    ]
                )


def _draw(study: Study, results: dict[str, Result], null: Result, path: Path) -> None:
    """Left pass@2 of each arm with its interval over tasks and a dot a seed; beside it what it cost."""
    from matplotlib.figure import Figure

    shown = [result for result in results.values() if result.runs]
    figure = Figure(figsize=(13, 1.6 + 0.42 * len(shown)), layout="tight")
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(3, 1, 1))
    places = range(len(shown))
    for place, result in zip(places, shown):
        points = 100 * result.measured(0)
        low, high = bootstrap(points.mean(axis=0))
        left.plot([low, high], [place, place], color="tab:blue", linewidth=1.5)
        left.plot(points.mean(axis=1), [place] * len(points), ".", color="tab:gray", markersize=5)
        left.plot(points.mean(), place, "o", color="tab:blue", markersize=7)
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
