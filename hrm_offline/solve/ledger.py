"""Collect votes, and keep the submission that they make on disk.

Votes are kept by the number of the network that gave them (see `hrm_offline.solve.members`). All networks on the same
tasks vote together, and a candidate's score is the mean over them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hrm_offline.answers.candidates import Outside, Source, merged
from hrm_offline.answers.submission import Submission, build_submission
from hrm_offline.answers.vote import (
    BatchKey,
    Candidate,
    Pool,
    Tally,
    TestKey,
    Votes,
    combine_scores,
    key_of,
)
from hrm_offline.common.files import write_json
from hrm_offline.data.tasks import Task

# Who may have a candidate.
NETWORK, INDUCTION, ELSEWHERE, FALLBACK = "network", "induction", "elsewhere", "fallback"
# All induced votes for a test input count so many times as much as all of the network.
INDUCED_WEIGHT = 2.0

_WRITE_SECONDS = 5.0  # between two writes of the submission
_WRITING_SHARE = 0.02  # of the time may go into writing
_LOCK_SECONDS = 5.0


def test_keys(tasks: tuple[Task, ...], members: tuple[int, ...]) -> list[TestKey]:
    """Return the test inputs of the tasks `members`, in the order in which a group's votes number them."""
    return [(tasks[i].id, test) for i in members for test in range(len(tasks[i].test))]


class Ledger:
    """Votes by group, and the submission that they make together with the votes from `outside` and of induction.

    `path` is written atomically. A failure to write (a full disk) leaves the old file and is told to `say`. Several
    threads may use a ledger. A thread that waits for the lock for seconds goes on without the lock: at the end of the
    budget an answer is worth more than order.
    """

    def __init__(
        self, fallback: Submission, path: Path, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ):
        self.fallback, self.path, self.say, self.clock = fallback, path, say, clock
        self.outside = Outside()
        self.induced: dict[TestKey, list[Candidate]] = {}  # the answers of programs, best first
        self.keys: list[list[TestKey]] = []  # the test inputs of each group of tasks
        self.tally = Tally()
        self.pooled: dict[int, dict[int, Pool]] = {}  # of all members, by the first member's number
        # By the number of a network, then by test input: scores of the grids that it judged, by `key_of`.
        self.scores: dict[int, dict[int, dict[tuple, float]]] = {}
        self.lock = threading.Lock()
        self.is_held = False  # see `unwritten`
        self.dirty = False
        self.due = 0.0

    def reset(self, keys: list[list[TestKey]]) -> None:
        """Forget all votes and start with new groups, given by the test inputs of each."""
        with self._locked():
            self.keys, self.tally, self.pooled, self.scores, self.dirty = keys, Tally(), {}, {}, True

    def add(self, key: BatchKey, votes: Votes) -> None:
        with self._locked():
            self.tally.add(key, votes)
            self.pooled.pop(self._first(key[0]), None)
            self.dirty = True

    def add_scores(self, group: int, votes: Votes) -> None:
        """Take in the scores of judged candidates (see `Judged`)."""
        with self._locked():
            judged = self.scores.setdefault(group, {})
            for i, test in enumerate(votes.tests.tolist()):
                judged.setdefault(test, {})[key_of(votes.grid(i))] = float(votes.confidence[i])
            self.pooled.pop(self._first(group), None)
            self.dirty = True

    def add_induced(self, task_id: str, entries: list[list[Candidate]]) -> None:
        """Take in the candidates that induction has for each test input of a task, which may be none."""
        with self._locked():
            self.induced |= {(task_id, i): entry for i, entry in enumerate(entries) if entry}
            self.dirty = True

    def unjudged(self, group: int) -> list[tuple[int, np.ndarray]]:
        """Return the best candidates that a group's network has not judged, each with the index of its test input.

        Induced candidates are not among them, so that the network answers the same beside induction as alone.
        """
        with self._locked():
            pools, judged = self._joined_by(self.outside.sources), self.scores.get(group, {})
            tests = enumerate(self.keys[self._first(group)])
            return [(test, g) for test, key in tests for g in pools.get(key, Pool()).unjudged(judged.get(test, {}))]

    def votes(self) -> dict[TestKey, Pool]:
        """Return the pool of every test input that the network has voted on."""
        with self._locked():
            return self._votes()

    def submission(self) -> Submission:
        """Return the best answers to every test input."""
        with self._locked():
            return self._submission()

    @contextmanager
    def unwritten(self) -> Iterator[None]:
        """Leave the file as it is inside a `with` block, in which votes of an earlier run come back."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False

    def write(self) -> None:
        """Write the submission."""
        if self.is_held:
            return
        before = self.clock()
        with self._locked():
            self.dirty = False
            try:
                write_json(self.path, self._submission())
            except OSError as error:
                self.say(f"WARNING: {self.path}: keeps its last state, it cannot be written ({error})")
        self.due = self.clock() + max(_WRITE_SECONDS, (self.clock() - before) / _WRITING_SHARE)

    def write_if_due(self) -> None:
        if self.dirty and self.clock() >= self.due:
            self.write()

    def alone(self) -> dict[str, Submission]:
        """Return the submissions that the network and induction would make alone, by `NETWORK` and `INDUCTION`."""
        with self._locked():
            return {name: build_submission(self.fallback, votes) for name, votes in self._voters().items()}

    def origins(self) -> dict[str, list[list[str]]]:
        """Return for each test input of each task whose candidate each attempt is, in words."""
        with self._locked():
            voters, submission = self._voters(), self._submission()
            for key, sources in self.outside.sources.items():
                voters.setdefault(ELSEWHERE, {})[key] = merged(Pool(), sources)
        return {
            task_id: [
                [_origin(grid, (task_id, i), voters) for grid in entry.values()] for i, entry in enumerate(entries)
            ]
            for task_id, entries in submission.items()
        }

    def _submission(self) -> Submission:
        return build_submission(self.fallback, self._all_votes())

    def _all_votes(self) -> dict[TestKey, Pool]:
        """Return the pool of every test input with votes of the network, from elsewhere or of induction."""
        sources = {key: list(found) for key, found in self.outside.sources.items()}
        for key, candidates in self.induced.items():
            sources.setdefault(key, []).append((candidates, INDUCED_WEIGHT))
        return self._joined_by(sources)

    def _joined_by(self, sources: dict[TestKey, list[Source]]) -> dict[TestKey, Pool]:
        """Return the pools of the network, with the votes of other sources added."""
        own = self._votes()
        return own | {key: merged(own.get(key, Pool()), found) for key, found in sources.items()}

    def _voters(self) -> dict[str, dict[TestKey, Pool]]:
        """Return the votes of the network and of induction, each for itself."""
        induced = {key: merged(Pool(), [(candidates, 1.0)]) for key, candidates in self.induced.items()}
        return {NETWORK: self._votes(), INDUCTION: induced}

    def _votes(self) -> dict[TestKey, Pool]:
        votes = {}
        for group, keys in enumerate(self.keys):
            if group not in self.pooled:
                self.pooled[group] = self._pools(group)
            votes |= {keys[test]: pool for test, pool in self.pooled[group].items()}
        return votes

    def _pools(self, group: int) -> dict[int, Pool]:
        """Return the votes and scores of all members of a group by test input."""
        numbers = sorted(n for n in {key[0] for key in self.tally.votes} | set(self.scores) if self._first(n) == group)
        pools: dict[int, Pool] = {}
        for number in numbers:
            for test, votes in self.tally.pools(number).items():
                pools.setdefault(test, Pool()).take(votes)
        scores = [self.scores.get(number, {}) for number in numbers]
        for test in {test for judged in scores for test in judged}:
            pools.setdefault(test, Pool()).scores = combine_scores([judged.get(test, {}) for judged in scores])
        return pools

    def _first(self, number: int) -> int:
        """Return the number of the first member on the same tasks as a network."""
        return number % len(self.keys)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        taken = self.lock.acquire(timeout=_LOCK_SECONDS)
        try:
            yield
        finally:
            if taken:
                self.lock.release()


def _origin(grid: list, key: TestKey, voters: dict[str, dict[TestKey, Pool]]) -> str:
    """Return the names of all who have a grid among their candidates for a test input."""
    wanted = key_of(np.array(grid, dtype=np.uint8))
    found = [name for name, pools in voters.items() if key in pools and wanted in pools[key].sums]
    return " and ".join(found) or FALLBACK
