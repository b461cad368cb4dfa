"""Say what came of a run: the content of report.json, and the last line for the user."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from pathlib import Path

import numpy as np

from hrm_offline import __version__
from hrm_offline.common.budget import in_words
from hrm_offline.data.tasks import TaskSet
from hrm_offline.solve.messages import Along
from hrm_offline.solve.options import SolveOptions
from hrm_offline.solve.supervisor import Supervisor


def make_report(
    supervisor: Supervisor, options: SolveOptions, task_set: TaskSet, ended_early: str | None = None
) -> dict:
    """Return the report of a run as JSON values. `ended_early` says why the run was ended before its time."""
    budget, ledger, induction = supervisor.budget, supervisor.ledger, supervisor.induction
    votes = ledger.votes()
    tests = [(task.id, index) for task in task_set.tasks for index in range(len(task.test))]
    counts = [votes[test].count if test in votes else 0 for test in tests]
    others = ledger.outside.sources.keys() | ledger.induced.keys()
    unanswered = [test for test, count in zip(tests, counts) if not count and test not in others]
    report = {
        "tasks": len(task_set.test_counts()),
        "left out": {bad.id: bad.reason for bad in task_set.bad} | supervisor.unsuited,
        "test inputs": len(tests),
        "test inputs without a vote": len(unanswered),
        "tasks on their fallback": _reasons_of_fallbacks(supervisor, unanswered),
        "votes per test input": {
            "least": round(min(counts), 2),
            "mean": round(float(np.mean(counts)), 2),
            "most": round(max(counts), 2),
        },
        "votes from elsewhere": ledger.outside.counted,
        "induction": induction and induction.report(),
        "attempts": ledger.origins(),
        "failures": supervisor.failures,
        "demoted operations": supervisor.demotions,
        "cuda graphs": supervisor.graphs,
        "ended early": ended_early,
        "seconds": {name: round(value, 2) for name, value in supervisor.phases().items()},
        "seconds in all": round(budget.elapsed(), 2),
        "budget seconds": budget.total,
        "shares of the budget": {name: round(share, 4) for name, share in budget_shares(supervisor).items()},
        "ended because": ending(supervisor),
        **_network_report(supervisor),
        "rates": rates_of(supervisor),
        "seed": options.seed,
        "sharing": options.sharing,
        "challenges": _whereabouts(options.challenges),
        "versions": _versions(supervisor),
    }
    if options.price_per_hour is not None:
        report["price"] = options.price_per_hour * budget.elapsed() / 3600
        report["price per task"] = report["price"] / report["tasks"]
    return report


def rates_of(supervisor: Supervisor) -> dict[str, float]:
    """Return how fast a worker learned and predicted, on average: examples and canvas tokens per second."""
    groups = supervisor.schedule.groups if supervisor.schedule else []
    learned = sum(group.report["examples"] for group in groups if group.report is not None)
    seconds = supervisor.worker_seconds
    return {
        "examples learned per second": round(learned / max(seconds["adapt"], 1e-9), 1),
        "canvas tokens predicted per second": round(supervisor.predicted_tokens / max(seconds["predict"], 1e-9), 1),
    }


def budget_shares(supervisor: Supervisor) -> dict[str, float]:
    """Return what the budget went to, as shares of it, in order. They add up to 1.

    Phases are means over the workers. "waiting" is time in which a worker had no job, and "left" is left at the end.
    """
    total = max(supervisor.budget.total, supervisor.budget.elapsed(), 1e-9)  # a run may have had no time at all
    phases, workers = supervisor.phases(), max(1, len(supervisor.slots))
    further = {name: seconds / workers for name, seconds in supervisor.member_seconds.items()}
    seconds = {
        "start": phases["start"],
        "adaptation": phases["adapt"] - further["adapt"],
        "prediction": phases["predict"] - further["predict"],
        "further members": sum(further.values()),
    }
    elapsed = supervisor.budget.elapsed()
    seconds["waiting"] = max(0.0, elapsed - sum(seconds.values()))
    seconds["left"] = max(0.0, supervisor.budget.total - elapsed)
    return {name: value / total for name, value in seconds.items()}


def ending(supervisor: Supervisor) -> str:
    """Say why a run did not go on, from how far its networks came."""
    schedule = supervisor.schedule
    groups = [group for group in schedule.groups if group.lost is None] if schedule else []
    first = [group for group in groups if not group.member]
    if not first or not all(group.is_whole for group in first):
        return "the time was used up, or nothing more could be done"
    visits, most = supervisor.hello.network.recipe.visits, supervisor.hello.network.recipe.members
    members = sum(group.is_whole for group in groups) / len(first)
    words = f"all {visits:,} visits are made"
    if members >= most:
        return words if most == 1 else f"{words}, by all {most} members"
    return f"{words}, by {members:.3g} of {most} members, and there was no time for a further one"


def budget_line(supervisor: Supervisor) -> str:
    """Return the line that says what the budget went to, and why the run has ended."""
    shares = budget_shares(supervisor)
    spent = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if round(share, 2))
    return f"budget: {spent}; {ending(supervisor)}"


def last_line(supervisor: Supervisor) -> str:
    """Return the line that ends a run: its time and its rates."""
    budget = supervisor.budget
    words = f"done in {in_words(budget.elapsed())} of {in_words(budget.total)}"
    seconds, rates = supervisor.worker_seconds, rates_of(supervisor)
    if seconds["adapt"]:
        words += f"; {rates['examples learned per second']:,.0f} examples/s learned"
    if seconds["predict"]:
        words += f", {rates['canvas tokens predicted per second']:,.0f} tokens/s predicted"
    return words


def _network_report(supervisor: Supervisor) -> dict:
    """Return what is known once a worker has come up: the device, the network, and how far the groups came."""
    hello, schedule = supervisor.hello, supervisor.schedule
    if hello is None or schedule is None:
        return {}
    reports = [
        {"tasks": [supervisor.tasks[i].id for i in group.tasks], "member": group.member, **_without_nan(group.report)}
        for group in schedule.groups
        if group.report is not None
    ]
    totals = {name: sum(report[name] for report in reports) for name in ("planned_steps", "steps", "examples")}
    losses = [report["loss"] for report in reports if report["steps"]]
    network = hello.network
    along = {"learned along": _along(hello.along)} if hello.along else {}
    return {
        "device": hello.device,
        "workers": len(supervisor.slots),
        "threads": hello.threads,
        "operations": hello.operations,
        "self-test": hello.selftest,
        "model": dataclasses.asdict(network.model),
        "artifact": str(network.artifact) if network.artifact else None,
        "adapt": dataclasses.asdict(network.recipe),
        **along,
        "adapted": totals | {"loss": float(np.mean(losses)) if losses else None, "groups": reports},
    }


def _along(along: Along) -> dict:
    """Return what was learned along with the tasks, and what was left out of that."""
    return {"tasks": along.tasks, "pairs": along.pairs, "left out": along.left_out, "repeats": along.repeated}


def _without_nan(report: dict) -> dict:
    """Return a group's report as JSON can hold it: without a step there is no loss."""
    return report if report["steps"] else report | {"loss": None}


def _whereabouts(challenges: Path) -> str:
    """Return where the tasks are found again from any folder: an absolute path, or the name of a set."""
    return os.path.abspath(challenges) if os.path.exists(challenges) else str(challenges)


def _versions(supervisor: Supervisor) -> dict[str, str]:
    of_workers = supervisor.hello.versions if supervisor.hello else {}
    return {
        "hrm_offline": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": sys.platform,
    } | of_workers


def _reasons_of_fallbacks(supervisor: Supervisor, tests: list[tuple[str, int]]) -> dict[str, str]:
    """Return the tasks of test inputs that have no vote, and why the network gave none."""
    reasons = {}
    unknown = "no worker came up in time"
    if supervisor.options.induce == "only":
        unknown = "no program was found, and no network asked"
    for group in supervisor.schedule.groups if supervisor.schedule else []:
        for i in () if group.member else group.tasks:
            reasons[supervisor.tasks[i].id] = group.lost or "there was no time"
    return {task_id: supervisor.unsuited.get(task_id) or reasons.get(task_id, unknown) for task_id, _ in tests}
