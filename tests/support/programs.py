"""Run Python programs in a process of their own."""

import os
import subprocess
import sys


def run_python(*arguments, cwd=None, **environment):
    """Run Python with arguments and changes to the environment, in the folder `cwd`.

    Return the finished process with its output.
    """
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment, cwd=cwd
    )
