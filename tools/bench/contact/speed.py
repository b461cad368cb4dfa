"""Stages that measure speed: `step`, `block` and `published`."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time

import torch

from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.network import build_network, training_batches
from hrm_offline.ops import dispatch
from hrm_offline.presets import PRESETS
from hrm_offline.solve.gpu_recipe import is_small_decoder
from hrm_offline.train.decoder_learner import new_learner
from hrm_offline.train.learner import Learner
from tools.bench.contact.contact import Contact, Skipped
from tools.bench.contact.runner import die_with_parent
from tools.bench.ops import Inputs, Machine, bench_case, bench_steps, block_case, decoder_layer_case, ways_of
from tools.support import environment
from tools.support.flop import training_flop

_WARM_UP = 5  # steps before the timing; a recording is made within them
_TIMED_STEPS = 7  # at most; a slow chip takes fewer
_COUNTING_SECONDS = 30.0  # that memory_report may take, between the two passes
# Decoders, and whether their steps are recorded. `decoder-75m` learns with dropout, and is not.
_DECODERS = (("decoder-75m", "no"), ("decoder-4m", "no"), ("decoder-4m", "yes"))
_SMALL_DECODERS_TOKENS = 32_000  # per step
_DECODER_WARM_UP, _DECODER_STEPS = 10, 100
_RECORDED_WARM_UP = 60  # steps, in which most shapes are recorded: each at its fourth
_SHARE = 0.9  # of the stage's time may go into steps
_NO_END = 10_000  # steps of a learning rate schedule that the measured steps do not come to the end of
# Preset, sequences, and tokens of the longest. A step of `decoder-75m` holds some 32,000 tokens.
_BLOCK_SHAPES = (
    ("decoder-75m", 96, 360),
    ("decoder-75m", 18, 1860),
    ("hrm-27m", 96, 901),
    ("hrm-27m", 768, 901),
)
_SMOKE_BLOCK_SHAPES = (("decoder-170k", 2, 17), ("hrm-132k", 2, 17))
_PUBLISHED_SHAPES = ((48, 901), (96, 901))


def time_steps(contact: Contact) -> None:
    """Time steps of decoders on real tasks, then that of `hrm-27m` by bucket, without and with CUDA graphs."""
    decoders = contact.pick(_DECODERS, ((contact.preset, "no"),))
    seconds = contact.left() / 3
    for preset, graphs in decoders:
        _time_decoder(contact, preset, graphs, seconds / len(decoders))
        _free_memory(contact)
        dispatch.promote_all()
    preset = contact.pick("hrm-27m", "hrm-132k")
    contact.use_proven_operations(preset)
    plain = _time_buckets(contact, preset, "no", (contact.left() - _COUNTING_SECONDS) / 2)
    _free_memory(contact)
    _compare_memory(contact, preset)
    if contact.smoke:  # a CPU records nothing
        return
    recorded = _time_buckets(contact, preset, "yes", contact.left())
    contact.add("graphs", **{"times as fast": plain / recorded, "serve": plain > recorded})


def _time_decoder(contact: Contact, preset: str, graphs: str, seconds: float) -> None:
    """Time steps of a preset's recipe on the real mix, in its own order: each batch of a decoder has another shape.

    A small decoder takes the large steps of a GPU. FLOP are those of the products with weights, three times the forward
    pass.
    """
    chosen = PRESETS[preset]
    contact.use_proven_operations(preset)
    recipe = dataclasses.replace(chosen.recipe(pretrained=False), cuda_graphs=graphs)
    if is_small_decoder(chosen.model) and not contact.smoke:
        recipe = dataclasses.replace(recipe, tokens_per_step=_SMALL_DECODERS_TOKENS)
    puzzles = PuzzleSet(contact.tasks("mixed"), recipe, chosen.model, seed=0)
    torch.manual_seed(0)
    model = build_network(chosen.model, puzzles.num_rows, contact.runtime.dtype).to(contact.device)
    learner = new_learner(model, recipe, _NO_END, seed=0)
    offer = training_batches(ExampleSource(puzzles, seed=0), contact.device)
    if contact.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    until, examples, tokens = time.perf_counter() + seconds, 0, 0
    warm_up = 1 if contact.smoke else _RECORDED_WARM_UP if graphs == "yes" else _DECODER_WARM_UP
    for step in range(warm_up):
        learner.learn(offer(step))
    contact.wait()
    began, steps = time.perf_counter(), 0
    while not steps or (steps < contact.pick(_DECODER_STEPS, 1) and time.perf_counter() < until):
        batch = offer(learner.step)
        learner.learn(batch)
        steps += 1
        examples += batch.size
        tokens += int(batch.sequences(slice(0, batch.size)).tokens.numel())
    contact.wait()
    spent = time.perf_counter() - began
    weights = sum(param.numel() for param in model.layers.parameters() if param.ndim == 2)
    contact.add(
        "visit",
        preset=preset,
        graphs=graphs,
        **{"timed steps": steps, "seconds": spent / steps},
        **_rates(contact, examples, tokens, 6 * weights * tokens, spent),
        **{"peak GiB": torch.cuda.max_memory_allocated() / 2**30 if contact.device.type == "cuda" else math.nan},
        parts=learner.micro_batches,
        demoted=" ".join(dispatch.demotions()),
    )


def _free_memory(contact: Contact) -> None:
    """Give the memory of a network that is no longer used back to the device."""
    gc.collect()
    if contact.device.type == "cuda":
        torch.cuda.empty_cache()


def _time_buckets(contact: Contact, preset: str, graphs: str, seconds: float) -> float:
    """Write a row for each bucket and one for a visit of all pairs, within about `seconds`.

    Returns the seconds that the visit would take.
    """
    until = time.perf_counter() + _SHARE * seconds
    model_config = PRESETS[preset].model
    recipe = dataclasses.replace(PRESETS[preset].recipe(pretrained=False), cuda_graphs=graphs)
    puzzles = PuzzleSet(contact.tasks("mixed"), recipe, model_config, seed=0)
    source = ExampleSource(puzzles, seed=0)
    torch.manual_seed(0)
    model = build_network(model_config, puzzles.num_rows, contact.runtime.dtype).to(contact.device)
    learner = Learner(model, recipe, total_steps=_NO_END, seed=0)
    maker = BatchMaker(puzzles, source.examples, contact.device)
    rows = []
    for index in range(len(source.buckets)):
        share = (until - time.perf_counter()) / (len(source.buckets) - index)
        rows.append(_time_bucket(contact, learner, source, maker, index, graphs, share))
    visits = [len(bucket.members) / size for bucket, size in zip(source.buckets, source.batch_sizes)]
    needed = sum(steps * row["seconds"] for steps, row in zip(visits, rows))
    pairs = sum(len(bucket.members) for bucket in source.buckets)
    tokens = sum(len(bucket.members) * bucket.area for bucket in source.buckets)
    flop = sum(len(bucket.members) * training_flop(model_config, bucket.area) for bucket in source.buckets)
    rates = _rates(contact, pairs, tokens, flop, needed)
    peak = max((row["peak GiB"] for row in rows), default=math.nan)
    contact.add("visit", preset=preset, graphs=graphs, buckets=len(rows), **rates, **{"peak GiB": peak})
    return needed


def _time_bucket(
    contact: Contact, learner: Learner, source: ExampleSource, maker: BatchMaker, index: int, graphs: str, share: float
) -> dict:
    """Time the step of one bucket, and write and return its row. No further step is timed after `share` seconds."""
    began = time.perf_counter()
    bucket, size = source.buckets[index], source.batch_sizes[index]
    on_gpu = contact.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(contact.pick(_WARM_UP, 1)):
        learner.learn(maker.offer(source.batch_of(index, learner.step)))
    contact.wait()
    seconds: list[float] = []
    while not seconds or (len(seconds) < contact.pick(_TIMED_STEPS, 1) and time.perf_counter() - began < share):
        start = time.perf_counter()
        learner.learn(maker.offer(source.batch_of(index, learner.step)))
        contact.wait()
        seconds.append(time.perf_counter() - start)
    median, tokens = statistics.median(seconds), size * bucket.area
    flop = size * training_flop(learner.model.config, bucket.area)
    row = {
        "graphs": graphs,
        "canvas": bucket.area,
        "batch": size,
        "timed steps": len(seconds),
        "seconds": median,
        **_rates(contact, size, tokens, flop, median),
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else math.nan,
        "parts": learner.micro_batches,
        "demoted": " ".join(dispatch.demotions()),
    }
    contact.add("bucket", **row)
    return row


def _rates(contact: Contact, examples: float, tokens: float, flop: float, seconds: float) -> dict:
    tflops = flop / seconds / 1e12
    return {
        "examples/s": examples / seconds,
        "tokens/s": tokens / seconds,
        "TFLOP/s": tflops,
        "share of peak": tflops / contact.peak_tflops(),
    }


def _count_memory(preset: str) -> subprocess.CompletedProcess:
    """Have memory_report count on the CPU, in a process of its own, since it needs Triton's interpreter."""
    code = (
        "import json, sys; from tools.bench import memory_report; "
        "print(json.dumps(memory_report.lines_of(sys.argv[1])))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, preset],
        cwd=environment.REPOSITORY,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "tools"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )


def _compare_memory(contact: Contact, preset: str) -> None:
    """Write the counted memory of the largest bucket's step beside the measured one."""
    counting = _count_memory(preset)
    if counting.returncode:
        contact.add("memory", preset=preset, fault=f"memory_report ended with code {counting.returncode}")
        return
    largest = max(contact.found("step", "bucket"), key=lambda row: row["batch"] * row["canvas"])
    tokens = largest["batch"] * (largest["canvas"] + PRESETS[preset].model.prefix_tokens)
    for mode, (fixed, per_token) in json.loads(counting.stdout).items():
        counted = (fixed + tokens * per_token) / 2**30
        contact.add("memory", preset=preset, mode=mode, **{"counted GiB": counted, "peak GiB": largest["peak GiB"]})


def time_block(contact: Contact) -> None:
    """Time a block and a decoder's layer, forward and both ways.

    Ours and eager come first at all shapes, then compiled, which may take minutes.
    """
    machine = _machine(contact)
    shapes = contact.pick(_BLOCK_SHAPES, _SMOKE_BLOCK_SHAPES)
    for compiled in contact.pick((False, True), (False,)):
        for preset, batch, tokens in shapes:
            dispatch.promote_all()
            contact.use_proven_operations(preset)
            config = PRESETS[preset].model
            inputs = Inputs(config, batch, tokens, machine)
            case = decoder_layer_case(inputs) if config.is_decoder else block_case(inputs)
            ways = [way for way in ways_of(case, machine, compiled) if (way[0] == "compiled") == compiled]
            for row in bench_case(case, batch, tokens, machine, ways):
                contact.add("block", preset=preset, **dataclasses.asdict(row))
    dispatch.promote_all()


def time_published(contact: Contact) -> None:
    """Time our step, a plain one, and the published one, compiled, of a checkout."""
    if contact.against is None:
        raise Skipped("no checkout of the published code was given (--against DIR)")
    machine, config = _machine(contact), PRESETS["hrm-27m"].model
    contact.use_proven_operations("hrm-27m")
    for batch, tokens in contact.pick(_PUBLISHED_SHAPES, ((2, 17),)):
        for row in bench_steps(config, batch, tokens, machine, contact.against, compiled=not contact.smoke):
            contact.add("published", **dataclasses.asdict(row))


def _machine(contact: Contact) -> Machine:
    """Return the machine with the peaks that the stage `machine` has measured, NaN where it has not."""
    rows = contact.found("machine", "peaks")
    copy = rows[-1]["copy GB/s"] if rows else math.nan
    return Machine(contact.device, contact.runtime.dtype, contact.peak_tflops(), copy)
