"""Stand in for CUDA where work is recorded as graphs: a replay on a CPU computes the work again."""

import contextlib
import dataclasses

import torch


class FakeCuda:
    """Record on a CPU. Nothing runs while it records, as on a GPU.

    `errors` are raised by the first recordings, one each; None lets a recording pass. `spoil` is called after each
    replay and may damage what it has done. Calls with replays take `recorded_seconds`, others `plain_seconds`. With
    `overwrites` a replay writes its results into the memory of the first one's, as on a GPU.
    """

    device = torch.device("cpu")

    def __init__(self, errors=(), spoil=lambda: None, recorded_seconds=1.0, plain_seconds=2.0, overwrites=False):
        self.errors, self.spoil = list(errors), spoil
        self.recorded_seconds, self.plain_seconds = recorded_seconds, plain_seconds
        self.overwrites = overwrites
        self.captures = self.replays = 0

    def renew(self):
        pass

    def new_pool(self):
        return "a pool"

    def beside(self):
        return contextlib.nullcontext()

    def capture(self, compute, own_pool=None):
        self.captures += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

        results = []

        def replay():
            self.replays += 1
            results.append(compute())
            if self.overwrites and len(results) > 1:
                _overwrite(results[0], results.pop())
            self.spoil()
            return results.pop() if not self.overwrites else results[0]

        return replay

    def seconds(self, call):
        before = self.replays
        call()
        return self.recorded_seconds if self.replays > before else self.plain_seconds


def _overwrite(old, new):
    """Copy the tensors of a result into those of another of the same form."""
    if isinstance(old, torch.Tensor):
        old.copy_(new)
    elif dataclasses.is_dataclass(old):
        _overwrite(vars(old), vars(new))
    elif isinstance(old, dict):
        for name, value in old.items():
            _overwrite(value, new[name])
    elif isinstance(old, (list, tuple)):
        for one, other in zip(old, new):
            _overwrite(one, other)
