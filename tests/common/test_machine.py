"""Test that cores and memory are counted as the system describes them."""

import math
import os

import pytest

from hrm_offline.common.machine import free_memory, peak_memory, physical_cores, usable_cores


@pytest.fixture
def described(tmp_path, monkeypatch):
    """Return a function that describes a machine by its files; its process may use processors 0 to 7."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def describe(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return describe


def siblings(number):
    return f"devices/system/cpu/cpu{number}/topology/thread_siblings_list"


def test_two_threads_of_a_core_count_once(described):
    assert physical_cores(described({siblings(n): f"{n % 4},{n % 4 + 4}\n" for n in range(8)})) == 4


def test_processors_count_where_the_system_tells_no_more(described):
    assert physical_cores(described({})) == 8


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("20000 100000", 1)])
def test_a_container_has_its_share_of_the_processors(described, quota, cores):
    root = described({"fs/cgroup/cpu.max": quota})
    assert physical_cores(root) == usable_cores(root) == cores


def test_both_threads_of_a_core_may_compute(described):
    root = described({siblings(n): f"{n % 4},{n % 4 + 4}\n" for n in range(8)})
    assert (usable_cores(root), physical_cores(root)) == (8, 4)


def test_the_free_memory_is_that_of_the_machine_and_of_the_container(described):
    root = described({"meminfo": "MemTotal: 100 kB\nMemAvailable:  50 kB\n"})
    assert free_memory(root, root) == 50 * 1024
    described({"fs/cgroup/memory.max": "40000\n", "fs/cgroup/memory.current": "30000\n"})
    assert free_memory(root, root) == 10_000
    described({"fs/cgroup/memory.stat": "anon 4000\ninactive_file 5000\nactive_file 7\n"})
    assert free_memory(root, root) == 15_000
    assert free_memory(root / "nowhere", root / "nowhere") == math.inf


def test_this_process_holds_memory():
    pytest.importorskip("resource")
    assert peak_memory() > 2**20
