"""Run Python programs in a process of their own."""

import os
import subprocess
import sys


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment
    )
