"""Kill real runs of solve at random instants, and check that none is lost.

    python tools/stress/kill_runs.py --runs 200

Each run is `python -m hrm_offline solve` on a few real tasks, with one worker or two and induction beside them. SIGKILL
hits the leading process, or one of its workers or of its searches for programs, mostly after an adaptation has saved
its first state, sometimes before, and sometimes while a file is being written. After the kill, submission.json must be
valid. A run whose leader was killed is started again. In the end every run must have the answers of an unbroken run.
The exit code is 1 if any has not. Linux only.
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
from tools.support.command_line import parser_of, solve_command

# Enough for the slowest machine: a run that is short of time learns less, and then has other answers.
_BUDGET, _END_SECONDS = "2h", 3600
_SAVE_EVERY = 0.3  # seconds between saved states, few so that there is something to go on from


@dataclass(frozen=True)
class Kill:
    """A kill to try.

    `victim` is "leader" or "worker". `share` is the instant: a share of the time until an adaptation saves its first
    state if `starting`, else of the time after that. With `writing`, the kill waits until a file is being written,
    other than the first submission.
    """

    number: int
    workers: int
    victim: str
    share: float
    starting: bool
    writing: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a kill.

    `too_early`: the kill came before the first submission. `too_late`: the run had ended before the kill. `valid`: the
    submission was valid after the kill and in the end. `code`: the exit code in the end. `same`: the answers are those
    of an unbroken run. `resumed`: the run says that it went on from what was saved.
    """

    kill: Kill
    too_early: bool
    too_late: bool
    valid: bool
    code: int
    same: bool
    resumed: bool


class Trials:
    """Runs trials in `folder`, after one unbroken run with one worker and one with two.

    By number of workers, `references` holds the answers of the unbroken run, `starting` its seconds until an adaptation
    saved its first state, and `going_on` its seconds after that.
    """

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
        """Start a run, kill as `kill` says, start the run again if its leader is dead, and see how it ends."""
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
        command = solve_command(
            challenges=self.challenges,
            out=out,
            budget=_BUDGET,
            visits=self.visits,
            members=1,
            workers=workers,
            save_every=_SAVE_EVERY,
        )
        with open(_log_of(out), "a") as log:
            return subprocess.Popen(command, cwd=environment.REPOSITORY, stdout=log, stderr=log)

    def _hit(self, run: subprocess.Popen, kill: Kill, out: Path) -> bool:
        """Wait for the instant and kill. Returns False if the run had ended before."""
        starting, going_on = self.starting[kill.workers], self.going_on[kill.workers]
        if kill.starting:
            time.sleep(kill.share * starting)
        else:
            # If the machine is busier now than during the unbroken run, this run was slower to start, and will be
            # slower to go on.
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
        """Wait until an adaptation has saved a state, or the run has ended."""
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
    """Return a random worker of a leading process, or None if there is none.

    A worker is a child that runs our code, and so is a search for programs; multiprocessing's resource tracker is a
    child, too, but none of ours.
    """
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
    """Draw the kills: leaders and workers equally often.

    A quarter of the leaders is killed while a file is being written. A quarter of all others is killed before an
    adaptation has saved a state.
    """
    rng = random.Random(seed)
    kills = []
    for number in range(runs):
        workers, victim = 1 + number % 2, "leader" if number % 4 < 2 else "worker"
        writing = victim == "leader" and number % 16 < 4
        starting = not writing and rng.random() < 0.25
        kills.append(Kill(number, workers, victim, rng.random(), starting, writing))
    return kills


def main() -> int:
    options = _parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(Path(scratch), options.tasks, options.visits)
        for workers in trials.references:
            print(
                f"unbroken run, {workers} workers: {trials.starting[workers]:.1f} s until a state was saved, "
                f"{trials.going_on[workers]:.1f} s after that",
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
    """Print a table of the outcomes by kind of kill. Returns 1 if any run was lost, else 0."""
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


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="runs to kill (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=4, metavar="N", help="tasks per run (default: %(default)s)")
    parser.add_argument(
        "--visits",
        type=int,
        default=150,
        metavar="N",
        help="how often each demonstration is offered; fewer make the runs shorter (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the kills (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="runs side by side (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
