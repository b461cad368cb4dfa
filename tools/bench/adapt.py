"""Measure how many examples per second adaptation learns on real tasks, and how its time grows.

    python tools/bench/adapt.py [--only ready steps linear workers]
    python tools/bench/adapt.py --against PATH_TO_A_CHECKOUT_OF_sapientinc/HRM

There are four parts, of which --only chooses some:

- ready: seconds, memory and disk until the first batch is ready
- steps: the training step on every bucket of a set's real task mix, ours and the published one, on 30 x 30 and on
  tight canvases. All learn alike: the published network and halting, at the preset's size. The lines
  "ratio SET CANVAS" compare ours on that canvas with the published step on 30 x 30.
- linear: whole adaptations of 20, 80 and 240 tasks
- workers: two processes against one

An example counts once per training step that it takes part in.
"""

from __future__ import annotations

import script_setup

import argparse
import dataclasses
import json
import math
import platform
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
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.tasks import Task, load_tasks, to_challenges, to_solutions
from hrm_offline.model.batching import BatchMaker
from hrm_offline.model.device import Runtime, choose_runtime
from hrm_offline.model.network import build_network
from hrm_offline.ops import dispatch
from hrm_offline.presets import PRESETS, RECURSIVE_PRESETS
from hrm_offline.train.adapt import adapt
from hrm_offline.train.learner import Learner
from tools.bench.ops import measure_machine
from tools.bench.published import build_dataset, training_step
from tools.support import environment
from tools.support.command_line import absolute_path, parser_of, run_tool
from tools.support.flop import training_flop

PARTS = ("ready", "steps", "linear", "workers")
_CPU_TOKENS = 16 * 900  # tokens per step on a CPU: a batch of 16 on the full canvas
_WARM_UP = 2  # steps before the timing
_READY_TASKS, _READY_AUGMENTATIONS = 240, 1000
_PUBLISHED_TASKS = 24  # with more tasks, the published builder needs minutes and gigabytes
_LINEAR_TASKS, _LINEAR_VISITS = (20, 80, 240), 4
_WORKER_TASKS = 100  # per process
_WORKER_WARM_UP_SECONDS, _WORKER_SECONDS = 3, 20
_NO_END = 10_000  # steps of a learning rate schedule that the measured steps do not come to the end of


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to take a training step.

    `name` is "ours", "look-ahead" (ours in plain PyTorch, with the published halting target) or "published"; `canvas`
    is "full" or "tight".
    """

    name: str
    canvas: str


@dataclasses.dataclass
class Work:
    """One bucket of a set, learned in one way: cells per canvas, its demonstration pairs, and the seconds of steps."""

    cells: int
    pairs: int
    batch: int
    step: Callable[[], object]
    seconds: list[float] = dataclasses.field(default_factory=list)


def configs(preset: str, tokens: int) -> tuple[ModelConfig, AdaptConfig]:
    """Return the preset's network with the published halting and conditioning, and the published recipe for it.

    `tokens` is the number of canvas tokens per step.
    """
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
    """Times training steps on the real task mix of one set.

    `tokens` is the number of canvas tokens per step. `against` is a checkout of the published code or None; `compiled`
    says whether torch.compile compiles the published step. `peaks` holds the peak GiB of each way, NaN on a CPU.
    """

    def __init__(self, source: str, preset: str, tokens: int, runtime: Runtime, against: Path | None, compiled: bool):
        self.tasks = load_tasks(source).require_good()
        self.model_config, self.recipe = configs(preset, tokens)
        self.runtime, self.against, self.compiled = runtime, against, compiled
        self.peaks: dict[Way, float] = {}

    def ways(self) -> list[Way]:
        names = ["ours", "look-ahead", *(["published"] if self.against else [])]
        return [Way(name, canvas) for name in names for canvas in ("full", "tight")]

    def works(self, way: Way) -> list[Work]:
        """Return every bucket of the set, ready to be timed: each has taken its first steps."""
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
        """Return a function that makes the step of a bucket, all with one network of ours."""
        torch.manual_seed(0)
        model = build_network(self.model_config, puzzles.num_rows, self.runtime.dtype).to(self.runtime.device)
        learner = Learner(model, recipe, total_steps=_NO_END, seed=0)
        mode = "reference" if way.name == "look-ahead" else "auto"

        def make(source: ExampleSource, maker: BatchMaker, index: int) -> Callable[[], object]:
            def step():
                with dispatch.override(mode):
                    return learner.learn(maker.offer(source.batch_of(index, learner.step)))

            return step

        return make

    def _published(self, source: ExampleSource, maker: BatchMaker, index: int) -> Callable[[], object]:
        """Return the published step on one batch of a bucket."""
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
        """Time every step of every way `rounds` times. The ways take turns, so a busy moment slows all of them."""
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
        """Return the GiB that are allocated on the GPU now, and begin to watch for the peak."""
        if self.runtime.device.type != "cuda":
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30

    def _peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.runtime.device.type == "cuda" else math.nan


def bench_steps(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """Return a row per set and way, and print how ours compares with the published step."""
    on_gpu = runtime.device.type == "cuda"
    size = 8192 if on_gpu else 1024
    measure_machine(runtime.device, runtime.dtype, size)  # the first call starts threads and libraries
    machine = measure_machine(runtime.device, runtime.dtype, size)
    print(f"matrix product: {machine.gemm_tflops:.3f} TFLOP/s")
    tokens = options.tokens or (PRESETS[options.preset].adapt.tokens_per_step if on_gpu else _CPU_TOKENS)
    rows = []
    for name in options.sets:
        bench = StepBench(name, options.preset, tokens, runtime, options.against, not options.no_compile)
        for way, works in bench.time(options.rounds).items():
            rows.append(_step_row(name, way, works, bench, machine.gemm_tflops))
            _print_step_row(rows[-1])
    _print_ratios(rows)
    return rows


def _step_row(name: str, way: Way, works: list[Work], bench: StepBench, peak_tflops: float) -> dict:
    """Return the rates of one visit of every pair of the set `name`."""
    seconds = 0.0
    for work in works:
        steps_per_visit = work.pairs / work.batch
        seconds += steps_per_visit * statistics.median(work.seconds)
    pairs = sum(work.pairs for work in works)
    tokens = sum(work.pairs * work.cells for work in works)
    look_ahead = way.name != "ours"
    flop = sum(work.pairs * training_flop(bench.model_config, work.cells, look_ahead) for work in works)
    tflops = flop / seconds / 1e12
    return {
        "set": name,
        "canvas": way.canvas,
        "way": way.name,
        "examples/s": pairs / seconds,
        "tokens/s": tokens / seconds,
        "cells an example": tokens / pairs,
        "shapes": len(works),
        "TFLOP/s": tflops,
        "share of matrix product": tflops / peak_tflops,
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


def _print_ratios(rows: list[dict]) -> None:
    """Print how many times the rate of the published step on 30 x 30 each of our steps reaches."""
    for row in rows:
        base = [r for r in rows if r["set"] == row["set"] and r["way"] == "published" and r["canvas"] == "full"]
        if base and row["way"] == "ours":
            canvas = "30x30" if row["canvas"] == "full" else "tight"
            print(f"ratio {row['set']} {canvas}: {row['examples/s'] / base[0]['examples/s']:.2f}")


def bench_ready(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """Measure the way from parsed tasks to the first batch on the device, with 1,000 augmentations per task.

    Each builder runs in a fresh process, so that its memory can be told.
    """
    rows = [_in_fresh_process(_make_ready, "ours", _READY_TASKS, runtime.device.type)]
    if options.against is not None:
        rows.append(_in_fresh_process(_make_ready, str(options.against), _PUBLISHED_TASKS, runtime.device.type))
    for row in rows:
        print(
            f"data ready ({row['builder']}): {row['tasks']} tasks x {_READY_AUGMENTATIONS:,} augmentations in "
            f"{row['seconds']:.2f} s, {row['memory MB']:.0f} MB of memory, {row['disk MB']:.0f} MB of disk",
            flush=True,
        )
    return rows


def _make_ready(builder: str, count: int, device: str) -> dict:
    """Make the data of `count` tasks ready. `builder` is "ours" or the folder of a checkout of the published code."""
    tasks = load_tasks("arc1-eval").tasks[:count]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        if builder != "ours":
            _write_task_files(tasks, data / "evaluation")
        before, start = _resident_megabytes(), time.perf_counter()
        if builder == "ours":
            model, recipe = configs("hrm-27m", 96 * 900)
            recipe = dataclasses.replace(recipe, colour_permutations=_READY_AUGMENTATIONS)
            puzzles = PuzzleSet(tasks, recipe, model, seed=0)
            source = ExampleSource(puzzles, seed=0)
            kept = BatchMaker(puzzles, source.examples, torch.device(device)).make(source.batch(0))
        else:
            kept = build_dataset(Path(builder), data, out, _READY_AUGMENTATIONS)
        seconds = time.perf_counter() - start
        del kept  # it was made only to be timed
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
    """Write one file per task, with test outputs, as the published builder reads them."""
    folder.mkdir(parents=True)
    challenges, solutions = to_challenges(tasks), to_solutions(tasks)
    for task_id, task in challenges.items():
        for pair, output in zip(task["test"], solutions[task_id]):
            pair["output"] = output
        (folder / f"{task_id}.json").write_text(json.dumps(task))


def _resident_megabytes() -> float:
    """Return the most memory that this process has held so far. Raises `InputError` on Windows, which has no count."""
    try:
        import resource
    except ImportError:
        raise InputError("this system does not tell the most memory that a process has held") from None
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def bench_linear(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """Time whole adaptations of 20, 80 and 240 tasks, with the same visits per demonstration."""
    rows = []
    for count in _LINEAR_TASKS:
        tasks = _spread(load_tasks("arc1-eval").tasks, count)
        recipe = dataclasses.replace(PRESETS[options.preset].adapt, visits=_LINEAR_VISITS)
        puzzles = PuzzleSet(tasks, recipe, PRESETS[options.preset].model, seed=0)
        model = build_network(PRESETS[options.preset].model, puzzles.num_rows, runtime.dtype).to(runtime.device)
        start = time.perf_counter()
        unlimited = Budget(1e9)
        report = adapt(model, puzzles, recipe, unlimited, seed=0, pretrained=False)
        seconds = time.perf_counter() - start
        cells = int(sum(len(b.members) * b.area for b in ExampleSource(puzzles, 0).buckets))
        rows.append({"tasks": count, "steps": report.steps, "seconds": seconds, "cells": cells})
        print(
            f"{count} tasks: {report.steps} steps in {seconds:.1f} s, {seconds / count:.3f} s per task, "
            f"{1e6 * seconds / cells / _LINEAR_VISITS:.1f} s per million cells",
            flush=True,
        )
    return rows


def _spread(tasks: tuple[Task, ...], count: int) -> tuple[Task, ...]:
    """Return `count` tasks at even distances of their file, so that every count has the same mix of sizes."""
    return tuple(tasks[i * len(tasks) // count] for i in range(count))


def bench_workers(options: argparse.Namespace, runtime: Runtime) -> list[dict]:
    """Measure the examples per second of one and of two processes, each with one thread and with tasks of its own."""
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
    """Learn for some seconds and put the examples per second into the queue. The barrier starts all at once."""
    torch.set_num_threads(1)
    chosen = PRESETS[preset]
    tasks = load_tasks("arc1-eval").tasks[part : 2 * _WORKER_TASKS + part : 2]  # part 0 or 1: every other task
    source = ExampleSource(PuzzleSet(tasks, chosen.adapt, chosen.model, seed=0), seed=0)
    model = build_network(chosen.model, source.puzzles.num_rows, choose_runtime(device).dtype).to(device)
    learner = Learner(model, chosen.adapt, total_steps=_NO_END, seed=0)
    maker = BatchMaker(source.puzzles, source.examples, model.device)

    def learn_for(seconds: float) -> float:
        examples, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            batch = maker.offer(source.batch(learner.step))
            examples += batch.size
            learner.learn(batch)
        return examples / (time.perf_counter() - start)

    learn_for(_WORKER_WARM_UP_SECONDS)
    barrier.wait()
    queue.put(learn_for(_WORKER_SECONDS))


def _in_fresh_process(function: Callable[..., dict], *arguments) -> dict:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> int:
    options = _parse_arguments()
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


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=PARTS,
        choices=PARTS,
        metavar="PART",
        help="parts to run (default: all)",
    )
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["arc1-eval", "arc2-eval"],
        metavar="SET",
        help="sets or files of tasks for the part steps (default: arc1-eval arc2-eval)",
    )
    parser.add_argument(
        "--against", type=absolute_path, metavar="DIR", help="checkout of sapientinc/HRM to measure beside ours"
    )
    parser.add_argument(
        "--preset", choices=RECURSIVE_PRESETS, help="network and recipe (default: hrm-27m on a GPU, hrm-132k on a CPU)"
    )
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="canvas tokens per step (default: the recipe's; 16 x 900 on a CPU)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="how often each step is timed (default: %(default)s)"
    )
    parser.add_argument("--no-compile", action="store_true", help="do not compile the published step")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--out",
        type=absolute_path,
        default=environment.REPOSITORY / "bench_adapt.json",
        metavar="FILE",
        help="JSON file to write (default: bench_adapt.json in the repository)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
