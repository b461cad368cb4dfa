"""Test how the schedule splits tasks into groups and shares the time between them."""

import dataclasses

import numpy as np
import pytest

from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.presets import PRESETS
from hrm_offline.solve.messages import Adapt, Judge
from hrm_offline.solve.schedule import Schedule, Speed
from hrm_offline.solve.start import split_tasks

SMALL = PRESETS["hrm-132k"]


def make_schedule(make_task, workers, groups, end=1000.0, sharing="sharded"):
    tasks = tuple(make_task(f"t{i}", [((3 + i % 5, 3), (3, 3))] * (1 + i % 3), seed=i) for i in range(12))
    puzzles = PuzzleSet(tasks, SMALL.adapt, SMALL.model, 0)
    schedule = Schedule.of_tasks(tasks, SMALL.model, SMALL.adapt, 0, split_tasks(puzzles, groups), end, sharing)
    schedule.workers = workers
    schedule.speeds = {worker: Speed(1e-3) for worker in range(workers)}
    return schedule


def test_tasks_are_split_evenly_and_the_dearest_group_comes_first(make_task):
    schedule = make_schedule(make_task, 2, 4)
    assert sorted(task for group in schedule.groups for task in group.tasks) == list(range(12))
    costs = [group.cost for group in schedule.groups]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] < 1.5 * costs[-1]


def test_every_group_has_its_share_of_the_time(make_task):
    """Give two workers four groups: each group gets half of the time, and prediction its share at the end."""
    schedule = make_schedule(make_task, 2, 4)
    first, second = schedule.next_job(0, 0.0), schedule.next_job(1, 0.0)
    end = schedule.adaptation_end()
    assert 500 < end < 1000
    assert first.until == pytest.approx(end / 2, rel=0.25)
    assert second.until == pytest.approx(end / 2, rel=0.25)
    schedule.adapted(0, 0, {"steps": 10}, saved=True)
    schedule.finished(0, 0.0)
    vote = schedule.next_job(0, first.until)
    assert (vote.group, vote.round) == (0, 0)  # a first vote, before another group is adapted
    for batch in vote.batches:
        schedule.voted((0, 0, batch))
    schedule.finished(0, 0.0)
    assert schedule.next_job(0, first.until).group == 2


def test_adaptation_ends_earlier_where_prediction_turns_out_slow(make_task):
    schedule = make_schedule(make_task, 1, 1)
    job = schedule.next_job(0, 0.0)
    assert schedule.new_until(0) is None
    schedule.speeds[0].slowdown = 40.0
    until = schedule.new_until(0)
    assert 500 <= until < job.until
    assert schedule.new_until(0) is None  # said once


def test_a_group_that_failed_lets_the_others_go_first(make_task):
    schedule = make_schedule(make_task, 1, 3)
    assert schedule.next_job(0, 0.0).group == 0
    schedule.gone(0)
    schedule.failed(0, "lost", "killed")
    schedule.speeds[0] = Speed(1e-3)
    assert schedule.next_job(0, 0.0).group == 1
    schedule.forgive(0)
    schedule.gone(0)
    assert schedule.next_job(0, 0.0).group == 0


def test_workers_share_the_batches_of_a_round(make_task):
    schedule = make_schedule(make_task, 2, 1)
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10}, saved=True)
    schedule.finished(0, 0.0)
    group = schedule.groups[0]
    group.outstanding = [set(range(5)), set()]
    group.plan.rounds = [group.plan.rounds[0][:1] * 5, []]
    first, second = (schedule.next_job(worker, 0.0) for worker in (0, 1))
    assert (first.batches, second.batches) == ((0, 1, 2), (3, 4))


def test_a_group_that_only_one_worker_has_is_learned_again_when_that_worker_is_gone(make_task):
    schedule = make_schedule(make_task, 2, 1)
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10}, saved=False)
    schedule.finished(0, 0.0)
    assert schedule.next_job(1, 0.0) is None
    schedule.gone(0)
    assert schedule.groups[0].waits
    assert schedule.next_job(1, 0.0).group == 0


def test_a_network_that_was_not_saved_ends_with_the_next_that_its_worker_adapts(make_task):
    """Predict the base rounds of such a group first. The rest cannot be predicted later, so the schedule drops it."""
    schedule = make_schedule(make_task, 1, 2)
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10}, saved=False)
    schedule.finished(0, 0.0)
    assert [schedule._first_rounds(group) for group in schedule.groups] == [2, 1]
    schedule.next_job(0, 0.0)
    schedule.flying.clear()
    schedule.adapted(1, 0, {"steps": 10}, saved=False)
    assert "could not be saved" in schedule.groups[0].lost
    assert schedule.next_job(0, 0.0).group == 1


@pytest.mark.parametrize("overrun", (0.0, 2.0))
def test_alone_every_task_has_its_votes_and_its_share_of_a_budget_too_short_for_all_steps(make_task, overrun):
    """Simulate twelve adaptations, each of which may end later than it was told to, and their predictions."""
    schedule = make_schedule(make_task, 1, 12, end=240.0, sharing="per-task")
    assert [len(group.tasks) for group in schedule.groups] == [1] * 12
    now, seconds = 0.0, {}
    while (job := schedule.next_job(0, now)) is not None:
        group = schedule.groups[job.group]
        if isinstance(job, Adapt):
            seconds[job.group] = (job.until - now) / group.cost
            now = job.until + overrun
            schedule.adapted(job.group, 0, {"steps": 1}, saved=True)
        else:
            for batch in job.batches:
                now += 1e-3 * group.plan.cost_of(group.plan.rounds[job.round][batch])
                schedule.voted((job.group, job.round, batch))
        schedule.finished(0, now)
    assert now <= 240
    assert not any(any(group.outstanding) for group in schedule.groups)
    assert len(seconds) == 12
    assert max(seconds.values()) < 1.3 * min(seconds.values())


def test_candidates_are_judged_after_the_base_rounds_and_after_all_rounds(make_task):
    """A group is judged by a worker that can load it, once for each time; time is kept for that from the start."""
    schedule = make_schedule(make_task, 1, 1)
    plain_end = None
    asked, grid = [], np.ones((1, 1), dtype=np.uint8)

    def unjudged(group):
        asked.append(group)
        return [(3, grid)]

    first = schedule.next_job(0, 0.0)
    plain_end = schedule.adaptation_end()
    schedule.unjudged = unjudged
    assert schedule.adaptation_end() < plain_end
    schedule.adapted(first.group, 0, {"steps": 10}, saved=True)
    schedule.finished(0, 0.0)
    jobs = []
    while (job := schedule.next_job(0, 0.0)) is not None:
        jobs.append(job)
        for batch in getattr(job, "batches", ()):
            schedule.voted((job.group, job.round, batch))
        schedule.finished(0, 0.0)
    judging = [number for number, job in enumerate(jobs) if isinstance(job, Judge)]
    assert judging == [len(jobs) - 1]  # the base rounds are all rounds here
    assert (jobs[-1].tests, jobs[-1].grids) == ((3,), (grid,))
    assert asked == [0]


def test_each_round_of_a_search_is_judged_before_the_next_begins(make_task):
    """Two workers share a group, so one of them waits."""
    tasks = tuple(make_task(f"t{i}", [((3, 3), (3, 3))] * 2, seed=i) for i in range(4))
    decoder = PRESETS["decoder-170k"]
    recipe = dataclasses.replace(decoder.adapt, predict_tokens=400, members=1)
    schedule = Schedule.of_tasks(tasks, decoder.model, recipe, 0, [(0, 1, 2, 3)], 1000.0, "sharded")
    schedule.speeds = {worker: Speed(1e-4) for worker in range(2)}
    schedule.unjudged = lambda _: [(0, np.ones((1, 1), dtype=np.uint8))]
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10, "planned_steps": 10}, saved=True)
    schedule.finished(0, 0.0)
    judged_after = []
    while jobs := [job for job in (schedule.next_job(worker, 0.0) for worker in range(2)) if job]:
        for job in jobs:
            for batch in getattr(job, "batches", ()):
                schedule.voted((job.group, job.round, batch))
        if any(isinstance(job, Judge) for job in jobs):
            assert len(jobs) == 1
            judged_after.append(schedule.groups[0].complete_rounds)
        for worker in list(schedule.flying):
            schedule.finished(worker, 0.0)
    rounds = len(schedule.groups[0].plan.rounds)
    assert judged_after == list(range(2, rounds + 1)) and 4 < rounds <= 10


def test_a_group_whose_judging_failed_twice_is_not_judged_again(make_task):
    schedule = make_schedule(make_task, 1, 1)
    schedule.unjudged = lambda _: [(0, np.ones((1, 1), dtype=np.uint8))]
    schedule.next_job(0, 0.0)
    schedule.adapted(0, 0, {"steps": 10}, saved=True)
    schedule.finished(0, 0.0)
    for number, batches in enumerate(schedule.groups[0].plan.rounds):
        for batch in range(len(batches)):
            schedule.voted((0, number, batch))
    assert isinstance(schedule.next_job(0, 0.0), Judge)
    schedule.gone(0)
    schedule.judging_failed(0)
    schedule.speeds[0] = Speed(1e-3)
    assert isinstance(schedule.next_job(0, 0.0), Judge)  # its worker is gone: another tries
    schedule.gone(0)
    schedule.judging_failed(0)
    assert schedule.next_job(0, 0.0) is None
