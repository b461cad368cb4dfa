"""Test the numbers and seeds of networks on the same tasks, and when a schedule starts a further one."""

import numpy as np
import pytest

from hrm_offline.config import MAX_SEED
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.presets import PRESETS
from hrm_offline.solve.members import Roster, member_seed
from hrm_offline.solve.messages import Adapt, Judge, Predict
from hrm_offline.solve.schedule import Schedule, Speed
from hrm_offline.solve.start import split_tasks

SMALL = PRESETS["hrm-132k"]
SECONDS = 100.0  # of an adaptation


def make_schedule(make_task, end, members=3, groups=2):
    tasks = tuple(make_task(f"t{i}", [((3, 3), (3, 3))] * 2, seed=i) for i in range(4))
    recipe = SMALL.adapt.__class__(**(vars(SMALL.adapt) | {"members": members}))
    parts = split_tasks(PuzzleSet(tasks, recipe, SMALL.model, 0), groups)
    schedule = Schedule.of_tasks(tasks, SMALL.model, recipe, 7, parts, end, "sharded")
    schedule.speeds = {0: Speed(1e-4)}
    return schedule


def run(schedule, steps=10):
    """Let the only worker do all jobs, and return them; each adaptation takes its time or ends where it must."""
    now, jobs = 0.0, []
    while (job := schedule.next_job(0, now)) is not None:
        jobs.append(job)
        if isinstance(job, Adapt):
            made = steps if job.until - now >= SECONDS else steps - 1
            now = min(now + SECONDS, job.until)
            report = {"steps": made, "planned_steps": 10, "seconds": SECONDS}
            schedule.adapted(job.group, 0, report, saved=True)
        for batch in getattr(job, "batches", ()):
            plan = schedule.groups[job.group].plan
            now += 1e-4 * plan.cost_of(plan.rounds[job.round][batch])
            schedule.voted((job.group, job.round, batch))
        schedule.finished(0, now)
    assert now <= schedule.end
    return jobs


def work_until_judging(schedule):
    """Let worker 0 do all jobs in no time until it has to judge."""
    while not isinstance(job := schedule.next_job(0, 0.0), Judge):
        if isinstance(job, Adapt):
            schedule.adapted(job.group, 0, {"steps": 10, "planned_steps": 10, "seconds": SECONDS}, saved=True)
        for batch in getattr(job, "batches", ()):
            schedule.voted((job.group, job.round, batch))
        schedule.finished(0, 0.0)


def adapted(jobs):
    return [(job.group, job.member) for job in jobs if isinstance(job, Adapt)]


def test_numbers_name_tasks_members_and_seeds():
    roster = Roster([(0, 2), (1,)], seed=5)
    assert [roster.tasks(number) for number in range(4)] == [(0, 2), (1,), (0, 2), (1,)]
    assert [roster.member(number) for number in range(5)] == [0, 0, 1, 1, 2]
    assert roster.seed_of(1) == 5
    assert len({roster.seed_of(number) for number in range(0, 20, 2)}) == 10
    assert 0 <= member_seed(MAX_SEED, 2**10) <= MAX_SEED


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (150.0, [(0, 0), (1, 0)]),  # not all visits are made
        (250.0, [(0, 0), (1, 0)]),  # half a member would fit
        (320.0, [(0, 0), (1, 0), (2, 1)]),
        (2000.0, [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]),
    ],
)
def test_further_members_start_as_long_as_a_whole_one_fits(make_task, end, expected):
    assert adapted(run(make_schedule(make_task, end))) == expected


def test_without_all_visits_there_is_no_further_member(make_task):
    assert adapted(run(make_schedule(make_task, 2000.0), steps=9)) == [(0, 0), (1, 0)]


def test_a_full_disk_starts_no_further_member(make_task):
    schedule = make_schedule(make_task, 2000.0)
    schedule.has_room = lambda: False
    assert len(adapted(run(schedule))) == 2


def test_a_further_member_is_tried_once_and_lost_tasks_get_none(make_task):
    schedule = make_schedule(make_task, 2000.0, members=2)
    schedule.groups[0].lost = "it failed three times"
    while not isinstance(job := schedule.next_job(0, 0.0), Adapt) or not job.member:
        if isinstance(job, Adapt):
            schedule.adapted(job.group, 0, {"steps": 10, "planned_steps": 10, "seconds": SECONDS}, saved=True)
        for batch in getattr(job, "batches", ()):
            schedule.voted((job.group, job.round, batch))
        schedule.finished(0, 0.0)
    assert (job.group, job.member) == (3, 1)
    schedule.gone(0)
    schedule.speeds[0] = Speed(1e-4)
    schedule.failed(3, "memory", "out of memory")
    assert schedule.next_job(0, 0.0) is None


def test_a_member_judges_once_all_candidates_so_far(make_task):
    schedule = make_schedule(make_task, 2000.0, members=2, groups=1)
    schedule.unjudged = lambda group: [(0, np.ones((1, 1), np.uint8))]
    jobs = run(schedule)
    assert [(job.group, job.member) for job in jobs if isinstance(job, Judge)] == [(0, 0), (1, 1)]
    assert all(schedule.is_over(group) for group in schedule.groups)
    assert {job.member for job in jobs if isinstance(job, Predict)} == {0, 1}


def test_members_of_an_earlier_run_come_before_new_ones_and_after_the_first(make_task):
    schedule = make_schedule(make_task, 2000.0)
    schedule.restore(3)
    schedule.voted((2, 0, 0))
    schedule.voted((3, 0, 0))
    outstanding = schedule.groups[0].outstanding
    schedule.groups[0].outstanding = [set() for _ in outstanding]
    schedule.give_up_late_judging()
    assert [group.member for group in schedule.groups] == [0, 0, 1, 1]
    assert [group.judged > 0 for group in schedule.groups] == [True, False, False, False]
    schedule.groups[0].outstanding = outstanding
    schedule.groups[3].lost = "its network could not be saved"
    assert adapted(run(schedule)) == [(0, 0), (1, 0), (2, 1), (4, 2), (5, 2)]


def test_a_worker_that_starts_may_find_a_member_or_candidates_to_judge(make_task):
    """Check that a run waits for such a worker."""
    schedule = make_schedule(make_task, 2000.0, members=2, groups=1)
    schedule.unjudged = lambda group: [(0, np.ones((1, 1), np.uint8))]
    assert schedule.has_work(0.0)
    work_until_judging(schedule)
    assert not any(any(group.outstanding) for group in schedule.groups)
    schedule.gone(0)
    assert schedule.has_work(1999.0)  # to judge
    schedule.give_up_judging(0)
    assert schedule.has_work(0.0) and not schedule.has_work(1999.0)  # for a member, if it fits
    assert len(schedule.groups) == 1  # to ask makes none


def test_no_member_begins_while_a_first_network_is_to_search(make_task):
    """One worker judges what the search has found, and the other waits."""
    schedule = make_schedule(make_task, 2000.0, groups=1)
    schedule.unjudged = lambda group: [(0, np.ones((1, 1), np.uint8))]
    group = schedule.groups[0]
    group.plan.rounds.append(group.plan.rounds[-1])
    group.outstanding.append(set(range(len(group.plan.rounds[-1]))))
    group.plan.judging_points = {2, 3}
    schedule.speeds[1] = Speed(1e-4)
    work_until_judging(schedule)
    assert schedule.next_job(1, 0.0) is None
    schedule.finished(0, 0.0)
    assert schedule.next_job(1, 0.0).round == 2
    schedule.sharing, schedule.flying = "joint", {}
    assert schedule.joint_jobs(0.0, "meeting") == {}
    schedule.give_up_judging(0)
    group.outstanding = [set() for _ in group.outstanding]
    assert schedule.joint_jobs(0.0, "meeting")[0].member == 1


def test_time_is_kept_for_judging_by_the_cost_of_the_base_rounds(make_task):
    schedule = make_schedule(make_task, 2000.0, groups=1)
    group = schedule.groups[0]
    base, extra = group.prediction_cost(base=True), group.prediction_cost(base=False)
    without = schedule._member_end(group)
    schedule.unjudged = lambda group: []
    assert without == pytest.approx(2000.0 - 1.15e-4 * (base + extra))
    assert schedule._member_end(group) == pytest.approx(2000.0 - 1.15e-4 * (2.5 * base + extra))
