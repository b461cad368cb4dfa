"""Test the simulated workers: their clocks, and what a fault does to them."""

import dataclasses

import pytest

from tools.stress.simulate_runs import draw_weather
from tools.stress.simulation import SimulatedPool, SimulatedWorker

CALM = dataclasses.replace(draw_weather(1), spread=0.0)


@pytest.fixture
def pool():
    return SimulatedPool(CALM, seed=0)


def test_the_clock_of_the_supervisor_waits_without_workers(pool):
    assert pool.receive(2.5) is None
    assert pool.clock() == 2.5


def test_work_takes_the_time_of_the_weather(pool):
    worker = SimulatedWorker(pool, 0)
    assert worker.spend(3.0) == worker.now == 3.0
    pool.weather = dataclasses.replace(CALM, throttled_from=0.0, throttle=2.0)
    assert worker.spend(3.0) == 6.0


def test_the_earliest_message_comes_first(pool):
    for slot, seconds in ((0, 4.0), (1, 2.0)):
        worker = SimulatedWorker(pool, slot)
        worker.spend(seconds)
        worker._send(f"from {slot}")
    assert [pool.receive(10.0), pool.receive(10.0)] == [(1, "from 1"), (0, "from 0")]
    assert pool.clock() == 4.0


def test_a_worker_that_is_stopped_sends_nothing_more(pool):
    pool.start(0)
    pool.workers[0]._send("late")
    pool.stop(0)
    assert pool.receive(1.0) is None


def test_faults_raise_or_hang(pool):
    pool.weather = dataclasses.replace(CALM, fault=1.0)
    ends = set()
    for _ in range(100):
        worker = SimulatedWorker(pool, 0)
        try:
            worker.spend(1.0)
            ends.add("hung" if worker.hung else "nothing")
        except BaseException as error:
            ends.add(type(error).__name__)
    assert ends == {"OutOfMemoryError", "Diverged", "_Killed", "hung"}
