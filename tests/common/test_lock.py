"""Test that a folder has one run at a time, and that no dead run keeps it."""

import os
import signal
import subprocess
import sys
import types

import pytest
from places import REPOSITORY

from hrm_offline.common import lock
from hrm_offline.common.errors import InputError
from hrm_offline.common.lock import LOCK_FILE, FolderLock

HOLD = (
    "import sys, time; from hrm_offline.common.lock import FolderLock; FolderLock(sys.argv[1], print).__enter__(); "
    "print('held', flush=True); time.sleep(60)"
)


def test_the_second_run_in_a_folder_is_refused_and_named(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    said = []
    with FolderLock(tmp_path, said.append):
        for same in (tmp_path, tmp_path / "link"):
            with pytest.raises(InputError, match=f"another run is at work in this folder .process {os.getpid()} on"):
                FolderLock(same, said.append).__enter__()
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]
    with FolderLock(tmp_path, said.append):
        assert (tmp_path / LOCK_FILE).exists()
    assert said == []


def test_a_killed_run_keeps_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as run:
        assert run.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {run.pid} "):
            FolderLock(tmp_path, print).__enter__()
        run.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK_FILE).exists()
    with FolderLock(tmp_path, pytest.fail):
        pass


@pytest.mark.parametrize("text", ["process 1 on another-host", "", "\x00\xff\n\n", "x" * 10_000])
def test_a_file_that_is_there_locks_nothing_whatever_it_says(tmp_path, text):
    (tmp_path / LOCK_FILE).write_text(text)
    with FolderLock(tmp_path, pytest.fail):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_goes_with_its_own_file_only(tmp_path):
    """Remove the file under a run: the next run makes a new file, and the first one leaves that in place."""
    with FolderLock(tmp_path, pytest.fail) as first:
        (tmp_path / LOCK_FILE).unlink()
        with FolderLock(tmp_path, pytest.fail):
            first.release()
            first.release()
            assert (tmp_path / LOCK_FILE).exists()
            with pytest.raises(InputError):
                FolderLock(tmp_path, pytest.fail).__enter__()


def test_where_no_lock_can_be_had_a_run_goes_on_with_a_warning(tmp_path, monkeypatch):
    (tmp_path / LOCK_FILE).mkdir()
    said = []
    with FolderLock(tmp_path, said.append), FolderLock(tmp_path / "none-such", said.append):
        pass
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", None)
    with FolderLock(tmp_path, said.append):
        pass
    assert len(said) == 3 and all("cannot be locked" in line for line in said)


def test_windows_locks_a_byte_behind_the_text(tmp_path, monkeypatch):
    """Stand in for msvcrt, which knows the files by their places on the disk."""
    held = set()

    def locking(file, mode, count):
        place = (os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR))
        if place in held:
            raise PermissionError(13, "Permission denied")
        held.add(place)

    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    with FolderLock(tmp_path, pytest.fail), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        FolderLock(tmp_path, pytest.fail).__enter__()
    assert not any(tmp_path.iterdir())
