"""Test that connections beyond the machine are refused and counted."""

import os
import sys
from pathlib import Path

import pytest

from tools.support.offline import OfflineRunner


def run_offline(folder: Path, code: str, namespace: bool) -> tuple[int, list[str]]:
    runner = OfflineRunner(folder, sys.executable)
    if not namespace:
        runner.namespace = []
    status = runner.run([sys.executable, "-c", code], dict(os.environ), timeout=60)
    return status, runner.attempts()


CONNECT = "import socket; socket.create_connection(('{host}', 9), timeout=2)"


@pytest.mark.parametrize("namespace", [False, True])
@pytest.mark.parametrize("host", ["192.0.2.1", "example.invalid"])
def test_connections_beyond_the_machine_are_refused_and_counted(tmp_path, host, namespace):
    status, attempts = run_offline(tmp_path, CONNECT.format(host=host), namespace)
    assert status != 0
    assert len(attempts) == 1
    assert host in attempts[0]


def test_a_child_process_is_watched_too(tmp_path):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CONNECT.format(host='192.0.2.1')!r}])"
    assert len(run_offline(tmp_path, code, namespace=False)[1]) == 1


@pytest.mark.parametrize("namespace", [False, True])
def test_the_machine_itself_stays_reachable(tmp_path, namespace):
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname()).sendall(b'x'); s.accept()[0].recv(1)"
    )
    assert run_offline(tmp_path, code, namespace) == (0, [])
