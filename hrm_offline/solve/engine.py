"""What a worker computes: adaptation and prediction of groups of tasks on one device."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import checksum
from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import Batch, PuzzleSet
from hrm_offline.data.sets import load_set
from hrm_offline.model.artifact import read_safetensors
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.predict.plan import PredictionPlan, tokens_of
from hrm_offline.predict.predictor import Predictor
from hrm_offline.solve.choice import Choice, choose
from hrm_offline.solve.messages import Adapt, Adapted, Hello, Predict, Setup, Voted
from hrm_offline.solve.paths import network_path, state_folder
from hrm_offline.train.adapt import Adaptation, Diverged
from hrm_offline.train.distributed import World, leave_world, meet
from hrm_offline.train.state import load_state, save_state

# A larger canvas costs more a token than the last one did; twice is a safe guess.
_GUESS = 2.0
# How long adaptation may take hangs on this measurement until a group is predicted: repeated where there is time.
_PROBE_SECONDS = 0.1
_PROBES, _MORE_PROBES = 3, 7
_PROBING_SHARE = 0.005  # of the budget may go into the further ones
_MAX_CARRY_BYTES = 2**28
_SAVING_SHARE = 0.01  # of the time may go into saving states


class Engine:
    """Adapts and predicts on one device. `adaptation` is the one that is going on; what is worth telling the
    user goes to `say`. Raises `InputError` for a device, dtype or preset that cannot be had."""

    def __init__(self, setup: Setup, clock: Callable[[], float], say: Callable[[str], None]):
        self.setup, self.clock, self.say = setup, clock, say
        self.runtime: Runtime = choose_runtime(setup.device, setup.dtype)
        if self.runtime.device.type == "cuda":
            torch.cuda.set_device(self.runtime.device)
        self.choice: Choice = choose(setup, self.runtime)
        self.tasks = [task.without_labels() for task in load_set(setup.challenges).tasks]
        self.threads = self._set_threads()
        self.adaptation: Adaptation | None = None
        self.loaded: tuple[int, Predictor, PredictionPlan] | None = None  # the group whose network is in memory
        self.seconds_per_token = self._probe()

    def hello(self) -> Hello:
        runtime, choice = self.runtime, self.choice
        return Hello(
            device=str(runtime),
            gpus=torch.cuda.device_count(),
            model=choice.model,
            recipe=choice.recipe,
            artifact=str(choice.artifact.folder) if choice.artifact else None,
            artifact_digest=self._artifact_digest(),
            reason=choice.reason,
            seconds_per_token=self.seconds_per_token,
            threads=self.threads,
            operations=dispatch.summary(runtime.device, runtime.dtype),
            warning=choice.warning,
            versions={"torch": str(torch.__version__)},  # a plain string: reading it must not load torch
        )

    def adapt(self, job: Adapt) -> Iterator[int]:
        """Learn a group, from the state of an attempt before where there is one; yields after each step.
        Afterwards `adapted` tells what came of it. Raises `Diverged`."""
        self.loaded = None
        recipe = dataclasses.replace(self.choice.recipe, micro_batches=self.choice.recipe.micro_batches * job.parts)
        puzzles = self._puzzles(job.tasks)
        torch.manual_seed(self.setup.seed)
        model = self._new_network(puzzles)
        backend = "nccl" if self.runtime.device.type == "cuda" else "gloo"
        world = meet(backend, job.meeting, job.rank, job.size) if job.size > 1 else World()
        try:
            self.adaptation = Adaptation.of_model(
                model, puzzles, recipe, self.setup.seed, self.choice.artifact is not None, world
            )
            self.adaptation.clock, self.adaptation.until = self.clock, job.until
            self.adaptation.learner.lr_scale = job.lr_scale
            yield from self._learn(job)
            report = self.adaptation.finish()
        finally:
            self.adaptation = None
            leave_world()
        saved = job.rank == 0 and report.steps > 0 and self._save_network(job.group, model)
        crc = checksum(network_path(self.setup.folder, job.group)) if saved else 0
        self.adapted = Adapted(job.group, dataclasses.asdict(report), saved, crc)
        self.loaded = (job.group, Predictor(model, puzzles, recipe), PredictionPlan(puzzles, recipe))

    def predict(self, job: Predict) -> Iterator[Voted]:
        """The votes of one batch after another. Raises `Diverged` if the network yields no numbers."""
        predictor, plan = self._predictor(job)
        for number in job.batches:
            batch = plan.rounds[job.round][number]
            before = self.clock()
            if before + _GUESS * self.seconds_per_token * tokens_of(batch) > job.until:
                return
            votes = predictor.predict(batch)
            if not np.isfinite(votes.confidence).all():
                raise Diverged(f"group {job.group}: the network predicts no numbers")
            seconds = self.clock() - before
            self.seconds_per_token = seconds / tokens_of(batch)
            yield Voted((job.group, job.round, number), votes, tokens_of(batch), seconds)

    def _artifact_digest(self) -> str | None:
        return self.choice.artifact.digest if self.choice.artifact else None

    def _set_threads(self) -> int:
        """A small network gains nothing from a second CPU thread, and one makes runs repeatable."""
        asked = self.setup.threads
        if asked is not None or (self.runtime.device.type == "cpu" and self.choice.model.hidden_size <= 128):
            torch.set_num_threads(asked or 1)
        return torch.get_num_threads()

    def _puzzles(self, tasks: tuple[int, ...]) -> PuzzleSet:
        return PuzzleSet(tuple(self.tasks[i] for i in tasks), self.choice.recipe, self.choice.model, self.setup.seed)

    def _new_network(self, puzzles: PuzzleSet) -> RecursiveModel:
        choice, dtype = self.choice, self.runtime.dtype
        model = (
            choice.artifact.build(puzzles.num_rows, dtype)
            if choice.artifact
            else RecursiveModel(choice.model, puzzles.num_rows, dtype)
        )
        return model.to(self.runtime.device)

    def _new_predictor(self, puzzles: PuzzleSet) -> Predictor:
        return Predictor(self._new_network(puzzles), puzzles, self.choice.recipe)

    def _probe(self) -> float:
        """Seconds that predicting a canvas token takes, measured on the largest task that suits the model;
        0 if none does, which the supervising process will see."""
        puzzles = self._largest_puzzle()
        if puzzles is None:
            return 0.0
        predictor, plan = self._new_predictor(puzzles), PredictionPlan(puzzles, self.choice.recipe)
        batch = plan.rounds[0][-1]
        full, rows = plan.buckets[batch.bucket].batch_size(self.choice.recipe.predict_tokens), 1
        predictor.predict(batch)  # compiles kernels, touches memory
        while True:
            trial = batch.rows(np.arange(rows) % len(batch))
            seconds = self._seconds_of(_PROBES, predictor, trial)
            if seconds >= _PROBES * _PROBE_SECONDS or rows >= full:
                more = self._affordable_probes(seconds / _PROBES)
                seconds += self._seconds_of(more, predictor, trial)
                return seconds / (_PROBES + more) / tokens_of(trial)
            rows = min(full, 4 * rows)

    def _seconds_of(self, times: int, predictor: Predictor, batch: Batch) -> float:
        before = self.clock()
        for _ in range(times):
            predictor.predict(batch)
        return self.clock() - before

    def _affordable_probes(self, seconds: float) -> int:
        """How many further probes of `seconds` each the budget has time for."""
        budget = self.setup.seconds_per_task * len(self.tasks)
        return min(_MORE_PROBES, int(_PROBING_SHARE * budget / max(seconds, 1e-6)))

    def _largest_puzzle(self) -> PuzzleSet | None:
        sizes = [max(pair.input.size for pair in task.test) for task in self.tasks]
        for task in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
            with contextlib.suppress(InputError):
                return self._puzzles((task,))
        return None

    def _learn(self, job: Adapt) -> Iterator[int]:
        """Take the steps, and save the state now and then."""
        adaptation, world = self.adaptation, self.adaptation.learner.world
        folder = state_folder(self.setup.folder, job.group)
        identity = {"tasks": list(job.tasks), "seed": self.setup.seed, "artifact": self._artifact_digest()}
        try:
            progress = load_state(folder, adaptation.learner, identity)
        except InputError as error:
            self.say(f"WARNING: group {job.group} starts over: {error}")
            progress = None
        if progress is not None:
            adaptation.resume(progress)
            self.say(f"group {job.group} goes on at step {adaptation.learner.step}")
        saved, interval = self.clock(), self.setup.save_every
        for step in adaptation.run():
            if adaptation.is_sound and world.agree(int(self.clock() - saved >= interval), self.runtime.device):
                before = self.clock()
                works = self._save_state(folder, identity)
                saved = self.clock()
                interval = max(interval, (saved - before) / _SAVING_SHARE) if works else math.inf
            yield step

    def _save_state(self, folder: Path, identity: dict) -> bool:
        """With its carries, so that a run that goes on equals an unbroken one, unless they outweigh the rest
        or other workers would need them: then the sequences start anew here and there alike."""
        adaptation, learner = self.adaptation, self.adaptation.learner
        carries = learner.world.size == 1 and learner.carry_bytes() <= _MAX_CARRY_BYTES
        if not carries:
            learner.restart_sequences()
        try:
            save_state(folder, learner, identity, adaptation.progress(), carries)
        except (OSError, SafetensorError, InputError) as error:
            self.say(f"WARNING: {folder}: the state of the adaptation cannot be saved: {error}")
            return False
        return True

    def _save_network(self, group: int, model: RecursiveModel) -> bool:
        """Save the adapted network for other workers and for a run that goes on from here."""
        path = network_path(self.setup.folder, group)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
            save_file(weights, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            self.say(f"WARNING: the network of group {group} cannot be saved: {error}")
            temporary.unlink(missing_ok=True)
            return False
        shutil.rmtree(state_folder(self.setup.folder, group), ignore_errors=True)
        return True

    def _predictor(self, job: Predict) -> tuple[Predictor, PredictionPlan]:
        if self.loaded is None or self.loaded[0] != job.group:
            self.loaded = None  # its memory first
            puzzles = self._puzzles(job.tasks)
            model = load_network(self.setup.folder, job.group, self.choice.model, puzzles, self.runtime.dtype)
            model = model.to(self.runtime.device)
            self.loaded = (
                job.group,
                Predictor(model, puzzles, self.choice.recipe),
                PredictionPlan(puzzles, self.choice.recipe),
            )
        return self.loaded[1:]


def load_network(
    folder: Path, group: int, config: ModelConfig, puzzles: PuzzleSet, dtype: torch.dtype
) -> RecursiveModel:
    """The adapted network of a group, whose tasks are `puzzles`, on the CPU. Raises `InputError` if it cannot be
    read."""
    model = RecursiveModel(config, puzzles.num_rows, dtype)
    model.load_state_dict(read_safetensors(network_path(folder, group)))
    return model
