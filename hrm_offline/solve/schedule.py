"""Decide which job a free worker gets, and until when: groups of tasks are adapted and then predicted, round by round.

A group is a set of tasks that share one network. After its adaptation, its test inputs are predicted in rounds of views
(see `PredictionPlan`). Adaptation gets the time that prediction does not need, as long as the recipe's visits last.
Time beyond that goes to further members: networks of other seeds that learn the same tasks and vote too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hrm_offline.answers.vote import BatchKey
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import Task
from hrm_offline.predict.plan import BASE_ROUNDS, ROWS_PER_STEP, PredictionPlan
from hrm_offline.solve.members import Roster
from hrm_offline.solve.messages import Adapt, Judge, Predict
from hrm_offline.solve.start import task_costs

_BATCHES_PER_JOB = 16
_MAX_FAILURES = 3
# Judging only betters the order of answers that are there, so it may cost fewer workers. The first one may have been
# killed from outside.
_MAX_JUDGING_FAILURES = 2

# The base rounds are planned with this much more time than the measured speed asks for. Time for extra rounds counts
# towards the margin, since these rounds may be cut short.
_SAFETY = 1.15
# Judging candidates takes about so much of the time that predicting the base rounds takes.
_JUDGING_SHARE = 0.75
_NEVER = 2**31
_FADING = 0.95  # weight of a worker's earlier batches in its measured speed, per further batch
# The most time for the extra rounds, and for all rounds, as shares: beyond that, learning is worth more than votes.
MAX_EXTRA_SHARE, MAX_PREDICT_SHARE = 0.3, 0.5
# A new end for an adaptation is sent only if it differs by this share of the run, and by half a second.
_MIN_MOVE_SHARE, _MIN_MOVE_SECONDS = 0.005, 0.5

# Right after its adaptation a group predicts this many rounds. The others follow when all groups are adapted.
_FIRST_ROUND = 1
_UNKEPT = "its network could not be saved, and another took its place in memory"


@dataclass
class Group:
    """Tasks that share a network, and how far they are.

    `index` is the network's number (see `solve.members`). `tasks` are indices in file order. `plan` lists the
    predictions. `cost` is the canvas area of all demonstrations, in cells. `outstanding` holds, for each round, the
    numbers of the batches that have no votes yet. `report` is the adaptation's report, or None before the adaptation.
    `home` is the worker that alone has the adapted network, or None if the network is on disk. `failures` counts the
    attempts that failed, and `furthest` is the last step that any of them came to. The next attempt splits each batch
    into `parts`, and multiplies the learning rate by `lr_scale`. `lost` says why nothing more is tried. `judged` is how
    many rounds had all votes when candidates were last judged, and `judging_failures` how many workers have failed at
    that. `member` says which of the networks on these tasks this is: 0 is the first, the others are further members,
    which are tried once.
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
    lost: str | None = None
    judged: int = 0
    judging_failures: int = 0
    furthest: int = 0
    member: int = 0

    @property
    def complete_rounds(self) -> int:
        """Return how many rounds, from the first on, have all their votes."""
        return next((number for number, open_ in enumerate(self.outstanding) if open_), len(self.outstanding))

    @property
    def waits(self) -> bool:
        """Return whether the first network on the group's tasks waits for its adaptation."""
        return not self.member and self.is_untried

    @property
    def is_untried(self) -> bool:
        """Return whether the network is still to be adapted."""
        return self.report is None and self.lost is None and any(self.outstanding)

    @property
    def has_votes(self) -> bool:
        """Return whether any batch has its votes."""
        return any(len(open_) < len(batches) for open_, batches in zip(self.outstanding, self.plan.rounds))

    @property
    def has_base(self) -> bool:
        """Return whether the base rounds have all their votes."""
        return self.complete_rounds >= min(BASE_ROUNDS, len(self.outstanding))

    @property
    def is_whole(self) -> bool:
        """Return whether the adaptation has made all steps of the recipe, in a time that is known."""
        report = self.report or {}
        return 0 < report.get("planned_steps", 0) <= report.get("steps", 0) and "seconds" in report

    def prediction_cost(self, base: bool) -> int:
        """Return the cost of the base rounds or of the extra ones, as far as they are still to be predicted."""
        all_rounds = range(len(self.outstanding))
        rounds = all_rounds[:BASE_ROUNDS] if base else all_rounds[BASE_ROUNDS:]
        return sum(self.plan.cost_of(self.plan.rounds[r][b]) for r in rounds for b in self.outstanding[r])


@dataclass
class Speed:
    """How fast a worker predicts.

    `seconds_per_cost` is the time per unit of a batch's cost (see `PredictionPlan.cost_of`). `slowdown` says how many
    times slower training steps have become since that was measured. `seconds` and `cost` are fading sums over the
    batches so far.
    """

    seconds_per_cost: float
    slowdown: float = 1.0
    seconds: float = 0.0
    cost: float = 0.0

    def measured(self, seconds: float, cost: int) -> None:
        """Take in the time of one batch. The mean over batches, in which the last weigh most, replaces the guess."""
        self.seconds, self.cost = _FADING * self.seconds + seconds, _FADING * self.cost + cost
        self.seconds_per_cost, self.slowdown = self.seconds / self.cost, 1.0


def reserved_seconds(base: float, extra: float, span: float, judges: bool) -> float:
    """Return the seconds of `span` that are kept for prediction.

    `base` and `extra` are the seconds that the base rounds and the extra rounds take; `judges` says whether the network
    judges candidates too.
    """
    base, extra = judged_seconds(base, judges), min(extra, MAX_EXTRA_SHARE * span)
    wanted = max(_SAFETY * base, base + extra)  # the extra rounds are a margin for the base rounds
    return min(wanted, MAX_PREDICT_SHARE * span)


def judged_seconds(base: float, judges: bool) -> float:
    """Return the seconds of the base rounds with the judging of their candidates."""
    return base * (1 + _JUDGING_SHARE) if judges else base


@dataclass
class Schedule:
    """The jobs of a run.

    Times are in seconds on the workers' clock. `end` is when all computing must have ended, and `workers` is how many
    workers there are or will be soon; the caller renews both. `flying` holds the jobs that were given out, by worker.
    `speeds` has an entry for each worker that is alive. `loaded` is the group whose network each worker has in memory.
    `spent` are workers for whom no further batch ends in time. With `sharing` "joint" all workers learn one group
    together. With "per-task" each task is a group. `began` is when the first adaptation was given out, and `begun_with`
    is the cost of the predictions at that time, of base rounds and of extra ones. `overruns` are the seconds by
    which adaptations missed their ends. `unjudged` returns the candidates of a group that are to be judged, or is None
    for a network that cannot judge. `make_group` makes the group of a number (see `Roster`), and there may be `most`
    groups, further members included. `has_room` says whether the machine has room for another network.
    """

    groups: list[Group]
    end: float
    sharing: str = "sharded"
    workers: int = 1
    flying: dict[int, Adapt | Predict | Judge] = field(default_factory=dict)
    speeds: dict[int, Speed] = field(default_factory=dict)
    loaded: dict[int, int] = field(default_factory=dict)
    spent: set[int] = field(default_factory=set)
    began: float | None = None
    begun_with: tuple[int, int] = (0, 0)
    overruns: list[float] = field(default_factory=list)
    unjudged: Callable[[int], list[tuple[int, np.ndarray]]] | None = None
    make_group: Callable[[int], Group] | None = None
    most: int = 0
    has_room: Callable[[], bool] = lambda: True

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
        rows_per_step: float = ROWS_PER_STEP,
    ) -> Schedule:
        """Make the schedule of a run over `groups` of indices into `tasks` (`rows_per_step`: see `PredictionPlan`)."""
        roster = Roster(groups, seed)

        def make_group(number: int) -> Group:
            members = roster.tasks(number)
            puzzles = PuzzleSet(tuple(tasks[i] for i in members), recipe, model, roster.seed_of(number))
            plan = PredictionPlan(puzzles, recipe, rows_per_step)
            outstanding = [set(range(len(batches))) for batches in plan.rounds]
            cost = float(task_costs(puzzles).sum())
            return Group(number, members, plan, cost, outstanding, member=roster.member(number))

        most = len(groups) * max(1, recipe.members)
        return cls([*map(make_group, range(len(groups)))], end, sharing, make_group=make_group, most=most)

    def has_work(self, now: float) -> bool:
        """Return whether a worker that starts now may find a job: to adapt, to predict, to judge, or a member."""
        open_ = any(group.waits or (any(group.outstanding) and self._is_predictable(group)) for group in self.groups)
        return open_ or any(map(self._is_judging_due, self.groups)) or self._next_member(now) is not None

    def next_job(self, worker: int, now: float) -> Adapt | Predict | Judge | None:
        """Return the job of a free worker.

        The order is: the first votes of adapted groups, an adaptation, the other base rounds, judging, extra rounds,
        a further member.
        """
        job = (
            self._prediction(worker, self._first_rounds)
            or self._adaptation(worker, now)
            or self._prediction(worker, lambda _: BASE_ROUNDS)
            or self._judging(worker)
            or self._prediction(worker, lambda group: len(group.outstanding))
            or self._further_member(worker, now)
        )
        if job is not None:
            self.flying[worker] = job
        return job

    def joint_jobs(self, now: float, meeting: str) -> dict[int, Adapt]:
        """Return the jobs, by worker, that adapt one group together; none while a worker is busy or no group waits."""
        if self.flying or len(self.speeds) < 2:
            return {}
        group = next((group for group in self.groups if group.waits), None)
        if group is None and not any(map(self._is_unfinished, self.groups)):
            group = self._new_member(now)
        if group is None:
            return {}
        size, until = len(self.speeds), self._until(group, now)
        common = (group.index, group.tasks, until, group.parts, group.lr_scale)
        jobs = {
            worker: Adapt(*common, rank, size, meeting, group.member) for rank, worker in enumerate(sorted(self.speeds))
        }
        self.flying |= jobs
        return jobs

    def new_until(self, worker: int) -> float | None:
        """Move the end of a worker's adaptation, and return the new end. Return None if the old end stays."""
        job = self.flying.get(worker)
        if not isinstance(job, Adapt) or any(g.waits and not self._is_being_adapted(g) for g in self.groups):
            return None
        group = self.groups[job.group]
        until = self._member_end(group) if group.member else self.adaptation_end()
        if abs(until - job.until) < max(_MIN_MOVE_SECONDS, _MIN_MOVE_SHARE * (self.end - self.began)):
            return None
        self.flying[worker] = dataclasses.replace(job, until=until)
        return until

    def adapted(self, group: int, worker: int, report: dict, saved: bool) -> None:
        """Take in that a worker has adapted a group. `saved` tells whether other workers can load the network."""
        for other in self.groups:
            if other.home == worker:
                other.home, other.lost = None, _UNKEPT
        group = self.groups[group]
        group.report, group.home = report, None if saved else worker
        self.loaded[worker] = group.index

    def voted(self, key: BatchKey) -> None:
        """Take in that a batch has its votes."""
        group, number, batch = key
        self.groups[group].outstanding[number].discard(batch)

    def finished(self, worker: int, now: float) -> None:
        """Take in that a worker's job has ended by itself.

        A worker that left out batches of its job has no time for further ones.
        """
        job = self.flying.pop(worker, None)
        if isinstance(job, Adapt):
            self.overruns.append(max(0.0, now - job.until))
        if isinstance(job, Judge):
            self.groups[job.group].judged = self.groups[job.group].complete_rounds
        if isinstance(job, Predict):
            self.loaded[worker] = job.group
            if not self.groups[job.group].outstanding[job.round].isdisjoint(job.batches):
                self.spent.add(worker)

    def gone(self, worker: int) -> Adapt | Predict | Judge | None:
        """Take in that a worker has ended. Return the job that the worker leaves undone.

        Networks that this worker alone had are to be learned again.
        """
        self.speeds.pop(worker, None)
        self.loaded.pop(worker, None)
        self.spent.discard(worker)
        for group in self.groups:
            if group.home == worker:
                group.report, group.home = None, None
                group.lost = _UNKEPT if group.member else group.lost
        return self.flying.pop(worker, None)

    def forgive(self, group: int) -> None:
        """Forget the failures of a group whose attempts have gone well for long."""
        self.groups[group].failures = 0

    def failed(self, group: int, kind: str, reason: str) -> None:
        """Take in that an attempt at a group has failed: the next computes in smaller parts, or learns more slowly."""
        group = self.groups[group]
        group.failures += 1
        if kind == "memory":
            group.parts *= 2
        if kind == "diverged":
            group.lr_scale /= 2
        if group.failures >= _MAX_FAILURES or group.member:
            group.lost = reason

    def is_over(self, group: Group) -> bool:
        """Return whether a group's network is needed no more: all is predicted, and judged by a network that judges."""
        return not any(group.outstanding) and (self.unjudged is None or group.judged >= len(group.outstanding))

    def restore(self, number: int) -> None:
        """Make the further members up to a number. Lost tasks have lost members."""
        first = sum(not group.member for group in self.groups)
        while self.make_group is not None and len(self.groups) <= number:
            group = self.make_group(len(self.groups))
            group.lost = self.groups[group.index % first].lost
            self.groups.append(group)

    def give_up_late_judging(self) -> None:
        """Give up the judging of networks that have all their votes, and whose tasks have votes of a later member.

        They have been judged as far as they could be.
        """
        first = sum(not group.member for group in self.groups)
        for group in self.groups:
            later = self.groups[group.index + first :: first]
            if not any(group.outstanding) and any(member.has_votes for member in later):
                self.give_up_judging(group.index)

    def judging_failed(self, group: int) -> None:
        """Take in that a worker has failed while judging a group's candidates. The second time they are given up."""
        self.groups[group].judging_failures += 1
        if self.groups[group].judging_failures >= _MAX_JUDGING_FAILURES:
            self.give_up_judging(group)

    def give_up_judging(self, group: int) -> None:
        """Leave the candidates of a group to the order of their votes."""
        self.groups[group].judged = _NEVER

    def reckon_with(self, rows_per_step: float) -> None:
        """Reckon the costs of prediction anew for another kind of device (see `PredictionPlan`)."""
        for group in self.groups:
            group.plan.rows_per_step = rows_per_step
        self.begun_with = self._prediction_costs()

    def adaptation_end(self) -> float:
        """Return when the last adaptation should end so that enough time is left for prediction."""
        span, seconds = self.end - self.began, self._seconds_per_cost() / max(1, self.workers)
        base, extra = self.begun_with
        reserved = reserved_seconds(seconds * base, seconds * extra, span, self.unjudged is not None)
        predicted = seconds * (base + extra - sum(self._prediction_costs()))  # this time has been spent already
        return self.end - max(0.0, reserved - predicted)

    def _seconds_per_cost(self) -> float:
        """Return the seconds that a worker takes per unit of the cost of prediction, a mean over the workers."""
        speeds = [speed.seconds_per_cost * speed.slowdown for speed in self.speeds.values()]
        return sum(speeds) / max(1, len(speeds))

    def _adaptation(self, worker: int, now: float) -> Adapt | None:
        if self.sharing == "joint" and self.workers > 1:
            return None
        waiting = [group for group in self.groups if group.waits and not self._is_being_adapted(group)]
        if not waiting:
            return None
        group = min(waiting, key=lambda group: group.failures)  # one that always fails does not keep the others waiting
        return self._adapt_alone(group, now)

    def _adapt_alone(self, group: Group, now: float) -> Adapt:
        """Return the job that adapts a group with one worker."""
        until = self._until(group, now)
        return Adapt(group.index, group.tasks, until, group.parts, group.lr_scale, member=group.member)

    def _until(self, group: Group, now: float) -> float:
        """Return when a group's adaptation that begins now should end."""
        if self.began is None:
            self.began, self.begun_with = now, self._prediction_costs()
        return self._member_end(group) if group.member else self._slice(group, now)

    def _further_member(self, worker: int, now: float) -> Adapt | None:
        """Return the adaptation of a further member by a worker that has nothing else to do, if there is time."""
        if worker in self.spent or (self.sharing == "joint" and self.workers > 1):
            return None
        if any(self._is_gated(group) and group.home in (None, worker) for group in self.groups if not group.member):
            return None  # there is work soon
        group = self._new_member(now)
        return None if group is None else self._adapt_alone(group, now)

    def _new_member(self, now: float) -> Group | None:
        """Return the group of the next member, if all of it fits into the time that is left."""
        number = self._next_member(now)
        if number is None:
            return None
        self.restore(number)
        return self.groups[number]

    def _next_member(self, now: float) -> int | None:
        """Return the number of the next member, if all of it fits into the time that is left.

        The first members come first: all have their base rounds by then, and have made the visits of the recipe. So a
        further member takes about as long as the first on the same tasks did. Lost tasks get no further member. A
        member that an earlier run has begun comes before a new one.
        """
        first = [group for group in self.groups if not group.member]
        if not all(group.lost or (group.is_whole and group.has_base) for group in first):
            return None
        begun = [group.index for group in self.groups if self._is_left_member(group)]
        new = range(len(self.groups), self.most if self.make_group is not None else 0)
        number = next((n for n in (*begun, *new) if not first[n % len(first)].lost), None)
        if number is None or not self.has_room():
            return None
        earlier = first[number % len(first)]
        return number if now + earlier.report["seconds"] <= self._member_end(earlier) else None

    def _is_left_member(self, group: Group) -> bool:
        """Return whether an earlier run has begun a further member and left it without a network."""
        return bool(group.member) and group.is_untried and not self._is_being_adapted(group)

    def _member_end(self, group: Group) -> float:
        """Return when the adaptation of a further member must end, so that the worker predicts and judges in time."""
        base, extra = (
            sum(group.plan.cost_of(batch) for batches in rounds for batch in batches)
            for rounds in (group.plan.rounds[:BASE_ROUNDS], group.plan.rounds[BASE_ROUNDS:])
        )
        # Judging what the search finds is taken to cost as much as judging the candidates of the base rounds.
        judging = 2 * _JUDGING_SHARE * base if self.unjudged is not None else 0.0
        return self.end - _SAFETY * self._seconds_per_cost() * (base + judging + extra)

    def _slice(self, group: Group, now: float) -> float:
        """Return when a group's adaptation should end.

        The workers' time until the end of all adaptations is shared by cost among the groups that wait. Each group is
        expected to overrun its end as much as those before, by its last step and by saving. If that leaves nothing, the
        group gets its share of half of the time that is left at all.
        """
        end = self.adaptation_end()
        waiting = [other for other in self.groups if other.waits and not self._is_being_adapted(other)]
        share = group.cost / sum(other.cost for other in waiting)
        busy_until = [job.until for job in self.flying.values() if isinstance(job, Adapt)]
        free_workers = max(1, self.workers - len(busy_until))
        worker_seconds = free_workers * max(0.0, end - now)
        worker_seconds += sum(max(0.0, end - max(now, until)) for until in busy_until)
        mean_overrun = sum(self.overruns) / max(1, len(self.overruns))
        worker_seconds -= len(waiting) * mean_overrun
        min_seconds = (1 - MAX_PREDICT_SHARE) * (self.end - now) * share
        return max(min(end, now + worker_seconds * share), now + min_seconds)

    def _prediction_costs(self) -> tuple[int, int]:
        """Return the cost of the predictions still to be made, of base rounds and of extra ones."""
        groups = [group for group in self.groups if group.lost is None and not group.member]
        base, extra = (sum(group.prediction_cost(base) for group in groups) for base in (True, False))
        return base, extra

    def _first_rounds(self, group: Group) -> int:
        """Return how many rounds a group predicts right after its adaptation.

        These are all base rounds for a network that only its worker has, and where each task has its own network:
        loading the network again would cost more. Without time for the base rounds of all groups, the group predicts
        one round.
        """
        span = self.end - (self.began or 0.0)
        seconds = self._seconds_per_cost() / max(1, self.workers) * self.begun_with[0]
        hurried = seconds > MAX_PREDICT_SHARE * span
        alone = self.sharing == "per-task" or group.home is not None
        return BASE_ROUNDS if alone and not hurried else _FIRST_ROUND

    def _judging(self, worker: int) -> Judge | None:
        """Return the candidates of a group that a worker can judge (see `PredictionPlan.judging_points`)."""
        if self.unjudged is None or worker in self.spent:
            return None
        busy = {job.group for job in self.flying.values()}
        for group in self.groups:
            if not self._is_judging_due(group) or group.index in busy or group.home not in (None, worker):
                continue
            candidates = self.unjudged(group.index)
            if candidates:
                tests, grids = zip(*candidates)
                return Judge(group.index, group.tasks, tests, grids, self.end, group.member)
            group.judged = group.complete_rounds
        return None

    def _is_judging_due(self, group: Group) -> bool:
        """Return whether candidates of a group are to be judged, since further rounds have all their votes."""
        if self.unjudged is None or not self._is_predictable(group):
            return False
        return any(group.judged < point <= group.complete_rounds for point in group.plan.judging_points)

    def _prediction(self, worker: int, rounds: Callable[[Group], int]) -> Predict | None:
        """Return the most urgent prediction that a worker can do, or None.

        Only the first `rounds` of a group count. The order is: base rounds before extra ones, then groups that failed
        less often, then the group whose network the worker has in memory, then earlier rounds, then earlier groups. A
        job leaves the other idle workers their share of the round's batches.
        """
        if worker in self.spent:
            return None
        choices = []
        for group in self.groups:
            if not self._is_predictable(group) or group.home not in (None, worker):
                continue
            found = self._earliest_round(group, min(rounds(group), self._open_rounds(group)))
            if found is not None:
                number, batches = found
                is_loaded = group.index == self.loaded.get(worker)
                urgency = (_class_of(number), group.failures, not is_loaded, number, group.index)
                choices.append((urgency, group, number, batches))
        if not choices:
            return None
        _, group, number, batches = min(choices, key=lambda choice: choice[0])
        idle = sum(other not in self.flying for other in self.speeds)
        count = min(_BATCHES_PER_JOB, -(-len(batches) // max(1, idle)))
        return Predict(group.index, group.tasks, number, tuple(batches[:count]), self.end, group.member)

    def _is_unfinished(self, group: Group) -> bool:
        """Return whether a network that is there is to predict or to judge."""
        return self._is_judging_due(group) or (any(group.outstanding) and self._is_predictable(group))

    def _is_gated(self, group: Group) -> bool:
        """Return whether rounds of a network that is there wait until candidates are judged."""
        return self._is_predictable(group) and self._open_rounds(group) < len(group.outstanding)

    def _open_rounds(self, group: Group) -> int:
        """Return how many rounds of a group may be predicted before its candidates are judged next.

        So the candidates that are judged do not depend on how many workers predict the group, or how fast.
        """
        points = group.plan.judging_points if self.unjudged is not None else ()
        return min((point for point in points if point > group.judged), default=len(group.outstanding))

    def _earliest_round(self, group: Group, rounds: int) -> tuple[int, list[int]] | None:
        """Return the first of a group's `rounds` that has unclaimed batches, and these batches."""
        for number in range(len(group.outstanding))[:rounds]:
            unclaimed = group.outstanding[number] - self._claimed(group, number)
            if unclaimed:
                return number, sorted(unclaimed)
        return None

    def _is_predictable(self, group: Group) -> bool:
        """Return whether a group's network may be used: it exists and has learned."""
        return group.report is not None and group.lost is None and not self._is_unlearned(group)

    def _claimed(self, group: Group, number: int) -> set[int]:
        """Return the batches of a round that workers are predicting now."""
        jobs = [job for job in self.flying.values() if isinstance(job, Predict)]
        return {batch for job in jobs if (job.group, job.round) == (group.index, number) for batch in job.batches}

    def _is_being_adapted(self, group: Group) -> bool:
        """Return whether a worker is adapting the group now."""
        return any(isinstance(job, Adapt) and job.group == group.index for job in self.flying.values())

    def _is_unlearned(self, group: Group) -> bool:
        """Return whether there was no time for any step. Predictions are worth less than the fallback then."""
        return group.report is not None and group.report["steps"] == 0 < group.report["planned_steps"]


def _class_of(number: int) -> int:
    """Return the class of a round. Each base round is a class of its own, then four extra rounds share one."""
    return number if number < BASE_ROUNDS else BASE_ROUNDS + (number - BASE_ROUNDS) // 4
