"""Pretrain offline on public tasks, in one process or under torchrun. A run that was stopped can be continued.

python -m hrm_offline pretrain --preset hrm-132k --data arc1-train --out runs/first
torchrun --nproc-per-node 2 -m hrm_offline pretrain --preset hrm-132k --out runs/first
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from hrm_offline.common.budget import in_words
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, remove_drafts
from hrm_offline.common.lock import FolderLock
from hrm_offline.common.settings import identity_of
from hrm_offline.config import ModelConfig, PretrainConfig, PretrainOptions
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.sets import select_tasks
from hrm_offline.data.tasks import Task, digest_of
from hrm_offline.model.artifact import CONFIG_FILE, Artifact, bundled_artifact, load_artifact, save_artifact
from hrm_offline.model.batching import OfferedBatch
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.model.network import Network, build_network, training_batches
from hrm_offline.ops import dispatch
from hrm_offline.presets import preset
from hrm_offline.train.decoder_learner import new_learner
from hrm_offline.train.distributed import World, join_world, leave_world
from hrm_offline.train.learner import Learner, sum_metrics
from hrm_offline.train.memory import plan_memory
from hrm_offline.train.relay import is_ahead, load_relay, save_relay
from hrm_offline.train.state import FREE_SETTINGS, load_state, save_state, saved_step

METRICS_FILE = "metrics.jsonl"
# The keys in a saved state of the step until which only embeddings learn, and of the parts that a batch has.
_UNTIL_KEY, _PARTS_KEY = "warm_at", "micro_batches"
# A terminal's bar moves in place. In a file each move is a line more, and all of a long run are megabytes.
_SECONDS_PER_MOVE, _SECONDS_PER_LINE = 0.1, 30.0
_ASK_EVERY = 10  # steps after which several processes ask each other whether to stop


def pretrain(config: PretrainConfig, options: PretrainOptions) -> bool:
    """Train to `config.steps` and write the artifact into `options.out`. A run that is there is continued.

    A relay in `options.relay` is continued instead if it is further on. Returns False if SIGTERM, SIGINT or the end of
    `options.minutes` ended the run early; its state is saved and its relay is written then. Raises `InputError`, also
    while another run is at work in `options.out`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    runtime = choose_runtime(options.device, options.dtype, index=int(os.environ.get("LOCAL_RANK", "0")))
    if runtime.device.type == "cuda":
        torch.cuda.set_device(runtime.device)  # where NCCL's barriers run
    model_config = preset(config.preset).model.conditioned(config)
    start = _start_of(config, model_config)
    world = join_world("nccl" if runtime.device.type == "cuda" else "gloo")
    lock = FolderLock(options.out, print)
    try:
        make_folder(options.out)
        if world.is_main:
            lock.acquire()
            remove_drafts(options.out)
        finished = _pretrain(config, options, model_config, start, runtime, world)
        leave_world()
        return finished
    finally:
        lock.release()


def _pretrain(
    config: PretrainConfig,
    options: PretrainOptions,
    model_config: ModelConfig,
    start: Artifact | None,
    runtime: Runtime,
    world: World,
) -> bool:
    """Pretrain as one process of a run whose folder is locked. Returns whether all steps were taken."""
    relay = None if options.relay is None else make_folder(options.relay)
    selection = select_tasks(config)
    puzzles = PuzzleSet(selection.tasks, config, model_config, config.seed)
    model = _first_network(model_config, start, puzzles.num_rows, runtime, config.seed)
    learner = new_learner(model, config, config.steps, config.seed, world)
    identity = _identity(config, selection.tasks, start)
    loaded = _resume(learner, identity, Path(options.out), relay)
    if world.is_main:
        for line in selection.unusable:
            print(line)
        print(f"computing on {runtime}; {selection}; {puzzles.num_rows} embedding rows{loaded.remark(learner.step)}")
        print(f"operations: {dispatch.summary(runtime.device, runtime.dtype)}")
    source = ExampleSource(puzzles, config.seed, config.include_tests)
    learner.memory = plan_memory(source, model, world)
    # Made before training: the checkout may change in the meantime.
    origin = {"pretrained": identity, "torch": torch.__version__, **_provenance()}
    if start:
        origin["start"] = read_json(start.folder / CONFIG_FILE)["origin"]
    run = _Run(config, Path(options.out), learner, source, identity, loaded)
    with _StopSignal(options.minutes) as stop:
        finished = run.train(stop)
        if relay:
            save_relay(relay, learner, identity, options.relay_moments)
        if finished and world.is_main:
            _finish(learner, model_config, config.conditioning, puzzles, origin, options)
    if finished:
        world.barrier()
    return finished


def _first_network(config: ModelConfig, start: Artifact | None, rows: int, runtime: Runtime, seed: int) -> Network:
    """Return the network as a run begins with it: with the weights of `start`, or with random ones."""
    torch.manual_seed(seed)  # every process draws the same weights
    model = start.build(rows, runtime.dtype) if start else build_network(config, rows, runtime.dtype)
    return model.to(runtime.device)


class _Loaded(NamedTuple):
    """Says from where a run goes on."""

    place: str | None  # "state" or "relay", None for a run that begins
    embeddings_until: int  # the step until which only embeddings learn

    def remark(self, step: int) -> str:
        """Return the end of the line on a run's start, which is at `step`."""
        if self.place is None:
            return ""
        if self.place == "state":
            return f"; continuing at step {step}"
        alone = "" if self.embeddings_until == step else f", embeddings alone until {self.embeddings_until}"
        return f"; continuing at step {step} of the relay{alone}"


def _resume(learner: Learner, identity: dict, out: Path, relay: Path | None) -> _Loaded:
    """Load the state in `out` into the learner, or the relay if it is further on."""
    if relay and is_ahead(relay, identity, saved_step(out, identity)):
        return _Loaded("relay", load_relay(relay, learner, identity))
    extra = load_state(out, learner, identity)
    if extra is None:
        return _Loaded(None, 0)
    learner.micro_batches = extra.get(_PARTS_KEY, learner.micro_batches)  # the saved slots are of parts of that size
    return _Loaded("state", extra.get(_UNTIL_KEY, 0))


def _start_of(config: PretrainConfig, model: ModelConfig) -> Artifact | None:
    """Return the artifact with whose weights the run begins, None for random weights.

    Raises `InputError` where its network is not that of the run.
    """
    if not config.start:
        return None
    folder = bundled_artifact(config.preset) if config.start == "bundled" else Path(config.start)
    if folder is None:
        raise InputError(f"--start bundled: no artifact of preset {config.preset} comes with the package")
    artifact = load_artifact(folder).conditioned(config)
    wanted = dataclasses.asdict(model) | {"conditioning": config.conditioning}
    given = dataclasses.asdict(artifact.config) | {"conditioning": artifact.conditioning}
    other = next((name for name in wanted if wanted[name] != given[name]), None)
    if other:
        raise InputError(
            f"{config.start}: its network has {other} {given[other]}, expected {wanted[other]} as preset "
            f"{config.preset} has it; give the preset of the artifact"
        )
    return artifact


def _identity(config: PretrainConfig, tasks: tuple[Task, ...], start: Artifact | None) -> dict:
    """Return what makes a run the same run: tasks, first weights, and the settings but for `FREE_SETTINGS`."""
    settings = {name: value for name, value in identity_of(config).items() if name not in FREE_SETTINGS}
    first = {"start": start.digest if start else None}  # the bytes count, and not the folder where they lie
    # Through JSON, so that it equals what a saved state reads back (tuples become lists).
    return json.loads(json.dumps(settings | {"tasks": digest_of(tasks)} | first))


class _Run:
    """Trains a run and saves its state. `loaded` says from where the run goes on."""

    def __init__(
        self,
        config: PretrainConfig,
        out: Path,
        learner: Learner,
        source: ExampleSource,
        identity: dict,
        loaded: _Loaded,
    ):
        self.config, self.out, self.learner, self.source, self.identity = config, out, learner, source, identity
        self.embeddings_until = loaded.embeddings_until
        self.saved_at = learner.step if loaded.place == "state" else None  # the step of the state in `out`

    def train(self, stop: _StopSignal) -> bool:
        """Train until the last step or until asked to stop, and save. Returns whether all steps were taken."""
        learner, last = self.learner, self.config.steps
        log = _MetricsLog(self.out, learner.step, learner.world, self.config.log_every)
        progress = _Progress(learner, last)
        offer = training_batches(self.source, learner.model.device)
        while learner.step < last and not stop.seen(learner.step, learner.world, learner.model.device):
            learner.embeddings_only = learner.step < self.embeddings_until
            batch = offer(learner.step)
            metrics = sum_metrics(learner.learn(batch))
            progress.add(batch, log.add(learner.step, metrics, batch.size))
            if learner.step % self.config.save_every == 0:
                self.save()
        self.save()
        progress.close()
        return learner.step >= last

    def save(self) -> None:
        """Save the state, unless that of this step is saved already."""
        if self.saved_at != self.learner.step:
            extra = {_UNTIL_KEY: self.embeddings_until, _PARTS_KEY: self.learner.micro_batches}
            save_state(self.out, self.learner, self.identity, extra)
            self.saved_at = self.learner.step


class _Progress:
    """Shows how far a run is by a bar, and tells its rates at the end. Only the main process prints."""

    def __init__(self, learner: Learner, steps: int):
        self.learner, self.steps = learner, steps
        seconds = _SECONDS_PER_MOVE if sys.stderr.isatty() else _SECONDS_PER_LINE
        self.bar = tqdm(
            total=steps,
            initial=learner.step,
            disable=not learner.world.is_main,
            unit="step",
            mininterval=seconds,
            maxinterval=max(10.0, 2 * seconds),  # a thread of tqdm would move the bar sooner otherwise
        )
        self.began, self.examples, self.tokens = time.monotonic(), 0, 0
        self.told: str | None = None  # why CUDA graphs are used or not

    def add(self, batch: OfferedBatch, line: dict | None) -> None:
        """Count a step on a batch, with the line of metrics where one was due."""
        if self.learner.world.is_main and self.learner.graphs.reason != self.told:
            self.told = self.learner.graphs.reason
            print(self.learner.graphs)
        self.examples += batch.size
        self.tokens += batch.size * batch.canvas[0] * batch.canvas[1]
        if line:
            rate = f"{line['examples_per_second']:,.0f} examples/s"
            text = f"loss {line['lm_loss']:.3f}, accuracy {line['accuracy']:.3f}, {rate}"
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """End the bar, and print the rates of all steps."""
        self.bar.close()
        if self.learner.world.is_main and self.examples:
            seconds = time.monotonic() - self.began
            print(
                f"trained to step {self.learner.step:,} of {self.steps:,} in {in_words(seconds)}: "
                f"{self.examples / seconds:,.0f} examples/s, {self.tokens / seconds:,.0f} canvas tokens/s"
            )


class _StopSignal:
    """Notices SIGTERM and SIGINT inside a `with` block, and the end of `minutes` (None: no end)."""

    def __init__(self, minutes: float | None):
        self.received = False
        self.until = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._handlers: dict[int, Any] = {}  # those of the caller

    def __enter__(self) -> _StopSignal:
        self._handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, *_) -> None:
        self.received = True

    def seen(self, step: int, world: World, device: torch.device) -> bool:
        """Return whether any process was asked to stop. All processes get the same answer at the same step.

        Several processes ask each other at some steps only, since each of them waits for its device to do so.
        """
        asked = self.received or time.monotonic() >= self.until
        if world.size == 1:
            return asked
        if step % _ASK_EVERY:
            return False
        flag = torch.tensor(float(asked), device=device)
        return world.sum_metrics({"stop": flag})["stop"] > 0


class _MetricsLog:
    """Writes `metrics.jsonl`: one line per `every` steps, averaged over those steps and over the processes.

    Losses are means over examples. The other metrics are means over the sequences that halted.
    """

    def __init__(self, out: Path, step: int, world: World, every: int):
        self.path, self.world, self.every = out / METRICS_FILE, world, every
        self.sums: dict[str, torch.Tensor] = {}
        self.examples, self.since = 0, time.monotonic()
        if world.is_main:
            self._drop_after(step)

    def _drop_after(self, step: int) -> None:
        """Drop the lines after `step`: a killed run wrote them after its last saved state, and they come again."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self.path.write_text("".join(line + "\n" for line in kept))

    def add(self, step: int, metrics: dict[str, torch.Tensor], examples: int) -> dict | None:
        """Count in the metrics of a step with that many examples. Returns the line where one is due, else None."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.examples += examples
        if step % self.every:
            return None
        sums = self.world.sum_metrics(self.sums)
        halted = max(1.0, sums.pop("count"))
        line = {"step": step}
        for name, value in sums.items():
            line[name] = value / (self.examples if name.endswith("loss") else halted)
        now = time.monotonic()
        line["examples_per_second"] = self.examples / (now - self.since)
        self.sums, self.examples, self.since = {}, 0, now
        if self.world.is_main:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line


def _provenance() -> dict:
    """Return the command that is running and the commit of its checkout, None for an installed package."""
    folder = Path(__file__).parent
    git = shutil.which("git")
    describe = [git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    shown = git and subprocess.run(describe, cwd=folder, capture_output=True, text=True)
    return {
        "command": shlex.join(["python", "-m", "hrm_offline", *sys.argv[1:]]),
        "commit": shown.stdout.strip() if shown and shown.returncode == 0 else None,
    }


def _finish(
    learner: Learner,
    model: ModelConfig,
    conditioning: str,
    puzzles: PuzzleSet,
    origin: dict,
    options: PretrainOptions,
) -> None:
    """Write the artifact, with the averaged weights where there are any."""
    if learner.ema:
        learner.ema.swap()
    weights, origin = learner.model.state_dict(), origin | {"steps": learner.step}
    save_artifact(options.out, model, conditioning, weights, puzzles.row_names(), origin, options.store)
    if learner.ema:
        learner.ema.swap()
    print(f"artifact of {learner.step} steps in {options.out}")
