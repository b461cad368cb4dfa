"""Test how messages get to workers and back, and what is known of a worker that is gone."""

import os
import signal

import pytest
from echo import echo

from hrm_offline.solve.messages import Done, Failed, Hello, Lost, Quit
from hrm_offline.solve.pool import InlinePool, ProcessPool
from hrm_offline.solve.worker import Worker


@pytest.fixture
def pool():
    pool = ProcessPool(echo)
    yield pool
    pool.close()


def test_each_slot_has_a_process_of_its_own(pool):
    for slot in (0, 3):
        pool.start(slot)
        pool.send(slot, f"to {slot}")
    assert sorted(pool.receive(60) for _ in range(2)) == [(0, "to 0"), (3, "to 3")]
    assert pool.receive(0) is None


def test_a_process_that_ended_is_told_once_and_may_be_replaced(pool):
    pool.start(0)
    pool.send(0, "end")
    assert pool.receive(60) == (0, Lost("its process ended with code 7"))
    assert pool.receive(0) is None
    pool.start(0)
    pool.send(0, "again")
    assert pool.receive(60) == (0, "again")


def test_a_stopped_worker_is_not_reported_as_lost(pool):
    pool.start(0)
    process, _ = pool.workers[0]
    pool.stop(0)
    assert not process.is_alive()
    assert pool.receive(0) is None
    pool.stop(0)  # there is none any more


def test_a_pool_that_was_closed_starts_no_worker(pool):
    """The watchdog closes the pool while the main thread leads on."""
    for slot in range(3):
        pool.start(slot)
    processes = [process for process, _ in pool.workers.values()]
    pool.close()
    assert not any(process.is_alive() for process in processes)
    pool.start(0)
    pool.send(0, "nobody reads this")
    assert pool.workers == {} and pool.receive(0) is None


def test_a_system_without_room_for_a_process_is_told_as_a_lost_worker(pool, monkeypatch):
    def refuse(*_):
        raise BlockingIOError("Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(pool.context.Process, "start", refuse)
        pool.start(0)
        patch.setattr(pool.context, "Pipe", refuse)
        pool.start(1)
    found = [pool.receive(60) for _ in range(2)]
    assert [slot for slot, _ in found] == [0, 1]
    assert all("temporarily unavailable" in message.reason for _, message in found)
    pool.start(0)
    pool.send(0, "again")
    assert pool.receive(60) == (0, "again")


def test_workers_hear_nothing_of_ctrl_c_not_even_while_they_start(pool):
    pool.start(0)
    os.kill(pool.workers[0][0].pid, signal.SIGINT)
    pool.send(0, "alive")
    assert pool.receive(60) == (0, "alive")
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_end_where_the_system_has_no_sigkill(pool, monkeypatch):
    pool.start(0)
    process, _ = pool.workers[0]
    monkeypatch.delattr(signal, "SIGKILL")
    monkeypatch.delattr(signal, "pthread_sigmask")
    pool.stop(0)
    assert not process.is_alive()
    pool.start(0)
    pool.send(0, "back")
    assert pool.receive(60) == (0, "back")


def test_a_worker_inside_this_process_ends_with_what_it_said_last():
    pool = InlinePool(lambda receive, send: Worker(receive, send, make_engine=lambda *_: 1 / 0))
    pool.start(0)
    assert pool.receive(0) is None  # idle
    pool.send(0, Quit())
    assert pool.receive(0) == (0, Lost())
    assert not any(isinstance(message, (Done, Failed, Hello)) for message in pool.outbox)
