"""Candidates files: the votes of any program for the answers, so that programs can be combined.

Format: {task_id: [[{"grid": grid, "votes": number, "confidence": 0 to 1}, ...] for each test input]}, best first.
`solve --candidates` and `induce` write it, `solve --votes` reads it. No torch is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hrm_offline.answers.vote import Candidate, Pool, best
from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import read_json, write_json
from hrm_offline.data.tasks import GridError, TaskSet, parse_grid

Candidates = dict[str, list[list[Candidate]]]
Source = tuple[list[Candidate], float]  # of one test input, and its weight

# Read before any worker starts, so in about a second.
_MAX_BYTES = 2**26
# Sums and products of finite numbers stay finite.
_MAX_VALUES = 1e100


@dataclass(frozen=True)
class VotesFile:
    """A candidates file whose votes together count `weight` times as much as all of the network's own, for each test
    input. Raises `InputError` unless the weight is finite and above 0."""

    path: Path
    weight: float = 1.0

    def __post_init__(self):
        if not _is_positive(self.weight):
            raise InputError(f"{self.path}: its weight is {shown(self.weight)}, expected a finite number above 0")

    @classmethod
    def parse(cls, text: str) -> VotesFile:
        """From FILE or FILE=WEIGHT; what follows the last "=" is the weight. Raises `InputError`."""
        path, has_weight, weight = text.rpartition("=")
        if not has_weight:
            return cls(Path(text))
        try:
            return cls(Path(path), float(weight))
        except ValueError:
            raise InputError(
                f"{text}: the weight is {shown(weight)}, expected FILE or FILE=WEIGHT with a number above 0"
            ) from None


@dataclass
class Outside:
    """Votes from elsewhere: the sources of each test input that has any, by (task id, test index); the files that
    counted, with their weights; why others did not."""

    sources: dict[tuple[str, int], list[Source]] = field(default_factory=dict)
    counted: list[dict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_outside(files: Iterable[VotesFile], tasks: TaskSet) -> Outside:
    """All the votes of `files`. What is wrong with a file costs the votes for that task, or all of them where nothing
    can be read, and a warning."""
    outside = Outside()
    for file in files:
        try:
            candidates, faults = _sort_out(file.path, tasks)
        except InputError as error:
            outside.warnings.append(f"its votes are left out: {error}")
            continue
        if faults:
            outside.warnings.append(f"the votes for {len(faults)} tasks are left out, the first of them: {faults[0]}")
        voted = {
            (task_id, i): entry for task_id, entries in candidates.items() for i, entry in enumerate(entries) if entry
        }
        for key, entry in voted.items():
            outside.sources.setdefault(key, []).append((entry, file.weight))
        outside.counted.append({"file": str(file.path), "weight": file.weight, "test inputs": len(voted)})
    return outside


def merged(own: Pool, sources: Iterable[Source]) -> Pool:
    """A new pool of the network's own votes for a test input and those of others. The votes of a source together count
    its weight times as much as all own ones, shared in proportion; where there is no own vote the sources'
    votes stay as many as they are and are shared by weight."""
    pool = Pool()
    for grid, count, confidence in own.sums.values():
        pool.add(grid, count, confidence)
    voted = [(entry, weight, sum(c.count for c in entry)) for entry, weight in sources if entry]
    every, weights = sum(total for *_, total in voted), sum(weight for _, weight, _ in voted)
    for entry, weight, total in voted:
        together = own.count * weight if own.count else every * (weight / weights)
        for candidate in entry:
            count = together * (candidate.count / total)
            if count:  # not one that vanishes beside the others
                pool.add(candidate.grid, count, count * candidate.confidence)
    return pool


def top_candidates(votes: dict[tuple[str, int], Pool], test_counts: dict[str, int], count: int) -> Candidates:
    """The `count` best of every test input of the tasks in `test_counts`, none where there is no vote."""
    return {
        task_id: [best(votes.get((task_id, i), Pool()).ranking(), count) for i in range(tests)]
        for task_id, tests in test_counts.items()
    }


def write_candidates(path: str | Path, candidates: Candidates) -> None:
    """Replace a candidates file, atomically. Raises `OSError`."""
    write_json(
        path,
        {
            task_id: [[_to_json(candidate) for candidate in entry] for entry in entries]
            for task_id, entries in candidates.items()
        },
    )


def read_candidates(path: str | Path, tasks: TaskSet) -> Candidates:
    """The candidates of a file for some of the tasks (broken ones included), in file order.

    Raises `InputError` naming the file, the task, the entry and what was expected there.
    """
    candidates, faults = _sort_out(path, tasks)
    if faults:
        raise faults[0]
    return candidates


def _sort_out(path: str | Path, tasks: TaskSet) -> tuple[Candidates, list[InputError]]:
    """The candidates for those tasks whose entries are as they should be, and what is wrong with the other tasks.
    Raises `InputError` where the file has no tasks to be read."""
    raw = read_json(path, _MAX_BYTES)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, found {shown(raw)}")
    counts, candidates, faults = tasks.test_counts(), {}, []
    for task_id, entries in raw.items():
        where = f"{path}: task {shown_name(task_id)}"
        try:
            if task_id not in counts:
                raise InputError(f"{where}: is not a task of {tasks.source}")
            candidates[task_id] = _read_entries(entries, counts[task_id], where)
        except InputError as error:
            faults.append(error)
    return candidates, faults


def _read_entries(entries, count: int, where: str) -> list[list[Candidate]]:
    if not isinstance(entries, list) or len(entries) != count:
        raise InputError(f"{where}: expected a list of {count} entries, one a test input, found {shown(entries)}")
    return [_read_entry(entry, f"{where}: entry {i}") for i, entry in enumerate(entries)]


def _read_entry(entry, where: str) -> list[Candidate]:
    if not isinstance(entry, list):
        raise InputError(f"{where}: expected a list of candidates, found {shown(entry)}")
    return [_read_candidate(value, f"{where}: candidate {i}") for i, value in enumerate(entry)]


def _read_candidate(value, where: str) -> Candidate:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with grid and votes, found {shown(value)}")
    for name in ("grid", "votes"):
        if name not in value:
            raise InputError(f"{where}: has no {name}")
    votes, confidence = value["votes"], value.get("confidence", 0.0)
    if not _is_positive(votes):
        raise InputError(f"{where}: votes is {shown(votes)}, expected a finite number above 0")
    if type(confidence) not in (int, float) or not 0 <= confidence <= 1:
        raise InputError(f"{where}: confidence is {shown(confidence)}, expected a number from 0 to 1")
    try:
        return Candidate(parse_grid(value["grid"]), votes, float(confidence))
    except GridError as error:
        raise InputError(f"{where}: grid: {error}") from None


def _is_positive(value) -> bool:
    return type(value) in (int, float) and 0 < value <= _MAX_VALUES


def _to_json(candidate: Candidate) -> dict:
    return {"grid": candidate.grid.tolist(), "votes": candidate.count, "confidence": candidate.confidence}
