"""Can a run be lost by killing it? Real runs of `solve`, killed at random instants and started again.

    python tools/stress/kill_runs.py --runs 200

Each run is `python -m hrm_offline solve` on a few real tasks, with one worker or two. At a random instant, mostly of
the time in which there is something to lose, or while a file is being written, SIGKILL hits the leading process or one
of its workers. Then `submission.json` must be valid, and the run, started again where its leader was killed, must end
with the answers of an unbroken run. Ends with exit code 1 if any did not. Linux only.
"""

from __future__ import annotations

import script_setup

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.answers.submission import read_submission
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import to_challenges
from hrm_offline.solve.paths import FOLDER
from hrm_offline.train.state import STATE_FILE
from tools.local_dryrun import choose_tasks
from tools.support import environment

# On however slow a machine: a run that is short of time learns less, and so has other answers.
_BUDGET, _END_SECONDS = "2h", 3600


@dataclass(frozen=True)
class Kill:
    """One trial: who is killed ("leader", "worker"), at which share of the time until the first state of an adaptation
    is saved (`starting`) or of the time from there on, and whether only once a file is being written that is not the
    first."""

    number: int
    workers: int
    victim: str
    share: float
    starting: bool
    writing: bool


@dataclass(frozen=True)
class Outcome:
    """Whether there was a file and a valid one after the kill, how the run ended in all, whether its answers are those
    of an unbroken one, and whether the kill came before the first file or after the end."""

    kill: Kill
    too_early: bool
    too_late: bool
    valid: bool
    code: int
    same: bool
    resumed: bool


class Trials:
    """Runs trials in `folder`; `references` are the answers of unbroken runs by number of workers, `starting` and
    `going_on` the seconds these took until the first state of an adaptation was saved, and from there on."""

    def __init__(self, folder: Path, tasks: int, visits: int):
        self.folder, self.visits = folder, visits
        self.challenges = folder / "challenges.json"
        chosen = choose_tasks("arc1", tasks)
        self.challenges.write_text(json.dumps(to_challenges(chosen)))
        self.counts = {task.id: len(task.test) for task in chosen}
        self.references, self.starting, self.going_on = {}, {}, {}
        for workers in (1, 2):
            out, start = folder / f"unbroken-{workers}", time.monotonic()
            run = self._start(out, workers)
            self._await_state(run, out)
            saved = time.monotonic()
            run.wait(_END_SECONDS)
            self.starting[workers], self.going_on[workers] = saved - start, time.monotonic() - saved
            self.references[workers] = self._answers(out)

    def run(self, kill: Kill) -> Outcome:
        out = self.folder / f"run-{kill.number}"
        run = self._start(out, kill.workers)
        hit = self._hit(run, kill, out)
        if kill.victim == "leader" and hit:
            run.wait(_END_SECONDS)
        too_early = not (out / "submission.json").exists()
        valid = too_early or self._is_valid(out)
        if kill.victim == "leader" and hit:
            run = self._start(out, kill.workers)
        code = run.wait(_END_SECONDS)
        valid = valid and self._is_valid(out)
        same = valid and self._answers(out) == self.references[kill.workers]
        log = _log_of(out).read_text()
        return Outcome(kill, too_early, not hit, valid, code, same, "going on from" in log or "goes on at" in log)

    def _start(self, out: Path, workers: int) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "hrm_offline",
            "solve",
            "--challenges",
            str(self.challenges),
            "--out",
            str(out),
            "--budget",
            _BUDGET,
            "--visits",
            str(self.visits),
            "--workers",
            str(workers),
            "--save-every",
            "0.3",
        ]
        with open(_log_of(out), "a") as log:
            return subprocess.Popen(command, cwd=environment.REPOSITORY, stdout=log, stderr=log)

    def _hit(self, run: subprocess.Popen, kill: Kill, out: Path) -> bool:
        """Wait for the instant and kill; False if the run had ended before."""
        starting, going_on = self.starting[kill.workers], self.going_on[kill.workers]
        if kill.starting:
            time.sleep(kill.share * starting)
        else:  # a machine that is busier now than in the unbroken run was slower in starting, too
            start = time.monotonic()
            self._await_state(run, out)
            time.sleep(kill.share * going_on * (time.monotonic() - start) / starting)
        if kill.writing:
            while run.poll() is None and not ((out / "submission.json").exists() and any(out.rglob("*.tmp"))):
                time.sleep(0.0002)
        victim = run.pid if kill.victim == "leader" else _worker_of(run.pid)
        if run.poll() is not None or victim is None:
            return False
        os.kill(victim, signal.SIGKILL)
        return True

    def _await_state(self, run: subprocess.Popen, out: Path) -> None:
        """Until there is something to go on from, or the run has ended."""
        while run.poll() is None and not any((out / FOLDER).glob(f"*/{STATE_FILE}")):
            time.sleep(0.02)

    def _is_valid(self, out: Path) -> bool:
        try:
            read_submission(out / "submission.json", self.counts)
        except InputError as error:
            print(error, flush=True)
            return False
        return True

    def _answers(self, out: Path):
        return json.loads((out / "submission.json").read_text())


def _log_of(out: Path) -> Path:
    return out.parent / f"{out.name}.log"


def _worker_of(leader: int) -> int | None:
    """A random worker of a leading process: a child that runs our code, not multiprocessing's resource tracker."""
    children = Path(f"/proc/{leader}/task/{leader}/children")
    workers = [
        int(child)
        for child in (children.read_text().split() if children.exists() else [])
        if b"spawn_main" in _command_line(child)
    ]
    return random.choice(workers) if workers else None


def _command_line(process: str) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def draw_kills(runs: int, seed: int) -> list[Kill]:
    """Leaders and workers alike, a quarter of the leaders while a file is being written, a quarter of the others
    before there is anything to go on from."""
    rng = random.Random(seed)
    kills = []
    for number in range(runs):
        workers, victim = 1 + number % 2, "leader" if number % 4 < 2 else "worker"
        writing = victim == "leader" and number % 16 < 4
        starting = not writing and rng.random() < 0.25
        kills.append(Kill(number, workers, victim, rng.random(), starting, writing))
    return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--visits", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="runs side by side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(Path(scratch), options.tasks, options.visits)
        for workers in trials.references:
            print(
                f"unbroken, {workers} workers: {trials.starting[workers]:.1f} s until a state was saved, "
                f"{trials.going_on[workers]:.1f} s more",
                flush=True,
            )
        outcomes = []
        with ThreadPoolExecutor(options.at_once) as executor:
            for outcome in executor.map(trials.run, draw_kills(options.runs, options.seed)):
                outcomes.append(outcome)
                if not outcome.valid or outcome.code or not outcome.same:
                    print(outcome, flush=True)
                    print(_log_of(Path(scratch) / f"run-{outcome.kill.number}").read_text(), flush=True)
    return report(outcomes)


def report(outcomes: list[Outcome]) -> int:
    print(f"{'killed':<28}{'runs':>6}{'invalid':>9}{'exit not 0':>12}{'other answers':>15}{'went on':>9}")
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        kill = outcome.kill
        name = f"{kill.victim}{' while writing' if kill.writing else ''}, {kill.workers} workers"
        name = "after the end" if outcome.too_late else "before the first file" if outcome.too_early else name
        groups.setdefault(name, []).append(outcome)
    for name, found in sorted(groups.items()):
        print(
            f"{name:<28}{len(found):>6}{sum(not o.valid for o in found):>9}{sum(o.code != 0 for o in found):>12}"
            f"{sum(not o.same for o in found):>15}{sum(o.resumed for o in found):>9}"
        )
    return 1 if any(not o.valid or o.code or not o.same for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
