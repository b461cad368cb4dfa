"""What is to be done next, and until when: groups of tasks, adapted and then predicted round by round."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hrm_offline.answers.vote import BatchKey
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import Task
from hrm_offline.predict.plan import BASE_ROUNDS, PredictionPlan, tokens_of
from hrm_offline.solve.messages import Adapt, Predict

GROUPS_A_WORKER = 2  # so that a worker that falls behind can leave one to another
_BATCHES_A_JOB = 16
_MAX_FAILURES = 3

# Base rounds are given at least this much more time than the measured speed asks for. Time for others, which may be cut
# short, counts towards it.
_SAFETY = 1.15
_FADING = 0.95
# Shares of the time for recoloured rounds, and for all rounds, at the most: more votes are worth less than learning.
_EXTRA_SHARE, _PREDICT_SHARE = 0.3, 0.5

# Right after its adaptation a group's test inputs get one vote each; the rest comes when all groups are adapted.
_FIRST_ROUND = 1
_UNKEPT = "its network could not be saved, and another took its place in memory"


@dataclass
class Group:
    """Some tasks (indices in file order) that share a network, and how far they are.

    `outstanding` holds the numbers of each round's batches without votes. `home` is the only worker that has the
    adapted network, None where it is on disk.
    """

    index: int
    tasks: tuple[int, ...]
    plan: PredictionPlan
    cost: float
    outstanding: list[set[int]]
    report: dict | None = None
    home: int | None = None
    failures: int = 0
    parts: int = 1
    lr_scale: float = 1.0
    lost: str | None = None  # why nothing more is tried

    @property
    def waits(self) -> bool:
        """Whether it has to be adapted before anything can be predicted."""
        return self.report is None and self.lost is None and any(self.outstanding)

    def tokens(self, base: bool) -> int:
        """Canvas tokens to be predicted, of the base rounds or of the others."""
        rounds = range(len(self.outstanding))[:BASE_ROUNDS] if base else range(BASE_ROUNDS, len(self.outstanding))
        return sum(tokens_of(self.plan.rounds[r][b]) for r in rounds for b in self.outstanding[r])


@dataclass
class Speed:
    """How fast a worker is: seconds to predict a canvas token, and how much slower it has become."""

    seconds_per_token: float
    slowdown: float = 1.0
    seconds: float = 0.0
    tokens: float = 0.0

    def measured(self, seconds: float, tokens: int) -> None:
        """A batch took so long: a mean in which the last ones weigh most takes the place of the first guess."""
        self.seconds, self.tokens = _FADING * self.seconds + seconds, _FADING * self.tokens + tokens
        self.seconds_per_token, self.slowdown = self.seconds / self.tokens, 1.0


def split_tasks(tasks: tuple[Task, ...], puzzles: PuzzleSet, groups: int) -> list[tuple[int, ...]]:
    """The tasks in `groups` groups of near-equal cost of a visit: the dearest first, each to the group that
    has least. Dearest groups first, tasks of a group in file order."""
    sides = puzzles.demonstrations.rooms.max(axis=1).astype(np.int64) + 1
    cost = np.bincount(puzzles.demonstrations.puzzles, weights=sides**2, minlength=len(tasks))
    groups = min(groups, len(tasks))
    members: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros(groups)
    for task in np.argsort(-cost, kind="stable").tolist():
        least = int(sums.argmin())
        members[least].append(task)
        sums[least] += cost[task]
    return [tuple(sorted(members[g])) for g in np.argsort(-sums, kind="stable").tolist()]


@dataclass
class Schedule:
    """The jobs of a run. `flying` are those given out, by worker; `speeds` the workers that are alive.

    Times are on the workers' clock. The caller renews `end`, when all computing must have ended, and `workers`, how
    many there are or will be soon. With `sharing` "joint" all workers learn one group together; with
    "per-task" the groups are many and small (see `Crew`).
    """

    groups: list[Group]
    end: float
    sharing: str = "sharded"
    workers: int = 1
    flying: dict[int, Adapt | Predict] = field(default_factory=dict)
    speeds: dict[int, Speed] = field(default_factory=dict)
    loaded: dict[int, int] = field(default_factory=dict)  # the group whose network each worker has at hand
    spent: set[int] = field(default_factory=set)  # workers for whom no batch ends in time any more
    began: float | None = None
    begun_with: tuple[int, int] = (0, 0)  # canvas tokens to predict then: of base rounds, of others
    overruns: list[float] = field(default_factory=list)  # seconds by which adaptations missed their ends

    @classmethod
    def of_tasks(
        cls,
        tasks: tuple[Task, ...],
        model: ModelConfig,
        recipe: AdaptConfig,
        seed: int,
        groups: list[tuple[int, ...]],
        end: float,
        sharing: str,
    ) -> Schedule:
        made = []
        for index, members in enumerate(groups):
            puzzles = PuzzleSet(tuple(tasks[i] for i in members), recipe, model, seed)
            plan = PredictionPlan(puzzles, recipe)
            cost = float(sum(len(bucket.members) * bucket.area for bucket in puzzles.buckets(puzzles.demonstrations)))
            made.append(Group(index, members, plan, cost, [set(range(len(batches))) for batches in plan.rounds]))
        return cls(made, end, sharing)

    @property
    def has_work(self) -> bool:
        """Whether a group has to be adapted, or predictions of an adapted one are missing."""
        return any(
            group.waits
            or (
                group.report is not None
                and group.lost is None
                and any(group.outstanding)
                and not self._is_unlearned(group)
            )
            for group in self.groups
        )

    def next_job(self, worker: int, now: float) -> Adapt | Predict | None:
        """What a free worker should do: a first vote for adapted groups, then adapt another, then more votes."""
        job = self._prediction(worker, True) or self._adaptation(worker, now) or self._prediction(worker, False)
        if job is not None:
            self.flying[worker] = job
        return job

    def joint_jobs(self, now: float, meeting: str) -> dict[int, Adapt]:
        """One group's adaptation by all workers together; none while some are busy or no group waits."""
        group = next((group for group in self.groups if group.waits), None)
        if group is None or self.flying or len(self.speeds) < 2:
            return {}
        size, until = len(self.speeds), self._slice(group, now)
        jobs = {
            worker: Adapt(group.index, group.tasks, until, group.parts, group.lr_scale, rank, size, meeting)
            for rank, worker in enumerate(sorted(self.speeds))
        }
        self.flying |= jobs
        return jobs

    def new_until(self, worker: int) -> float | None:
        """When a worker's adaptation should end by what is known now, if that has changed."""
        job = self.flying.get(worker)
        if not isinstance(job, Adapt) or any(g.waits and not self._is_flying(g) for g in self.groups):
            return None
        until = self.adaptation_end()
        if abs(until - job.until) < max(0.5, 0.005 * (self.end - self.began)):
            return None
        job = Adapt(**(vars(job) | {"until": until}))
        self.flying[worker] = job
        return until

    def adapted(self, group: int, worker: int, report: dict, saved: bool) -> None:
        """A group's adaptation is over."""
        for other in self.groups:
            if other.home == worker:
                other.home, other.lost = None, _UNKEPT
        group = self.groups[group]
        group.report, group.home = report, None if saved else worker
        self.loaded[worker] = group.index

    def voted(self, key: BatchKey) -> None:
        group, number, batch = key
        self.groups[group].outstanding[number].discard(batch)

    def finished(self, worker: int, now: float) -> None:
        """A worker's job has ended by itself. One that leaves batches over has no time for another."""
        job = self.flying.pop(worker, None)
        if isinstance(job, Adapt):
            self.overruns.append(max(0.0, now - job.until))
        if isinstance(job, Predict):
            self.loaded[worker] = job.group
            if not self.groups[job.group].outstanding[job.round].isdisjoint(job.batches):
                self.spent.add(worker)

    def gone(self, worker: int) -> Adapt | Predict | None:
        """A worker has ended; returns the job it leaves undone. Networks that only it had are to be learned again."""
        self.speeds.pop(worker, None)
        self.loaded.pop(worker, None)
        self.spent.discard(worker)
        for group in self.groups:
            if group.home == worker:
                group.report, group.home = None, None
        return self.flying.pop(worker, None)

    def failed(self, group: int, kind: str, reason: str) -> None:
        """An attempt at a group has failed: the next computes in smaller parts, or learns more slowly."""
        group = self.groups[group]
        group.failures += 1
        if kind == "memory":
            group.parts *= 2
        if kind == "diverged":
            group.lr_scale /= 2
        if group.failures >= _MAX_FAILURES:
            group.lost = reason

    def adaptation_end(self) -> float:
        """When the last adaptation should end so that prediction gets its share, less what it has had."""
        span, seconds = self.end - self.began, self._seconds_per_token()
        base, extra = self.begun_with
        both = seconds * base + min(seconds * extra, _EXTRA_SHARE * span)
        share = min(max(_SAFETY * seconds * base, both), _PREDICT_SHARE * span)
        return self.end - max(0.0, share - seconds * (base + extra - sum(self._tokens())))

    def _seconds_per_token(self) -> float:
        """Seconds in which all workers together predict a canvas token."""
        speeds = [speed.seconds_per_token * speed.slowdown for speed in self.speeds.values()]
        return sum(speeds) / max(1, len(speeds)) / max(1, self.workers)

    def _adaptation(self, worker: int, now: float) -> Adapt | None:
        if self.sharing == "joint" and self.workers > 1:
            return None
        waiting = [group for group in self.groups if group.waits and not self._is_flying(group)]
        if not waiting:
            return None
        group = waiting[0]
        return Adapt(group.index, group.tasks, self._slice(group, now), group.parts, group.lr_scale)

    def _slice(self, group: Group, now: float) -> float:
        """When a group's adaptation should end: its share, by cost, of the time that all workers have left for
        the groups that wait, less what saving and last steps cost beyond the ends that were set; where that time has
        run out, a share of half of what is left at all."""
        if self.began is None:
            self.began, self.begun_with = now, self._tokens()
        end = self.adaptation_end()
        waiting = [other for other in self.groups if other.waits and not self._is_flying(other)]
        share = group.cost / sum(other.cost for other in waiting)
        busy = [job.until for job in self.flying.values() if isinstance(job, Adapt)]
        free = max(1, self.workers - len(busy))
        room = free * max(0.0, end - now) + sum(max(0.0, end - max(now, until)) for until in busy)
        room -= len(waiting) * sum(self.overruns) / max(1, len(self.overruns))
        least = (1 - _PREDICT_SHARE) * (self.end - now) * share
        return max(min(end, now + room * share), now + least)

    def _tokens(self) -> tuple[int, int]:
        """Canvas tokens still to be predicted, of base rounds and of others."""
        groups = [group for group in self.groups if group.lost is None]
        return sum(group.tokens(True) for group in groups), sum(group.tokens(False) for group in groups)

    def _first_rounds(self, group: Group) -> int:
        """How many rounds come right after a group's adaptation: all base rounds of a network that is one of many, or
        that only its worker has, if there is time for those of all groups."""
        hurried = self._seconds_per_token() * self.begun_with[0] > _PREDICT_SHARE * (self.end - (self.began or 0.0))
        alone = self.sharing == "per-task" or group.home is not None
        return BASE_ROUNDS if alone and not hurried else _FIRST_ROUND

    def _prediction(self, worker: int, first: bool) -> Predict | None:
        """The first unclaimed batches of the earliest round, of the group at hand where rounds are alike; only
        rounds that come right after an adaptation if `first` is set."""
        if worker in self.spent:
            return None
        best = None
        for group in self.groups:
            if group.report is None or self._is_unlearned(group) or group.lost or group.home not in (None, worker):
                continue
            for number in range(len(group.outstanding))[: self._first_rounds(group) if first else None]:
                free = sorted(group.outstanding[number] - self._claimed(group, number))
                if free:
                    urgency = (_class_of(number), group.index != self.loaded.get(worker), number, group.index)
                    best = min(best or (urgency, group, free), (urgency, group, free), key=lambda found: found[0])
                    break
        if best is None:
            return None
        (_, _, number, _), group, free = best
        return Predict(group.index, group.tasks, number, tuple(free[:_BATCHES_A_JOB]), self.end)

    def _claimed(self, group: Group, number: int) -> set[int]:
        jobs = [job for job in self.flying.values() if isinstance(job, Predict)]
        return {batch for job in jobs if (job.group, job.round) == (group.index, number) for batch in job.batches}

    def _is_flying(self, group: Group) -> bool:
        return any(isinstance(job, Adapt) and job.group == group.index for job in self.flying.values())

    def _is_unlearned(self, group: Group) -> bool:
        """Whether there was no time for a single step: what is predicted then is worth less than the fallback."""
        return group.report is not None and group.report["steps"] == 0


def _class_of(number: int) -> int:
    """Rounds of one class are worth the same: each base round, then recoloured ones by four."""
    return number if number < BASE_ROUNDS else BASE_ROUNDS + (number - BASE_ROUNDS) // 4
