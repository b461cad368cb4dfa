"""Test the killer of a rehearsal's `solve`."""

import subprocess
import sys
import threading

from tools.support.kill_solve import kill_solve


def test_the_killer_finds_solve_and_takes_its_children_along():
    code = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('begun', flush=True); "
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, "-m", "hrm_offline", "solve"]
    solve = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    assert solve.stdout.readline() == b"begun\n"  # its child is there
    assert kill_solve(1.0, threading.Event()) == 2
    assert solve.wait(10) == -9
    over = threading.Event()
    over.set()
    assert kill_solve(1.0, over) == 0
