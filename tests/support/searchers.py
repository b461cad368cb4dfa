"""Processes that fail while they search programs, importable by spawned processes."""

import os
from pathlib import Path

from hrm_offline.solve import searcher

# The folder of the files that each fault leaves behind, so that it happens once.
MARKS = "HRM_OFFLINE_TEST_MARKS"


def faulty(connection):
    """Serve as a process that sends garbage, then as one that dies with its task, then as it should."""
    print("no message at all", flush=True)
    if _is_first("garbage"):
        connection.send_bytes(b"no pickle")
    elif _is_first("death"):
        searcher.induce = lambda *_: os._exit(3)
    searcher.main(connection)


def _is_first(name):
    mark = Path(os.environ[MARKS]) / name
    is_first = not mark.exists()
    mark.touch()
    return is_first
