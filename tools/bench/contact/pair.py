"""Stage `pair`: two GPUs learn together over NCCL, and must learn what one GPU learns in two parts."""

from __future__ import annotations

import dataclasses
import time
import uuid
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hrm_offline.common.files import make_folder
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import Task
from hrm_offline.model.device import choose_runtime
from hrm_offline.model.network import training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.presets import PRESETS
from hrm_offline.train.distributed import World, leave_world, meet
from hrm_offline.train.learner import Learner
from tools.bench.contact.contact import Contact, Skipped

_RESULT = "together.safetensors"
_STEPS, _WARM_UP = 10, 4
# Sums in another order differ by roundings, which few steps of 16 bits hardly enlarge.
_LARGEST_DIFFERENCE = 0.02


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What both arrangements learn: tasks by a preset, on "cuda" or "cpu"."""

    tasks: tuple[Task, ...]
    preset: str
    kind: str


def learn_together(contact: Contact) -> None:
    """Learn some steps with two GPUs and with one, and compare weights and times."""
    count = torch.cuda.device_count()
    if count < 2 and not contact.smoke:
        raise Skipped(f"this stage needs two GPUs, and there {'is one' if count == 1 else 'is none'}")
    lesson = Lesson(contact.tasks("mixed"), contact.pick("hrm-27m", "hrm-132k"), contact.device.type)
    folder = make_folder(contact.folder / "pair")
    meeting = str(folder / f"meeting-{uuid.uuid4().hex}")
    context = get_context("spawn")
    both = [context.Process(target=_join, args=(lesson, meeting, rank, folder), daemon=True) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    codes = [process.exitcode for process in both]
    contact.check("both processes end", codes == [0, 0], f"exit codes {codes}")
    if codes != [0, 0]:
        return
    together = load_file(folder / _RESULT)
    alone, seconds = _learn(lesson, World(), parts=2, index=0)
    difference = float((together["weights"] - alone).norm() / alone.norm())
    contact.add(
        "pair",
        steps=_STEPS,
        **{
            "seconds per step, two GPUs": float(together["seconds"]),
            "seconds per step, one GPU": seconds,
            "times as fast": seconds / float(together["seconds"]),
            "difference of the weights": difference,
        },
    )
    detail = f"the weights differ by {difference:.2g} of their size, allowed {_LARGEST_DIFFERENCE}"
    contact.check("two learn as one", difference <= _LARGEST_DIFFERENCE, detail)


def _join(lesson: Lesson, meeting: str, rank: int, folder: Path) -> None:
    """Learn as one of two processes. The first one saves the weights and the seconds per step."""
    if lesson.kind == "cuda":
        torch.cuda.set_device(rank)
    world = meet("nccl" if lesson.kind == "cuda" else "gloo", meeting, rank, 2)
    weights, seconds = _learn(lesson, world, parts=1, index=rank)
    if rank == 0:
        save_file({"weights": weights, "seconds": torch.tensor(seconds)}, folder / _RESULT)
    leave_world()


def _learn(lesson: Lesson, world: World, parts: int, index: int) -> tuple[torch.Tensor, float]:
    """Return the weights after some steps, float32 [all of them] on the CPU, and the seconds per step."""
    runtime, chosen = choose_runtime(lesson.kind, index=index), PRESETS[lesson.preset]
    recipe = dataclasses.replace(chosen.recipe(pretrained=False), micro_batches=parts)
    puzzles = PuzzleSet(lesson.tasks, recipe, chosen.model, seed=0)
    torch.manual_seed(0)
    model = RecursiveModel(chosen.model, puzzles.num_rows, runtime.dtype).to(runtime.device)
    learner = Learner(model, recipe, _STEPS, seed=0, world=world)
    offer = training_batches(ExampleSource(puzzles, seed=0), model.device)
    began = 0.0
    for step in range(_STEPS):
        if step == _WARM_UP:
            _wait(runtime.device)
            began = time.perf_counter()
        learner.learn(offer(step))
    _wait(runtime.device)
    seconds = (time.perf_counter() - began) / (_STEPS - _WARM_UP)
    return torch.cat([param.detach().flatten().float().cpu() for param in learner.params]), seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
