"""Make one small JSON file and one Markdown page of the rows of a first contact. Standard library only."""

from __future__ import annotations

from itertools import groupby

from tools.bench.contact.plan import STAGES
from tools.bench.contact.runner import rows_of, state_of
from tools.support.run_lines import RunLines

_LEFT_OUT = ("stage", "kind", "what")  # of a row's columns: they are its place in the result


def result_of(lines: RunLines) -> dict:
    """Return all that was found as JSON values. Of the tests only those that did not pass are kept."""
    begun = [line for line in lines.lines if line.get("kind") == "begin"]
    machines = [line for line in lines.lines if line.get("what") == "machine"]
    rows = {stage.name: _told(rows_of(lines, stage.name)) for stage in STAGES}
    return {
        "smoke": any(line["smoke"] for line in begun),
        "commits": sorted({line["commit"] for line in begun}),
        "began": min((line["time"] for line in begun), default=None),
        "machine": _values(machines[-1]) if machines else {},
        "stages": [_stage(lines, stage.name) for stage in STAGES],
        "rows": {name: of_stage for name, of_stage in rows.items() if of_stage},
    }


def _told(rows: list[dict]) -> list[dict]:
    """Return the rows with "what" they are first, without tests that passed."""
    return [{"what": row["what"]} | _values(row) for row in rows if row.get("outcome") != "passed"]


def _values(line: dict) -> dict:
    return {name: value for name, value in line.items() if name not in _LEFT_OUT}


def _stage(lines: RunLines, name: str) -> dict:
    ends = [line for line in lines.lines if line.get("stage") == name and line["kind"] == "end"]
    end = ends[-1] if ends else {}
    return {
        "name": name,
        "state": state_of(lines, name) or "not run",
        "seconds": end.get("seconds"),
        "reason": end.get("reason"),
    }


def checks_of(result: dict) -> list[dict]:
    """Return the list of PASS and FAIL: the checks of all stages, in order."""
    return [row | {"stage": name} for name, rows in result["rows"].items() for row in rows if row["what"] == "check"]


def is_clean(result: dict) -> bool:
    """Return whether no check and no stage has failed so far."""
    bad = ("failed", "stopped", "lost")
    stopped_early = [stage for stage in result["stages"] if stage["state"] in bad]
    return not stopped_early and all(check["passed"] for check in checks_of(result))


def as_markdown(result: dict) -> str:
    """Return the result as a page: the list of PASS and FAIL, the stages, then every row of every stage in tables."""
    machine = result["machine"]
    parts = [
        f"# First contact: {machine.get('chip', 'unknown chip')}\n",
        *(["A SMOKE RUN: these numbers mean nothing.\n"] if result["smoke"] else []),
        f"`python tools/bench/first_contact.py`, commit {', '.join(result['commits'])}\n",
        *(f"- {name}: {value}" for name, value in machine.items()),
        "\n## Checks\n",
        *(_check_in_words(check) for check in checks_of(result)),
        "\n## Stages\n",
        _table(result["stages"]),
    ]
    for name, rows in result["rows"].items():
        shown = sorted((row for row in rows if row["what"] not in ("check", "machine")), key=lambda row: row["what"])
        for what, group in groupby(shown, key=lambda row: row["what"]):
            parts += [f"## {name}: {what}\n", _table([{k: v for k, v in row.items() if k != "what"} for row in group])]
    return "\n".join(parts)


def _check_in_words(check: dict) -> str:
    return f"- {'PASS' if check['passed'] else 'FAIL'} {check['stage']}, {check['name']}: {check['detail']}"


def _table(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
