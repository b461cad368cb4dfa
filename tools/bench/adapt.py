"""How many useful example-steps a second adaptation takes, on real tasks, and how that grows.

    python tools/bench/adapt.py --against PATH_TO_A_CHECKOUT_OF_SAPIENTINC_HRM

Four parts (`--only` picks): "ready" times and weighs making the data ready, "steps" the training step of each bucket of
a set's real task mix, ours and the published one on 30x30 and on tight canvases, "linear" whole adaptations of 20, 80
and 240 tasks, "workers" two processes against one. All ways of "steps" do the same learning: the published network and
halting, at the preset's size; `ratio SET CANVAS` compares ours on that canvas with the published step on 30x30.
"""

from __future__ import annotations

import script_setup

import argparse
import dataclasses
import json
import math
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch

from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.config import PRESETS, AdaptConfig, ModelConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import Task, load_tasks, to_challenges, to_solutions
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.train.adapt import adapt
from hrm_offline.train.learner import Learner
from tools.bench.ops import measure_machine
from tools.bench.published import build_dataset, training_step
from tools.support import environment
from tools.support.flop import training_flop

PARTS = ("ready", "steps", "linear", "workers")
_CPU_TOKENS = 16 * 900  # a batch of 16 on the full canvas
_WARM_UP = 2
_PUBLISHED_TASKS = 24  # what its builder needs for more is minutes and gigabytes
_LINEAR_VISITS = 4


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to take a training step: "ours", "ours, looking ahead" (with plain PyTorch) or "published", on a canvas."""

    name: str
    canvas: str


@dataclasses.dataclass
class Work:
    """One bucket of a set in one way: its steps are timed one by one."""

    cells: int
    pairs: int
    batch: int
    step: Callable[[], object]
    seconds: list[float] = dataclasses.field(default_factory=list)


def configs(preset: str, tokens: int) -> tuple[ModelConfig, AdaptConfig]:
    """The preset's network with the published halting and conditioning, and its recipe with a batch of `tokens`."""
    model = PRESETS[preset].model
    model = dataclasses.replace(model, halting="q-learning", puzzle_columns=1, puzzle_emb_ndim=model.hidden_size)
    recipe = dataclasses.replace(
        PRESETS[preset].adapt,
        conditioning="table",
        tokens_per_step=tokens,
        translate=0.75,
        colour_permutations=100,
        loss="stablemax",
        ema=0.0,
    )
    return model, recipe


class StepBench:
    """Training steps on the real task mix of one set."""

    def __init__(self, source: str, preset: str, tokens: int, runtime: Runtime, against: Path | None, compiled: bool):
        self.tasks = load_tasks(source).require_good()
        self.model_config, self.recipe = configs(preset, tokens)
        self.runtime, self.against, self.compiled = runtime, against, compiled
        self.peaks: dict[Way, float] = {}

    def ways(self) -> list[Way]:
        names = ["ours", "look-ahead", *(["published"] if self.against else [])]
        return [Way(name, canvas) for name in names for canvas in ("full", "tight")]

    def works(self, way: Way) -> list[Work]:
        """Every bucket of the set, ready to step; one step of each was taken."""
        before = self._allocated()
        recipe = dataclasses.replace(self.recipe, canvas=way.canvas)
        if way.name == "look-ahead":
            recipe = dataclasses.replace(recipe, halting_target="look-ahead")
        puzzles = PuzzleSet(self.tasks, recipe, self.model_config, seed=0)
        source = ExampleSource(puzzles, seed=0)
        maker = BatchMaker(puzzles, source.examples, self.runtime.device)
        make = self._published if way.name == "published" else self._ours(way, recipe, puzzles)
        works = []
        for index, bucket in enumerate(source.buckets):
            step = make(source, maker, index)
            works.append(Work(bucket.area, len(bucket.members), source.batch_sizes[index], step))
            for _ in range(_WARM_UP):
                step()
        self.peaks[way] = self._peak() - before
        return works

    def _ours(self, way: Way, recipe: AdaptConfig, puzzles: PuzzleSet):
        torch.manual_seed(0)
        model = RecursiveModel(self.model_config, puzzles.num_rows, self.runtime.dtype).to(self.runtime.device)
        learner = Learner(model, recipe, total_steps=10_000, seed=0)
        mode = "reference" if way.name == "look-ahead" else "auto"

        def make(source: ExampleSource, maker: BatchMaker, index: int) -> Callable[[], object]:
            def step():
                with dispatch.override(mode):
                    return learner.learn(maker.offer(source.batch_of(index, learner.step)))

            return step

        return make

    def _published(self, source: ExampleSource, maker: BatchMaker, index: int) -> Callable[[], object]:
        sequences = maker.make(source.batch_of(index, 0))
        batch = {
            "inputs": sequences.inputs,
            "labels": sequences.labels.int(),
            "puzzle_identifiers": sequences.puzzle_identifiers[:, 0].int(),
        }
        torch.manual_seed(0)
        return training_step(
            self.against,
            self.model_config,
            self.recipe,
            batch,
            source.puzzles.num_rows,
            self.runtime.dtype,
            self.compiled,
        )

    def time(self, rounds: int) -> dict[Way, list[Work]]:
        """Every step of every way `rounds` times, in turns, so that a busy moment hits all alike."""
        works = {way: self.works(way) for way in self.ways()}
        for _ in range(rounds):
            for work in (work for way in works.values() for work in way):
                self._wait()
                start = time.perf_counter()
                work.step()
                self._wait()
                work.seconds.append(time.perf_counter() - start)
        return works

    def _wait(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize()

    def _allocated(self) -> float:
        if self.runtime.device.type != "cuda":
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30

    def _peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.runtime.device.type == "cuda" else math.nan


def bench_steps(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """A row a set and way."""
    size = 8192 if runtime.device.type == "cuda" else 1024
    measure_machine(runtime.device, runtime.dtype, size)  # the first call starts threads and libraries
    machine = measure_machine(runtime.device, runtime.dtype, size)
    print(f"matrix product: {machine.gemm_tflops:.3f} TFLOP/s")
    tokens = options.tokens or (
        _CPU_TOKENS if runtime.device.type == "cpu" else PRESETS[options.preset].adapt.tokens_per_step
    )
    rows = []
    for source in options.sets:
        bench = StepBench(source, options.preset, tokens, runtime, options.against, not options.no_compile)
        timed = bench.time(options.rounds)
        for way, works in timed.items():
            rows.append(_step_row(source, way, works, bench, machine.gemm_tflops))
            _print_step_row(rows[-1])
    for row in rows:
        base = [r for r in rows if r["set"] == row["set"] and r["way"] == "published" and r["canvas"] == "full"]
        if base and row["way"] == "ours":
            canvas = "30x30" if row["canvas"] == "full" else "tight"
            print(f"ratio {row['set']} {canvas}: {row['examples/s'] / base[0]['examples/s']:.2f}")
    return rows


def _step_row(source: str, way: Way, works: list[Work], bench: StepBench, peak: float) -> dict:
    """A visit of every pair costs each bucket's pairs over its batch, in steps."""
    seconds = sum(w.pairs / w.batch * statistics.median(w.seconds) for w in works)
    pairs = sum(w.pairs for w in works)
    tokens = sum(w.pairs * w.cells for w in works)
    flop = sum(w.pairs * training_flop(bench.model_config, w.cells, way.name != "ours") for w in works)
    tflops = flop / seconds / 1e12
    return {
        "set": source,
        "canvas": way.canvas,
        "way": way.name,
        "examples/s": pairs / seconds,
        "tokens/s": tokens / seconds,
        "cells an example": tokens / pairs,
        "shapes": len(works),
        "TFLOP/s": tflops,
        "share of matrix product": tflops / peak,
        "peak GiB": bench.peaks[way],
    }


def _print_step_row(row: dict) -> None:
    memory = "" if math.isnan(row["peak GiB"]) else f"{row['peak GiB']:>7.2f} GiB"
    print(
        f"{row['set']:<12}{row['canvas']:<7}{row['way']:<12}{row['examples/s']:>9.1f} examples/s"
        f"{row['tokens/s']:>11.0f} tokens/s{row['cells an example']:>6.0f} cells{row['TFLOP/s']:>9.3f} TFLOP/s"
        f"{row['share of matrix product']:>6.0%} of the matrix product{memory}",
        flush=True,
    )


def bench_ready(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """From parsed tasks to the first batch on the device, 1,000 augmentations a task; each in a fresh process."""
    rows = [_in_fresh_process(_make_ready, "ours", 240, runtime.device.type)]
    if options.against is not None:
        rows.append(_in_fresh_process(_make_ready, str(options.against), _PUBLISHED_TASKS, runtime.device.type))
    for row in rows:
        print(
            f"data ready ({row['builder']}): {row['tasks']} tasks x 1,000 augmentations in {row['seconds']:.2f} s, "
            f"{row['memory MB']:.0f} MB of memory, {row['disk MB']:.0f} MB of disk",
            flush=True,
        )
    return rows


def _make_ready(builder: str, count: int, device: str) -> dict:
    tasks = load_tasks("arc1-eval").tasks[:count]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        if builder != "ours":
            _write_task_files(tasks, data / "evaluation")
        before, start = _resident_megabytes(), time.perf_counter()
        if builder == "ours":
            model, recipe = configs("hrm-27m", 96 * 900)
            puzzles = PuzzleSet(tasks, dataclasses.replace(recipe, colour_permutations=1000), model, seed=0)
            source = ExampleSource(puzzles, seed=0)
            kept = BatchMaker(puzzles, source.examples, torch.device(device)).make(source.batch(0))
        else:
            kept = build_dataset(Path(builder), data, out, 1000)
        seconds = time.perf_counter() - start
        del kept
        disk = sum(file.stat().st_size for file in out.rglob("*.npy")) / 1e6
    name = "ours" if builder == "ours" else "published"
    return {
        "builder": name,
        "tasks": count,
        "seconds": seconds,
        "memory MB": _resident_megabytes() - before,
        "disk MB": disk,
    }


def _write_task_files(tasks: tuple[Task, ...], folder: Path) -> None:
    folder.mkdir(parents=True)
    challenges, solutions = to_challenges(tasks), to_solutions(tasks)
    for task_id, task in challenges.items():
        for pair, output in zip(task["test"], solutions[task_id]):
            pair["output"] = output
        (folder / f"{task_id}.json").write_text(json.dumps(task))


def _resident_megabytes() -> float:
    """The most this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def bench_linear(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """Whole adaptations, the same visits of each demonstration, of 20, 80 and 240 tasks."""
    rows = []
    for count in (20, 80, 240):
        tasks = _spread(load_tasks("arc1-eval").tasks, count)
        recipe = dataclasses.replace(PRESETS[options.preset].adapt, visits=_LINEAR_VISITS)
        puzzles = PuzzleSet(tasks, recipe, PRESETS[options.preset].model, seed=0)
        model = RecursiveModel(PRESETS[options.preset].model, puzzles.num_rows, runtime.dtype).to(runtime.device)
        start = time.perf_counter()
        report = adapt(model, puzzles, recipe, Budget(1e9), seed=0, pretrained=False)
        seconds = time.perf_counter() - start
        cells = int(sum(len(b.members) * b.area for b in ExampleSource(puzzles, 0).buckets))
        rows.append({"tasks": count, "steps": report.steps, "seconds": seconds, "cells": cells})
        print(
            f"{count} tasks: {report.steps} steps in {seconds:.1f} s, {seconds / count:.3f} s a task, "
            f"{1e6 * seconds / cells / _LINEAR_VISITS:.1f} s a million cells",
            flush=True,
        )
    return rows


def _spread(tasks: tuple[Task, ...], count: int) -> tuple[Task, ...]:
    """`count` tasks at even distances of their file, so that each count has the same mix."""
    return tuple(tasks[i * len(tasks) // count] for i in range(count))


def bench_workers(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """Examples a second of one and of two processes on one thread each, every process with tasks of its own."""
    rows = []
    for workers in (1, 2):
        context = get_context("spawn")
        queue, barrier = context.Queue(), context.Barrier(workers)
        processes = [
            context.Process(target=_worker, args=(queue, barrier, i, options.preset, str(runtime.device)))
            for i in range(workers)
        ]
        for process in processes:
            process.start()
        rate = sum(queue.get() for _ in processes)
        for process in processes:
            process.join()
        rows.append({"workers": workers, "examples/s": rate})
        print(f"{workers} worker{'s' if workers > 1 else ''}: {rate:.0f} examples/s", flush=True)
    print(f"ratio workers 2: {rows[1]['examples/s'] / rows[0]['examples/s']:.2f}")
    return rows


def _worker(queue, barrier, part: int, preset: str, device: str) -> None:
    torch.set_num_threads(1)
    chosen = PRESETS[preset]
    tasks = load_tasks("arc1-eval").tasks[part : 200 + part : 2]
    source = ExampleSource(PuzzleSet(tasks, chosen.adapt, chosen.model, seed=0), seed=0)
    model = RecursiveModel(chosen.model, source.puzzles.num_rows, choose_runtime(device).dtype).to(device)
    learner = Learner(model, chosen.adapt, total_steps=10_000, seed=0)
    maker = BatchMaker(source.puzzles, source.examples, model.device)

    def steps_for(seconds: float) -> float:
        examples, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            batch = maker.offer(source.batch(learner.step))
            examples += batch.size
            learner.learn(batch)
        return examples / (time.perf_counter() - start)

    steps_for(3)
    barrier.wait()
    queue.put(steps_for(20))


def _in_fresh_process(function: Callable[..., dict], *arguments) -> dict:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=list(PRESETS), help="default: hrm-27m on a GPU, else hrm-132k")
    parser.add_argument("--sets", nargs="+", default=["arc1-eval", "arc2-eval"], metavar="SET")
    parser.add_argument("--against", type=Path, help="a checkout of sapientinc/HRM")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART")
    parser.add_argument("--tokens", type=int, help="canvas tokens a step (default: the recipe's; 16 x 900 on a CPU)")
    parser.add_argument("--rounds", type=int, default=7, help="times each step is timed (default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out of the published step")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--out", type=Path, default=Path("bench_adapt.json"))
    options = parser.parse_args()
    try:
        return run(options)
    except InputError as error:
        print(f"bench_adapt: error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    runtime = choose_runtime(options.device)
    on_cpu = runtime.device.type == "cpu"
    options.preset = options.preset or ("hrm-132k" if on_cpu else "hrm-27m")
    options.no_compile |= on_cpu
    about = {
        "commit": environment.commit_of_checkout(),
        "device": str(runtime),
        "threads": options.threads,
        "preset": options.preset,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.python_version()}",
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    parts = {"ready": bench_ready, "steps": bench_steps, "linear": bench_linear, "workers": bench_workers}
    results = {name: parts[name](options, runtime) for name in options.only}
    options.out.write_text(json.dumps(about | results, indent=1) + "\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
