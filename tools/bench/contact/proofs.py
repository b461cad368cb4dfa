"""Stages that ask whether results are right: `selftest`, `tests` and `repeat`."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import numpy as np
import torch

from hrm_offline.answers.vote import Votes
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.batching import OfferedBatch
from hrm_offline.model.network import build_network, training_batches
from hrm_offline.ops import dispatch, selftest
from hrm_offline.predict.decoding import new_predictor
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.presets import PRESETS
from hrm_offline.train.decoder_learner import new_learner
from hrm_offline.train.learner import Learner, sum_metrics
from tools.bench.contact.contact import Contact
from tools.bench.contact.runner import die_with_parent
from tools.bench.ops import KERNEL_TESTS
from tools.support import environment

# The shapes of runs, most important first: a preset, and the cells of its canvas.
SHAPES = (("decoder-75m", 900), ("hrm-27m", 900), ("decoder-75m", 225), ("hrm-27m", 225))
MARKED_TESTS = (
    "tests/train/test_graphs.py",
    "tests/predict/test_decoding.py",
    "tests/predict/test_predictor.py",
    "tests/model/test_layers.py",
    "tests/train/test_losses.py",
)
_OUTCOMES = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
# One process writes "TEST OUTCOME", and several write "[gw0] [ 50%] OUTCOME TEST".
_OUTCOME = re.compile(rf"^(?P<test>\S+::.+?) (?P<outcome>{_OUTCOMES})\b")
_OUTCOME_OF_WORKER = re.compile(rf"^\[gw\d+\] \[ *\d+%\] (?P<outcome>{_OUTCOMES}) (?P<test>\S+::.+)$")
_TEST_PROCESSES = 6  # where pytest-xdist is installed; most of a test's time is the compilation of its kernels
_REPEATED_STEPS, _REPEATED_BATCHES = 20, 2
_NAMES_SHOWN = 8
_REPEATED_TOKENS = 16 * 900  # per step and per batch of prediction, so that the slowest chip has time for both runs


def prove_operations(contact: Contact) -> None:
    """Run the product's self-test at the shapes of real runs, and write every candidate and every verdict."""
    shapes = contact.pick(SHAPES, (("decoder-170k", 9), ("hrm-132k", 9)))
    for index, (name, area) in enumerate(shapes):
        recipe, model = PRESETS[name].adapt, PRESETS[name].model
        recipe = replace(recipe, tokens_per_step=contact.pick(recipe.tokens_per_step, 2 * area))
        workload = selftest.workload_of(model, recipe, area, contact.runtime.dtype)
        shape = f"{workload.batch} x {workload.tokens}"
        share = contact.left() * share_of(shapes, index)
        # The interpreter serves on a CPU only where kernels are demanded.
        with dispatch.override("triton") if contact.smoke else contextlib.nullcontext():
            found = selftest.run_selftest(
                workload,
                contact.device,
                share,
                measure=contact.pick(None, _seconds_of_one_call),
                note=lambda row, name=name, shape=shape: contact.add(
                    "operation", preset=name, shape=shape, **asdict(row)
                ),
            )
        for verdict in found.verdicts:
            contact.add("verdict", preset=name, shape=shape, **asdict(verdict))
        dispatch.promote_all()  # each shape is judged for itself
    wrong = [row for row in contact.found("selftest", "operation") if row["fault"]]
    names = sorted({f"{row['op']} ({row['candidate']})" for row in wrong})
    contact.check("every operation is right", not wrong, ", ".join(names) or "as plain PyTorch, within rounding")


def share_of(shapes: tuple[tuple[str, int], ...], index: int) -> float:
    """Return the share of the time that is left which a shape gets; those before it are done.

    The first shape of a preset compiles the kernels for all of them, so it gets three times as much as another.
    """
    weights = [1 if name in [before for before, _ in shapes[:at]] else 3 for at, (name, _) in enumerate(shapes)]
    return weights[index] / sum(weights[index:])


def _seconds_of_one_call(call: Callable[[], object], _: torch.device) -> float:
    """Return the seconds of a single call, which is enough where times mean nothing."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run_tests(contact: Contact) -> None:
    """Run the tests that need a GPU, then those of all operations. Write each outcome as it comes."""
    marked = ["-m", "gpu", *MARKED_TESTS]
    others = ["-m", "not gpu", *KERNEL_TESTS]
    counts: dict[str, int] = {}
    for arguments in contact.pick([marked, others], [["tests/ops/test_rope.py"]]):
        for test, outcome in _outcomes(contact, arguments):
            counts[outcome] = counts.get(outcome, 0) + 1
            contact.add("test", test=test, outcome=outcome)
    bad = sum(counts.get(outcome, 0) for outcome in ("failed", "error"))
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    contact.check("tests", not bad and counts.get("passed", 0) > 0, told or "no test ran, see tests.log")


def _outcomes(contact: Contact, arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each test and its outcome while pytest runs. All that pytest says goes into tests.log."""
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "--tb=short", *arguments]
    if not contact.smoke and importlib.util.find_spec("xdist"):
        command += ["-n", str(_TEST_PROCESSES)]
    with (
        open(contact.folder / "tests.log", "a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=environment.REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=die_with_parent,
        ) as pytest,
    ):
        for line in pytest.stdout:
            log.write(line)
            log.flush()
            if match := _OUTCOME.match(line) or _OUTCOME_OF_WORKER.match(line.rstrip()):
                yield match["test"], match["outcome"].lower()


def repeat_a_seed(contact: Contact) -> None:
    """Adapt and predict twice from one seed. Write whether weights, embeddings and votes are the same bits."""
    contact.use_proven_operations(contact.preset)
    (first, its_votes), (second, other_votes) = _adapted(contact), _adapted(contact)
    worst = max(float((a.float() - b.float()).abs().max()) for a, b in zip(first, second))
    same = all(torch.equal(a, b) for a, b in zip(first, second))
    voted = all(
        np.array_equal(vars(a)[name], vars(b)[name]) for a, b in zip(its_votes, other_votes) for name in vars(a)
    )
    steps = contact.pick(_REPEATED_STEPS, 2)
    contact.add("repeat", steps=steps, weights=same, votes=voted, difference=worst)
    detail = f"{steps} steps twice: weights {'equal' if same else f'differ by {worst:.2g}'}"
    contact.check("bits repeat", same and voted, f"{detail}, votes {'equal' if voted else 'differ'}")
    for preset in (contact.preset, contact.pick("hrm-27m", "hrm-132k")):
        dispatch.promote_all()
        contact.use_proven_operations(preset)
        _repeat_gradients(contact, preset)


def _repeat_gradients(contact: Contact, preset: str) -> None:
    """Compute the gradients of one step twice from the same weights. Write which weights' gradients are other bits.

    Where the loss repeats, what differs is made by the backward pass, in the layers up to the first name.
    """
    learner, offer, _ = _learner(contact, preset)
    learner.lr_scale = 0.0  # so that the weights stay
    losses, grads = [], []
    for _ in range(2):
        learner.step = 0  # dropout and exploration draw by it
        learner.carries.clear()
        losses.append(sum_metrics(learner.learn(offer(0)))["loss"].cpu())
        grads.append([None if param.grad is None else param.grad.cpu() for param in learner.params])
    names = [name for name, _ in learner.model.named_parameters()]
    differ = [name for name, one, other in zip(names, *grads) if one is not None and not torch.equal(one, other)]
    contact.add(
        "gradients",
        preset=preset,
        loss=torch.equal(*losses),
        weights=len(names),
        differ=len(differ),
        last=" ".join(differ[: -_NAMES_SHOWN - 1 : -1]),  # the backward pass comes from there
    )


def _learner(contact: Contact, preset: str) -> tuple[Learner, Callable[[int], OfferedBatch], PuzzleSet]:
    """Return the learner of a preset with random weights of a seed, what offers its batches, and the tasks."""
    chosen = PRESETS[preset]
    tokens = contact.pick(_REPEATED_TOKENS, 750)
    recipe = replace(chosen.recipe(pretrained=False), tokens_per_step=tokens, predict_tokens=tokens, cuda_graphs="no")
    puzzles = PuzzleSet(contact.tasks("mixed"), recipe, chosen.model, seed=0)
    torch.manual_seed(0)
    model = build_network(chosen.model, puzzles.num_rows, contact.runtime.dtype).to(contact.device)
    learner = new_learner(model, recipe, contact.pick(_REPEATED_STEPS, 2), seed=0)
    return learner, training_batches(ExampleSource(puzzles, seed=0), contact.device), puzzles


def _adapted(contact: Contact) -> tuple[list[torch.Tensor], list[Votes]]:
    """Adapt some steps. Return the weights and embeddings, on the CPU, and the votes of some batches."""
    learner, offer, puzzles = _learner(contact, contact.preset)
    for step in range(learner.total_steps):
        learner.learn(offer(step))
    predictor, plan = new_predictor(learner.model, puzzles, learner.recipe), PredictionPlan(puzzles, learner.recipe)
    votes = [predictor.predict(batch) for batch in plan.rounds[0][:_REPEATED_BATCHES]]
    return [value.cpu() for value in learner.model.state_dict().values()], votes
