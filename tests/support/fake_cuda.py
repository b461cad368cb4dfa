"""Stand in for CUDA where work is recorded as graphs: a replay on a CPU computes the work again."""

import contextlib


class FakeCuda:
    """Record on a CPU. Nothing runs while it records, as on a GPU.

    `errors` are raised by the first recordings, one each; None lets a recording pass. `spoil` is called after each
    replay and may damage what it has done. Calls with replays take `recorded_seconds`, others `plain_seconds`.
    """

    def __init__(self, errors=(), spoil=lambda: None, recorded_seconds=1.0, plain_seconds=2.0):
        self.errors, self.spoil = list(errors), spoil
        self.recorded_seconds, self.plain_seconds = recorded_seconds, plain_seconds
        self.captures = self.replays = 0

    def renew(self):
        pass

    def beside(self):
        return contextlib.nullcontext()

    def capture(self, compute):
        self.captures += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

        def replay():
            self.replays += 1
            result = compute()
            self.spoil()
            return result

        return replay

    def seconds(self, call):
        before = self.replays
        call()
        return self.recorded_seconds if self.replays > before else self.plain_seconds
