"""Adapt to groups of tasks and predict them on one device: the computing part of a worker."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hrm_offline.answers.vote import Votes
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import checksum, read_json, write_json
from hrm_offline.common.machine import peak_memory
from hrm_offline.config import ModelConfig
from hrm_offline.data.companions import load_companions
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import TaskSet, digest_of
from hrm_offline.model import graphs
from hrm_offline.model.artifact import TABLE_KEY, read_safetensors
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.model.network import Network, build_network
from hrm_offline.ops import dispatch, selftest
from hrm_offline.predict.decoding import AnyPredictor, new_predictor
from hrm_offline.predict.plan import GPU_ROWS_PER_STEP, READING, ROWS_PER_STEP, PredictionPlan, tokens_of
from hrm_offline.solve.choice import Choice, choose
from hrm_offline.solve.members import member_seed
from hrm_offline.solve.messages import Adapt, Adapted, Along, Hello, Judge, Judged, Predict, Setup, Voted
from hrm_offline.solve.paths import network_path, selftest_path, state_folder
from hrm_offline.solve.probe import Probe
from hrm_offline.train.adapt import Adaptation, Diverged
from hrm_offline.train.companions import CompanionPuzzles
from hrm_offline.train.distributed import World, leave_world, meet
from hrm_offline.train.state import load_state, save_state

# A larger canvas costs more per token than the last one did; twice as much is a safe guess.
_GUESS = 2.0
_MAX_SELFTEST_SECONDS, _SELFTEST_SHARE = 60.0, 0.01  # the least of both; the share is of the budget
_JUDGED_BATCHES = 4  # of `predict_tokens`, after which the scores are handed over
_MAX_CARRY_BYTES = 2**28
_MAX_WIDTH_OF_ONE_THREAD = 192  # of a network that computes with one thread on a CPU
_SAVING_SHARE = 0.01  # of the time may go into saving states


class Engine:
    """Adapt and predict on one device.

    `clock` gives seconds, and `say` takes lines for the user. `adaptation` is the adaptation that is going on, or None.
    Raises `InputError` for a device, dtype or preset that this machine does not have, and for a set of tasks that
    cannot be read.
    """

    def __init__(self, setup: Setup, clock: Callable[[], float], say: Callable[[str], None]):
        self.setup, self.options, self.clock, self.say = setup, setup.options, clock, say
        if setup.plain_operations:
            dispatch.set_mode("reference")
        self.runtime: Runtime = choose_runtime(self.options.device, self.options.dtype)
        if self.runtime.device.type == "cuda":
            torch.cuda.set_device(self.runtime.device)
        task_set = load_set(self.options.challenges)
        self.tasks = [task.without_labels() for task in task_set.tasks]
        self.choice: Choice = choose(setup, self.runtime, self.tasks)
        self.companions = self._load_companions(task_set)
        self.along = self._along()
        self.threads = self._set_threads()
        self.adaptation: Adaptation | None = None
        self.gone_on_from = 0  # the step of the saved state that the last adaptation went on from
        self.loaded: tuple[int, AnyPredictor, PredictionPlan] | None = None  # the group whose network is in memory
        self.micro_batches = self.choice.recipe.micro_batches  # grows when memory runs out
        # A worker that takes the place of one whose GPU was lost risks nothing.
        setting = "no" if setup.plain_operations else self.choice.recipe.cuda_graphs
        device = self.runtime.device
        self.graphs = {work: graphs.GraphChoice.of(setting, device) for work in ("adapt", "predict")}
        self.selftest = self._prove_operations()
        self.rows_per_step = self._known_rows_per_step()
        self.seconds_per_cost = self._probe()

    def hello(self) -> Hello:
        runtime, choice = self.runtime, self.choice
        return Hello(
            device=str(runtime),
            gpus=torch.cuda.device_count(),
            network=choice.network,
            artifact_digest=self._artifact_digest(),
            reason=choice.reason,
            seconds_per_cost=self.seconds_per_cost,
            threads=self.threads,
            operations=dispatch.summary(runtime.device, runtime.dtype),
            warning=choice.warning,
            selftest=self.selftest,
            versions={"torch": str(torch.__version__)},  # a plain string: reading it must not load torch
            memory=peak_memory(),
            along=self.along,
            rows_per_step=self.rows_per_step,
        )

    def plan_of(self, puzzles: PuzzleSet) -> PredictionPlan:
        """Return the plan of predicting puzzles, with the costs of this device."""
        return PredictionPlan(puzzles, self.choice.recipe, self.rows_per_step)

    def use_threads(self, number: int) -> None:
        """Compute with so many CPU threads from now on."""
        torch.set_num_threads(number)

    def adapt(self, job: Adapt) -> Iterator[int]:
        """Learn a group and yield the number of each step; `adapted` then holds the message about the result.

        An attempt that was cut off goes on from its saved state. Raises `Diverged` if the loss is not a number.
        """
        self.loaded, began = None, self.clock()
        # Parts that memory has forced upon one group are kept for the next.
        parts = max(self.micro_batches, self.choice.recipe.micro_batches * job.parts)
        recipe = dataclasses.replace(self.choice.recipe, micro_batches=parts)
        seed = member_seed(self.options.seed, job.member)
        puzzles = self._puzzles(job.tasks, job.member)
        torch.manual_seed(seed)
        learned, model = self._new_lesson(puzzles)
        backend = "nccl" if self.runtime.device.type == "cuda" else "gloo"
        world = meet(backend, job.meeting, job.rank, job.size) if job.size > 1 else World()
        try:
            self.adaptation = Adaptation.of_model(
                model,
                learned,
                recipe,
                seed,
                self.choice.artifact is not None,
                world,
                self.graphs["adapt"],
            )
            self.adaptation.clock, self.adaptation.until = self.clock, job.until
            self.adaptation.learner.lr_scale = job.lr_scale
            yield from self._learn(job)
            report = self.adaptation.finish()
            self.micro_batches = self.adaptation.learner.micro_batches
            leave_world()
        finally:
            self.adaptation = None
        saved = job.rank == 0 and report.steps > 0 and self._save_network(job.group, model, puzzles)
        crc = checksum(network_path(self.setup.folder, job.group)) if saved else 0
        seconds = round((self.clock() - began) * report.steps / max(1, report.steps - self.gone_on_from), 3)
        self.adapted = Adapted(job.group, dataclasses.asdict(report) | {"seconds": seconds}, saved, crc)
        self.loaded = (job.group, self._new_predictor(model, puzzles), self.plan_of(puzzles))

    def predict(self, job: Predict) -> Iterator[Voted]:
        """Yield the votes of one batch after another. Raises `Diverged` if the network yields no numbers."""
        predictor, plan = self._predictor(job)
        for number in job.batches:
            batch = plan.rounds[job.round][number]
            before = self.clock()
            if before + _GUESS * self.seconds_per_cost * plan.cost_of(batch) > job.until:
                return
            votes = predictor.predict(batch)
            if not np.isfinite(votes.confidence).all():
                raise Diverged(f"group {job.group}: the network predicts no numbers")
            seconds = self.clock() - before
            self.seconds_per_cost = seconds / plan.cost_of(batch)
            yield Voted((job.group, job.round, number), votes, tokens_of(batch), seconds)

    def judge(self, job: Judge) -> Iterator[Judged]:
        """Yield the scores of some candidates after another. Raises `Diverged` if they are no numbers.

        The candidates for a test input stand together, and those that are cheap to judge come first.
        """
        predictor, _ = self._predictor(job)
        tokens = predictor.judging_tokens(np.array(job.tests), list(job.grids))
        order = np.lexsort((job.tests, np.bincount(job.tests, tokens)[list(job.tests)]))
        part_of = (np.cumsum(tokens[order]) - 1) // (_JUDGED_BATCHES * self.choice.recipe.predict_tokens)
        seconds_per_token = READING * self.seconds_per_cost
        for part in (order[part_of == number] for number in np.unique(part_of)):
            before, work = self.clock(), int(tokens[part].sum())
            if before + _GUESS * seconds_per_token * work > job.until:
                return
            tests, grids = ([column[i] for i in part] for column in (job.tests, job.grids))
            scores = predictor.judge(np.array(tests), grids)
            if not np.isfinite(scores).all():
                raise Diverged(f"group {job.group}: the network judges by no numbers")
            yield Judged(job.group, Votes.of_grids(np.array(tests), grids, scores))
            seconds_per_token = (self.clock() - before) / work

    def _prove_operations(self) -> dict | None:
        """Test our kernels on this GPU, or take over the test of another worker on the same chip. None on a CPU."""
        if self.setup.plain_operations or not selftest.can_run(self.runtime.device):
            return None
        path, chip = selftest_path(self.setup.folder), selftest.chip_name(self.runtime.device)
        with contextlib.suppress(OSError, InputError, KeyError, TypeError):
            known = read_json(path)[chip]
            selftest.apply(known["verdicts"])
            return known
        puzzles = self._largest_puzzle()
        if puzzles is None:
            return None
        area = max(bucket.area for bucket in puzzles.buckets(puzzles.demonstrations))
        budget = self.setup.seconds_per_task * len(self.tasks)
        seconds = min(_MAX_SELFTEST_SECONDS, _SELFTEST_SHARE * budget)
        workload = selftest.workload_of(self.choice.model, self.choice.recipe, area, self.runtime.dtype)
        found = selftest.run_selftest(workload, self.runtime.device, seconds)
        self.say(found.summary())
        with contextlib.suppress(OSError):  # another worker then tests for itself
            write_json(path, {chip: found.as_dict()})
        return found.as_dict()

    def _artifact_digest(self) -> str | None:
        return self.choice.artifact.digest if self.choice.artifact else None

    def _set_threads(self) -> int:
        """Set the CPU threads and return their number.

        With one thread a run repeats bit for bit. A network of 64 columns gains nothing from a second one.
        """
        asked = self.options.threads
        is_small = self.choice.model.hidden_size <= _MAX_WIDTH_OF_ONE_THREAD
        if asked is not None or (self.runtime.device.type == "cpu" and is_small):
            torch.set_num_threads(asked or 1)
        return torch.get_num_threads()

    def _puzzles(self, tasks: tuple[int, ...], member: int = 0) -> PuzzleSet:
        seed = member_seed(self.options.seed, member)
        return PuzzleSet(tuple(self.tasks[i] for i in tasks), self.choice.recipe, self.choice.model, seed)

    def _new_network(self, puzzles: PuzzleSet) -> Network:
        choice, dtype = self.choice, self.runtime.dtype
        model = (
            choice.artifact.build(puzzles.num_rows, dtype)
            if choice.artifact
            else build_network(choice.model, puzzles.num_rows, dtype)
        )
        return model.to(self.runtime.device)

    def _new_lesson(self, puzzles: PuzzleSet) -> tuple[PuzzleSet, Network]:
        """Return a group's puzzles, with those that are learned along after them, and a new network for them all."""
        if self.companions is None:
            return puzzles, self._new_network(puzzles)
        learned = self.companions.join(puzzles)
        model = self._new_network(learned)
        self.companions.start_embeddings(model, learned, puzzles.num_rows)
        return learned, model

    def _load_companions(self, task_set: TaskSet) -> CompanionPuzzles | None:
        """Return the tasks that are learned along, None where none were asked for."""
        choice = self.choice
        if not choice.recipe.along:
            return None
        found = load_companions(choice.recipe.along, task_set.readable())
        return CompanionPuzzles(found, choice.recipe, choice.model, choice.artifact, self.say)

    def _along(self) -> Along | None:
        if self.companions is None:
            return None
        found = self.companions.companions
        return Along(
            tasks=len(found.tasks),
            pairs=found.pairs,
            digest=digest_of(found.tasks),
            left_out=found.left_out,
            repeated=found.repeated,
            words="\n".join([*found.unusable, f"learned along: {found}"]),
        )

    def _new_predictor(self, model: Network, puzzles: PuzzleSet) -> AnyPredictor:
        return new_predictor(model, puzzles, self.choice.recipe, self.graphs["predict"])

    def _probe(self) -> float:
        """Measure the seconds per unit of the cost of prediction, on the largest task that suits the model.

        Return 0 if no task suits; the supervising process finds that out by itself.
        """
        puzzles = self._largest_puzzle()
        if puzzles is None:
            return 0.0
        predictor, plan = self._new_predictor(self._new_network(puzzles), puzzles), self.plan_of(puzzles)
        on_cpu, budget = self.runtime.device.type == "cpu", self.setup.seconds_per_task * len(self.tasks)
        fits = not on_cpu and self.choice.model.is_decoder and self.setup.rows_per_step is None
        seconds = Probe(predictor, plan, budget, self.clock, on_cpu, fits).measure()
        self.rows_per_step = plan.rows_per_step
        return seconds

    def _known_rows_per_step(self) -> float:
        """Return the cost of a decoder's step as the run reckons with it, or what is taken for this kind of device."""
        if self.setup.rows_per_step is not None:
            return self.setup.rows_per_step
        return ROWS_PER_STEP if self.runtime.device.type == "cpu" else GPU_ROWS_PER_STEP

    def _largest_puzzle(self) -> PuzzleSet | None:
        sizes = [max(pair.input.size for pair in task.test) for task in self.tasks]
        for task in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
            with contextlib.suppress(InputError):
                return self._puzzles((task,))
        return None

    def _learn(self, job: Adapt) -> Iterator[int]:
        """Take the steps and save the state now and then."""
        adaptation, world = self.adaptation, self.adaptation.learner.world
        folder = state_folder(self.setup.folder, job.group)
        seed = member_seed(self.options.seed, job.member)
        identity = {"tasks": list(job.tasks), "seed": seed, "artifact": self._artifact_digest()}
        if self.along is not None:
            identity["along"] = self.along.digest
        try:
            progress = load_state(folder, adaptation.learner, identity)
        except (InputError, OSError) as error:
            self.say(f"WARNING: group {job.group} starts over: {error}")
            progress = None
        if progress is not None:
            adaptation.resume(progress)
            self.say(f"group {job.group} goes on at step {adaptation.learner.step}")
        self.gone_on_from = adaptation.learner.step
        saved, interval = self.clock(), self.options.save_every
        for step in adaptation.run():
            if adaptation.is_sound and world.agree(int(self.clock() - saved >= interval), self.runtime.device):
                before = self.clock()
                works = self._save_state(folder, identity)
                saved = self.clock()
                interval = max(interval, (saved - before) / _SAVING_SHARE) if works else math.inf
            yield step

    def _save_state(self, folder: Path, identity: dict) -> bool:
        """Save the adaptation so far. Return False if the disk refuses.

        The carries are saved too, so that a run that goes on equals an unbroken run. Carries that are large, or that
        lie in several workers, are not saved: all sequences start anew, in this run and in one that goes on.
        """
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

    def _save_network(self, group: int, model: Network, puzzles: PuzzleSet) -> bool:
        """Save the adapted network for other workers, and for a run that goes on. Return False if the disk refuses.

        No embeddings are saved but those of the group's `puzzles`: no others are needed to predict.
        """
        path = network_path(self.setup.folder, group)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
            if TABLE_KEY in weights:
                weights[TABLE_KEY] = weights[TABLE_KEY][: puzzles.num_rows]
            save_file(weights, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            self.say(f"WARNING: the network of group {group} cannot be saved: {error}")
            with contextlib.suppress(OSError):  # there may be no folder that it could lie in
                temporary.unlink()
            return False
        return True

    def _predictor(self, job: Predict | Judge) -> tuple[AnyPredictor, PredictionPlan]:
        if self.loaded is None or self.loaded[0] != job.group:
            self.loaded = None  # frees its memory before the next network is loaded
            puzzles = self._puzzles(job.tasks, job.member)
            model = load_network(self.setup.folder, job.group, self.choice.model, puzzles, self.runtime.dtype)
            model = model.to(self.runtime.device)
            self.loaded = (job.group, self._new_predictor(model, puzzles), self.plan_of(puzzles))
        return self.loaded[1:]


def load_network(folder: Path, group: int, config: ModelConfig, puzzles: PuzzleSet, dtype: torch.dtype) -> Network:
    """Return the adapted network of a group, on the CPU. `puzzles` holds the group's tasks.

    Raises `InputError` if the file cannot be read.
    """
    model = build_network(config, puzzles.num_rows, dtype)
    model.load_state_dict(read_safetensors(network_path(folder, group)))
    return model
