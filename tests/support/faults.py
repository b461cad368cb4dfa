"""Workers that fail on purpose, importable by spawned processes."""

import os
import signal
import time
from pathlib import Path

import torch

from hrm_offline.solve.engine import Engine
from hrm_offline.solve.worker import main

# The file that a fault leaves behind, so that it happens once.
MARK = "HRM_OFFLINE_TEST_MARK"


class Faulty(Engine):
    """Fail at the fifth step of an adaptation, the first time or always."""

    always = False

    def adapt(self, job):
        for step in super().adapt(job):
            if step == 5 and (self.always or not Path(os.environ[MARK]).exists()):
                Path(os.environ[MARK]).touch()
                self.fail()
            yield step

    def fail(self):
        raise RuntimeError("as something always does")


class AlwaysFaulty(Faulty):
    """Fail at the fifth step of every adaptation."""

    always = True


class OutOfMemory(Faulty):
    """Run out of GPU memory once."""

    def fail(self):
        raise torch.OutOfMemoryError("CUDA out of memory, it would say")


class NotANumber(Faulty):
    """Spoil a weight once, so that learning diverges."""

    def fail(self):
        with torch.no_grad():
            self.adaptation.learner.params[0].fill_(float("nan"))


class Hanging(Faulty):
    """Hang once."""

    def fail(self):
        time.sleep(10**6)


class Killed(Faulty):
    """End the whole process once, without a word."""

    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


def hanging(connection):
    """Serve as a worker process that hangs once."""
    main(connection, Hanging)


def killed(connection):
    """Serve as a worker process that is killed once."""
    main(connection, Killed)
