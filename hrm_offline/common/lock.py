"""Keep two runs out of one folder. The system drops a run's lock when its process ends, however that happens.

The lock lies on a small file in the folder, and not in the file's existence: a file that a killed run left behind locks
nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Callable
from pathlib import Path

from hrm_offline.common.errors import InputError, shown_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # every other system
    msvcrt = None

LOCK_FILE = ".hrm_offline.lock"
_IS_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # from a lock that another run has
_LOCKED_BYTE = 2**20  # Windows forbids others to read a locked byte, so this one lies behind the file's text
_MAX_TRIES = 100


class FolderLock:
    """The lock of a folder, a context manager. Leaving it, or `release`, lets the next run in.

    Entering raises `InputError` that names the holder where another run has the lock, in this process or in any other.
    Where a folder cannot be locked (a file system without locks, a folder that cannot be written), `say` gets a warning
    and the run goes on without a lock. The folder must exist.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None]):
        self.path, self.say = Path(folder) / LOCK_FILE, say
        self.file: int | None = None  # the descriptor that holds the lock

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, as entering does."""
        try:
            self.file = self._open_locked()
        except OSError as error:
            self.say(f"WARNING: {self.path}: cannot be locked ({error}); nothing keeps a second run out of this folder")

    def release(self) -> None:
        """Remove the file and the lock. Windows removes a file only after it is closed."""
        file, self.file = self.file, None
        if file is None:
            return
        with contextlib.suppress(OSError):
            if fcntl is not None and _is_file_of(self.path, file):
                self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(file)
        with contextlib.suppress(OSError):
            if fcntl is None:
                self.path.unlink()

    def _open_locked(self) -> int:
        """Return the descriptor that holds the lock. Raises `OSError` where there can be none, and `InputError`."""
        if fcntl is None and msvcrt is None:
            raise OSError("this Python has neither fcntl nor msvcrt")
        for _ in range(_MAX_TRIES):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(file):
                    raise InputError(
                        f"{self.path.parent}: another run is at work in this folder ({_holder_of(file)}); wait for its "
                        "end, end it, or give another folder"
                    )
                if _is_file_of(self.path, file):
                    os.ftruncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # another run has ended in this very moment and removed the file
        raise OSError(f"the file vanished {_MAX_TRIES} times")


def _lock(file: int) -> bool:
    """Lock an open file, and return False where another run has the lock. Raises `OSError` if there are no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
    except OSError as error:
        if error.errno in _IS_HELD:
            return False
        raise
    return True


def _is_file_of(path: Path, file: int) -> bool:
    """Return whether `path` leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _holder_of(file: int) -> str:
    """Return which run holds the lock, as the run wrote it into the file."""
    with contextlib.suppress(OSError):
        os.lseek(file, 0, os.SEEK_SET)
        if text := os.read(file, 200).decode(errors="replace"):
            return shown_name(text)
    return "its number is not known"
