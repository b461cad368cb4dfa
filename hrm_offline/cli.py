"""The command line: solve, induce, score, show, pretrain, leaks, import-checkpoint, parity.

Bad input ends with one line on stderr and exit code 2, never with a traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import typing
from pathlib import Path

from hrm_offline import __version__
from hrm_offline.common.budget import Budget, parse_duration
from hrm_offline.common.errors import InputError, shown_name
from hrm_offline.common.files import make_folder, read_json, write_json
from hrm_offline.config import PRESETS, SHARING, PretrainConfig, from_dict, preset


def main(argv: list[str] | None = None, started: float | None = None) -> int:
    """Run one command; returns the exit code. `started` is when the process began, on
    `time.monotonic`, so that a budget counts from there; a process of which it is known may be ended."""
    options = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test captures it
            stream.reconfigure(errors="backslashreplace")  # task ids can hold anything
    try:
        return options.run(options, started)
    except InputError as error:
        print(f"hrm_offline: error: {error}", file=sys.stderr)
        return 2


def _solve(options: argparse.Namespace, started: float | None) -> int:
    from hrm_offline.answers.candidates import VotesFile
    from hrm_offline.solve.job import SolveOptions, solve
    from hrm_offline.solve.supervisor import Crew

    budget = Budget(parse_duration(options.budget), started)
    solve(
        SolveOptions(
            challenges=Path(options.challenges),
            out=Path(options.out),
            **_start_of(options),
            preset=options.preset,
            seed=options.seed,
            visits=options.visits,
            device=options.device,
            dtype=options.dtype,
            price_per_hour=options.price_per_hour,
            threads=options.threads,
            save_every=options.save_every,
            keep_networks=options.keep_networks,
            candidates=options.candidates,
            votes=tuple(VotesFile.parse(text) for text in options.votes),
            crew=Crew(options.workers, options.adapt, options.hang_after),
        ),
        budget,
        say=lambda text: print(text, flush=True),
        end_process=None if started is None else os._exit,
    )
    return 0


def _start_of(options: argparse.Namespace) -> dict:
    """What `solve` adapts. Where tasks share nothing, nothing pretrained is taken unless it is asked for."""
    name = options.artifact or ("none" if options.adapt == "per-task" else "bundled")
    return {"artifact": None if name in ("bundled", "none") else Path(name), "bundled": name == "bundled"}


def _induce(options: argparse.Namespace, _) -> int:
    from hrm_offline.answers.candidates import write_candidates
    from hrm_offline.data.sets import load_set
    from hrm_offline.induction.search import EFFORT, induce

    tasks = load_set(options.challenges)
    make_folder(Path(options.out).parent)
    for bad in tasks.bad:
        print(f"left out: task {shown_name(bad.id)}: {bad.reason}")
    effort = EFFORT if options.effort is None else options.effort
    candidates = {task.id: induce(task, effort) for task in tasks.tasks}
    try:
        write_candidates(options.out, candidates)
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written ({error})") from None
    print(f"{sum(map(any, candidates.values()))} of {len(candidates)} tasks have a candidate; {options.out}")
    return 0


def _score(options: argparse.Namespace, _) -> int:
    from hrm_offline.answers.score import score_files

    score = score_files(options.submission, options.solutions)
    print(score.as_text())
    if options.json:
        write_json(options.json, score.as_dict(), indent=2)
    return 0


def _show(options: argparse.Namespace, _) -> int:
    from hrm_offline.show.collect import draw_folder

    run = Path(options.run_dir)
    out = Path(options.out) if options.out else (run if run.is_dir() else run.parent) / "pictures"
    for path in draw_folder(run, out, options.tasks, options.solutions, options.challenges, print):
        print(path)
    return 0


def _pretrain(options: argparse.Namespace, _) -> int:
    from hrm_offline.train.pretrain import pretrain

    config = _pretrain_config(options)
    finished = pretrain(
        config,
        options.out,
        options.device,
        options.dtype,
        options.threads,
        options.minutes,
        options.relay,
        options.relay_moments,
    )
    return 0 if finished else 1


def _pretrain_config(options: argparse.Namespace) -> PretrainConfig:
    """The preset's recipe, overridden by the config file, overridden by flags."""
    from_file = read_json(options.config) if options.config else {}
    if not isinstance(from_file, dict):
        raise InputError(f"{options.config}: expected an object of settings")
    flags = {
        f.name: getattr(options, f.name)
        for f in dataclasses.fields(PretrainConfig)
        if getattr(options, f.name) is not None
    }
    given = from_file | flags
    name = given.get("preset", PretrainConfig.preset)
    if not isinstance(name, str):
        raise InputError(f"{options.config}: 'preset' is {name!r}, expected a name")
    return from_dict(PretrainConfig, dataclasses.asdict(preset(name).pretrain) | given, options.config or "flags")


def _import_checkpoint(options: argparse.Namespace, _) -> int:
    from hrm_offline.model.artifact import import_checkpoint

    config = import_checkpoint(
        options.checkpoint,
        options.out,
        num_heads=options.num_heads,
        H_cycles=options.H_cycles,
        L_cycles=options.L_cycles,
        halt_max_steps=options.halt_max_steps,
        identifiers=options.identifiers,
    )
    print(f"artifact in {options.out}: {json.dumps(dataclasses.asdict(config))}")
    return 0


def _leaks(options: argparse.Namespace, _) -> int:
    from hrm_offline.data.leaks import find_leaks
    from hrm_offline.data.sets import load_set

    tasks, others = (load_set(name).require_good() for name in (options.tasks, options.others))
    leaks = find_leaks(tasks, others)
    for leak in leaks:
        print(f"{leak.id}: {leak.pairs} pairs are in {', '.join(leak.others)}")
    shared = {other for leak in leaks for other in leak.others}
    print(
        f"{len(leaks)} of the {len(tasks)} tasks of {options.tasks} share a pair, in any view, with "
        f"{len(shared)} of the {len(others)} of {options.others}"
    )
    return 1 if leaks else 0


def _parity(options: argparse.Namespace, _) -> int:
    from hrm_offline.parity import run_case

    passed = True
    for path in options.case:
        comparison = run_case(path)
        passed &= comparison.passed
        print(f"{path}\n{comparison.as_text()}\n{'within tolerance' if comparison.passed else 'BEYOND TOLERANCE'}")
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hrm_offline", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    solve = commands.add_parser("solve", help="adapt to the hidden tasks, predict, vote, write submission.json")
    solve.set_defaults(run=_solve)
    solve.add_argument(
        "--challenges", required=True, metavar="FILE", help="Kaggle challenges file (or folder, or set name)"
    )
    solve.add_argument("--out", required=True, metavar="DIR", help="folder for submission.json and report.json")
    solve.add_argument(
        "--artifact",
        metavar="DIR|bundled|none",
        help="pretrained network to adapt: a folder, the package's own where it has one for the preset, "
        "or none for random weights (default: bundled, with --adapt per-task none)",
    )
    solve.add_argument("--budget", default="11h30m", help="wall-clock budget, e.g. 11h30m or 3m (default: %(default)s)")
    solve.add_argument("--preset", choices=list(PRESETS), help="network and recipe (default: what suits the device)")
    solve.add_argument("--seed", type=int, default=0)
    solve.add_argument("--visits", type=int, metavar="N", help="times each demonstration pair is offered")
    solve.add_argument("--price-per-hour", type=float, metavar="PRICE", help="of the machine; reports the cost a task")
    solve.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: one a GPU, or one; 0: all in this process)"
    )
    solve.add_argument(
        "--adapt",
        choices=SHARING,
        default="sharded",
        help="groups of tasks learned by a worker each, all tasks by all workers together, or each task "
        "alone by a network of its own (default: %(default)s)",
    )
    solve.add_argument(
        "--hang-after",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="silence after which a worker is replaced (default: %(default)s)",
    )
    solve.add_argument(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between two saved states of an adaptation (default: %(default)s)",
    )
    solve.add_argument(
        "--keep-networks", action="store_true", help="leave the adapted networks in the folder, for show"
    )
    solve.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help="write each test input's N best grids, with votes and confidence, to candidates.json",
    )
    solve.add_argument(
        "--votes",
        action="append",
        default=[],
        metavar="FILE[=WEIGHT]",
        help="let a candidates file vote too, as much as WEIGHT times the network itself (default: 1); repeatable",
    )
    _add_machine_flags(solve)

    induce = commands.add_parser("induce", help="search programs that reproduce all demonstrations, write their votes")
    induce.set_defaults(run=_induce)
    induce.add_argument(
        "--challenges", required=True, metavar="FILE", help="Kaggle challenges file (or folder, or set name)"
    )
    induce.add_argument("--out", required=True, metavar="FILE", help="candidates file, for solve --votes")
    induce.add_argument(
        "--effort", type=int, metavar="N", help="operations applied to a grid, a task (default: about a second's)"
    )

    score = commands.add_parser("score", help="score a submission against solutions")
    score.set_defaults(run=_score)
    score.add_argument("submission")
    score.add_argument("solutions")
    score.add_argument("--json", metavar="FILE", help="also write the totals here")

    show = commands.add_parser("show", help="pictures of what solve or pretrain left in its folder")
    show.set_defaults(run=_show)
    show.add_argument("run_dir", metavar="RUN", help="the --out of solve or pretrain, or a metrics.jsonl")
    show.add_argument("--solutions", metavar="FILE", help="test outputs, where the tasks do not come with them")
    show.add_argument("--out", metavar="DIR", help="folder for the PNG files (default: RUN/pictures)")
    show.add_argument("--tasks", nargs="+", metavar="ID", help="tasks to be drawn (default: the first test inputs)")
    show.add_argument("--challenges", metavar="FILE", help="where the tasks are now, if not where solve found them")

    pretrain = commands.add_parser("pretrain", help="train offline on public tasks; resumable; also under torchrun")
    pretrain.set_defaults(run=_pretrain)
    pretrain.add_argument(
        "--out", required=True, metavar="DIR", help="folder for state, metrics.jsonl and the artifact"
    )
    pretrain.add_argument("--config", metavar="FILE.json", help="settings; flags override them")
    pretrain.add_argument(
        "--minutes", type=float, metavar="M", help="stop after M minutes of training, state saved, exit code 1"
    )
    pretrain.add_argument(
        "--relay",
        metavar="DIR",
        help="folder for the run in files of at most 16 MB, written when it stops; continued where "
        "it is further on than --out",
    )
    pretrain.add_argument(
        "--relay-moments",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether Adam's moments travel too, a third of the relay (default: yes)",
    )
    _add_machine_flags(pretrain)
    _add_config_flags(pretrain, PretrainConfig)

    leaks = commands.add_parser(
        "leaks", help="which tasks of one set are in another, whatever their names and views; exit code 1 if any are"
    )
    leaks.set_defaults(run=_leaks)
    leaks.add_argument("tasks", metavar="SET")
    leaks.add_argument("others", metavar="SET", help="a bundled set, rehearsal, synthetic-N, a file or a folder")

    importer = commands.add_parser("import-checkpoint", help="turn a published checkpoint into an artifact")
    importer.set_defaults(run=_import_checkpoint)
    importer.add_argument("checkpoint")
    importer.add_argument("--out", required=True, metavar="DIR")
    importer.add_argument("--identifiers", metavar="FILE", help="the identifiers.json of its data set")
    importer.add_argument("--num-heads", type=int, default=8, help="weights do not tell (default: %(default)s)")
    importer.add_argument("--H-cycles", type=int, default=2, help="(default: %(default)s)")
    importer.add_argument("--L-cycles", type=int, default=2, help="(default: %(default)s)")
    importer.add_argument("--halt-max-steps", type=int, default=16, help="(default: %(default)s)")

    parity = commands.add_parser("parity", help="compare with numbers computed from the published reference")
    parity.set_defaults(run=_parity)
    parity.add_argument("case", nargs="+", metavar="FILE.json", help="its tensors are in FILE.safetensors beside it")
    return parser


def _add_machine_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: what suits the device)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")


def _add_config_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """A flag for every field of a config dataclass; None where it is not given."""
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        flag, kind = "--" + field.name.replace("_", "-"), types[field.name]
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        elif typing.get_origin(kind) is tuple:
            parser.add_argument(flag, nargs="*", metavar="SET")
        else:
            parser.add_argument(flag, type=kind, metavar=kind.__name__.upper())
