"""Test that the journal keeps every whole record when it is torn, damaged or the disk is full."""

import numpy as np
import pytest

from hrm_offline.solve.journal import Journal


def make_journal(path, count):
    journal = Journal(path, say=pytest.fail)
    for i in range(count):
        journal.append({"i": i}, {"x": np.arange(10 * i)})
    journal.close()
    return path.read_bytes()


def test_a_torn_record_is_dropped_wherever_it_is_torn(tmp_path):
    data = make_journal(tmp_path / "a", 4)
    seen = set()
    for cut in range(0, len(data), 3):
        (tmp_path / "b").write_bytes(data[:cut])
        journal = Journal(tmp_path / "b", say=pytest.fail)
        assert [record.about["i"] for record in journal.records] == list(range(len(journal.records)))
        assert journal.damaged == 0
        seen.add(len(journal.records))
        journal.append({"i": len(journal.records)})
        journal.close()
        again = Journal(tmp_path / "b", say=pytest.fail)
        assert len(again.records) == len(journal.records) + 1
        again.close()
    assert seen == {0, 1, 2, 3}


def test_a_damaged_record_is_counted_and_costs_no_other(tmp_path):
    data, last = make_journal(tmp_path / "a", 4), len(make_journal(tmp_path / "c", 3))
    rng = np.random.default_rng(0)
    for position in rng.integers(0, last, 100):
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "b").write_bytes(damaged)
        journal = Journal(tmp_path / "b", say=pytest.fail)
        assert len(journal.records) == 3
        assert journal.damaged == 1
        for record in journal.records:
            assert np.array_equal(record.arrays["x"], np.arange(10 * record.about["i"]))
        journal.close()


def test_a_full_disk_ends_the_journal_and_not_the_run(tmp_path, limit_file_size):
    said = []
    journal = Journal(tmp_path / "a", said.append)
    journal.append({"i": 0})
    with limit_file_size(2000):
        for i in range(1, 4):
            journal.append({"i": i}, {"x": np.zeros(200)})
    journal.append({"i": 9})
    assert len(said) == 1
    assert "without a journal" in said[0]
    journal.close()
    assert [record.about["i"] for record in Journal(tmp_path / "a", pytest.fail).records] == [0, 1]
