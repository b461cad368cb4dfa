"""Candidates files: the votes of any program for the answers, so that programs can be combined.

Format: {task_id: [[{"grid": grid, "votes": number, "confidence": 0 to 1}, ...] for each test input]}, best first.
`solve --candidates` and `induce` write such a file, `solve --votes` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hrm_offline.answers.vote import Candidate, Pool, TestKey, best, key_of
from hrm_offline.common.errors import InputError, shown, shown_name
from hrm_offline.common.files import read_json, write_json
from hrm_offline.data.tasks import GridError, TaskSet, parse_grid

Candidates = dict[str, list[list[Candidate]]]  # {task_id: [candidates for each test input]}
Source = tuple[list[Candidate], float]  # the candidates that one file has for a test input, and the file's weight

# Files are read before any worker starts, so reading one may take about a second.
_MAX_BYTES = 2**26
# A limit for votes and weights, so that their sums and products stay finite.
_MAX_VALUE = 1e100


@dataclass(frozen=True)
class VotesFile:
    """A candidates file with its weight.

    For each test input, all votes of the file together count `weight` times as much as all of the network's own.
    Raises `InputError` unless the weight is finite and above 0.
    """

    path: Path
    weight: float = 1.0

    def __post_init__(self):
        if not _is_positive(self.weight):
            raise InputError(f"{self.path}: its weight is {shown(self.weight)}, expected a finite number above 0")

    @classmethod
    def parse(cls, text: str) -> VotesFile:
        """Read FILE or FILE=WEIGHT. The weight is the text after the last "=". Raises `InputError`.

        A file's name may have a "=" itself: a text that is the path of a file is no FILE=WEIGHT, unless FILE is there.
        """
        path, has_weight, weight = text.rpartition("=")
        if not has_weight or (os.path.isfile(text) and not os.path.isfile(path)):
            return cls(Path(text))
        try:
            return cls(Path(path), float(weight))
        except ValueError:
            raise InputError(
                f"{text}: the weight is {shown(weight)}, expected FILE or FILE=WEIGHT with a number above 0"
            ) from None


@dataclass
class Outside:
    """Votes from elsewhere.

    `sources` are the votes by test input, `counted` says which files they came from, and `warnings` which votes were
    left out and why.
    """

    sources: dict[TestKey, list[Source]] = field(default_factory=dict)
    counted: list[dict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_outside(files: Iterable[VotesFile], tasks: TaskSet) -> Outside:
    """Read the votes of all files.

    A fault costs the votes of its file for that task, or all votes of the file where it cannot be read at all. Each
    file with a fault gets a warning.
    """
    outside = Outside()
    for file in files:
        try:
            candidates, faults = _sort_out(file.path, tasks)
        except InputError as error:
            outside.warnings.append(f"its votes are left out: {error}")
            continue
        if faults:
            outside.warnings.append(f"the votes for {len(faults)} tasks are left out, the first of them: {faults[0]}")
        test_inputs = 0
        for task_id, entries in candidates.items():
            for i, entry in enumerate(entries):
                if entry:
                    outside.sources.setdefault((task_id, i), []).append((entry, file.weight))
                    test_inputs += 1
        outside.counted.append({"file": str(file.path), "weight": file.weight, "test inputs": test_inputs})
    return outside


def merged(own: Pool, sources: Iterable[Source]) -> Pool:
    """Return a new pool of the network's own votes for a test input and the votes of other sources.

    All votes of a source together count its weight times as much as all own votes. Where there is no own vote, the
    votes of all sources stay as many as they are, and the sources share them by weight. A source's candidates share
    its votes in proportion to their own.
    """
    pool = Pool(scores=own.scores)
    for grid, count, confidence in own.sums.values():
        pool.add(grid, count, confidence)
    voting = [(candidates, weight) for candidates, weight in sources if candidates]
    totals = [sum(candidate.count for candidate in candidates) for candidates, _ in voting]
    all_votes, all_weights = sum(totals), sum(weight for _, weight in voting)
    for (candidates, weight), total in zip(voting, totals):
        votes = own.count * weight if own.count else all_votes * (weight / all_weights)
        for candidate in candidates:
            count = votes * (candidate.count / total)
            if count:  # it may be too small for a float beside the others
                pool.add(candidate.grid, count, count * candidate.confidence)
                key = key_of(candidate.grid)
                pool.elsewhere[key] = pool.elsewhere.get(key, 0.0) + count
    return pool


def top_candidates(votes: dict[TestKey, Pool], test_counts: dict[str, int], count: int) -> Candidates:
    """Return the `count` best candidates for every test input, none where there is no vote.

    `test_counts` is the number of test inputs of each task by id.
    """
    return {
        task_id: [best(votes.get((task_id, i), Pool()).ranking(), count) for i in range(tests)]
        for task_id, tests in test_counts.items()
    }


def write_candidates(path: str | Path, candidates: Candidates) -> None:
    """Write a candidates file, atomically, in place of one that is there. Raises `OSError`."""
    write_json(path, {task_id: entries_of(entries) for task_id, entries in candidates.items()})


def read_candidates(path: str | Path, tasks: TaskSet) -> Candidates:
    """Read the candidates of a file, which may be for some of the tasks only (bad ones included), in file order.

    Raises `InputError` that names the file, the task, the entry and what was expected there.
    """
    candidates, faults = _sort_out(path, tasks)
    if faults:
        raise faults[0]
    return candidates


def _sort_out(path: str | Path, tasks: TaskSet) -> tuple[Candidates, list[InputError]]:
    """Return the candidates of the tasks without a fault, and the faults of the others.

    Raises `InputError` where the file as a whole cannot be read.
    """
    raw = read_json(path, _MAX_BYTES)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, found {shown(raw)}")
    counts, candidates, faults = tasks.test_counts(), {}, []
    for task_id, entries in raw.items():
        where = f"{path}: task {shown_name(task_id)}"
        try:
            if task_id not in counts:
                raise InputError(f"{where}: is not a task of {tasks.source}")
            candidates[task_id] = read_entries(entries, counts[task_id], where)
        except InputError as error:
            faults.append(error)
    return candidates, faults


def entries_of(candidates: Iterable[Iterable[Candidate]]) -> list[list[dict]]:
    """Return the candidates for a task's test inputs as a candidates file has them."""
    return [[_to_json(candidate) for candidate in entry] for entry in candidates]


def read_entries(entries, count: int, where: str) -> list[list[Candidate]]:
    """Return the candidates for each of a task's `count` test inputs, given as a candidates file has them.

    Raises `InputError` that begins with `where` and says what was expected.
    """
    if not isinstance(entries, list) or len(entries) != count:
        raise InputError(f"{where}: expected a list of {count} entries, one per test input, found {shown(entries)}")
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
    return type(value) in (int, float) and 0 < value <= _MAX_VALUE


def _to_json(candidate: Candidate) -> dict:
    return {"grid": candidate.grid.tolist(), "votes": candidate.count, "confidence": candidate.confidence}
