"""The command line: solve, induce, score, show, pretrain, leaks, import-checkpoint, parity, selftest.

Bad input and a missing package end with one line on stderr and exit code 2, and Ctrl-C with one line and exit code 130;
never with a traceback. The flags of
`solve` and `pretrain` are the fields of `SolveOptions`, `PretrainOptions` and `PretrainConfig`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

from hrm_offline import __version__
from hrm_offline.common.blank import write_blank
from hrm_offline.common.budget import Budget, parse_duration
from hrm_offline.common.errors import INTERRUPTED, INTERRUPTED_CODE, InputError, end_unread, shown, shown_name
from hrm_offline.common.files import make_folder, read_json, require_writable, write_json, written
from hrm_offline.common.flags import add_flags, escaped, given, in_words
from hrm_offline.common.lock import FolderLock
from hrm_offline.common.packages import require_packages
from hrm_offline.common.settings import from_dict, help_of, parse_setting
from hrm_offline.config import (
    DTYPES,
    NOT_IN_WEIGHTS,
    PRESET_NAMES,
    AdaptConfig,
    ModelConfig,
    PretrainConfig,
    PretrainOptions,
)
from hrm_offline.presets import PRESETS, PUBLISHED, preset
from hrm_offline.solve.options import SolveOptions

# The packages that each kind of command imports.
_GRIDS = ("numpy",)
_NETWORK = ("torch", "numpy", "safetensors")
_TRAINING = (*_NETWORK, "tqdm")
_PICTURES = (*_TRAINING, "matplotlib")

_LONGEST_REASON = 300  # characters of a foreign error, which may fill pages

_TASKS_HELP = "Kaggle challenges file, file of one task, folder of such files, or name of a set"
_SET_HELP = "bundled set (arc1-train, arc1-eval, arc2-train, arc2-eval), rehearsal, synthetic-N, deep-N, file or folder"


def main(argv: list[str] | None = None, started: float | None = None) -> int:
    """Run one command and return its exit code.

    `started` is when the process began, in seconds on `time.monotonic`, so that a budget counts from there. A process
    whose start is known is the command's own: `solve` may end it.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test captures it
            stream.reconfigure(errors="backslashreplace")  # task ids can hold anything
    try:
        options = _parser().parse_args(argv)
        require_packages(*options.needs)
        return options.run(options, started)
    except InputError as error:
        print(f"hrm_offline: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return end_unread()
    except OSError as error:  # a file or folder of the user's that does not do what it should
        print(f"hrm_offline: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return INTERRUPTED_CODE


def _say(text: str) -> None:
    """Print a line. Where nobody reads any more, or where a log lies on a full disk, the run goes on without."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _solve(options: argparse.Namespace, started: float | None) -> int:
    try:
        from hrm_offline.solve.job import solve
    except ModuleNotFoundError:
        _write_blank(options)
        require_packages(*_NETWORK)
        raise  # a package that nobody said is needed
    except Exception as error:  # a package that is there and broken, or that python -OO breaks
        _write_blank(options)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"a package cannot be imported ({reason[:_LONGEST_REASON]})") from None
    budget = Budget(parse_duration(options.budget), started)
    solve(
        SolveOptions(**given(options, SolveOptions), **_start_of(options)),
        budget,
        say=_say,
        end_process=None if started is None else os._exit,
    )
    return 0


def _write_blank(options: argparse.Namespace) -> None:
    """Write the submission that needs no package. Where the tasks are a set by name, that is impossible."""
    path = options.out / "submission.json"
    if not os.path.exists(options.challenges):
        return
    with FolderLock(make_folder(options.out), _say):
        if write_blank(options.challenges, path):
            _say(f"a valid submission of blank answers is in {path}")


def _start_of(options: argparse.Namespace) -> dict:
    """Return the fields of `SolveOptions` that --artifact sets: the network that `solve` adapts.

    Where tasks share nothing, no pretrained network is taken unless one is asked for.
    """
    alone = getattr(options, "sharing", SolveOptions.sharing) == "per-task"
    name = options.artifact_name or ("none" if alone else "bundled")
    return {"artifact": None if name in ("bundled", "none") else Path(name), "bundled": name == "bundled"}


def _induce(options: argparse.Namespace, _) -> int:
    from hrm_offline.answers.candidates import write_candidates
    from hrm_offline.data.sets import load_set
    from hrm_offline.induction.search import EFFORT, induce

    tasks = load_set(options.challenges)
    require_writable(options.out)
    for bad in tasks.bad:
        print(f"left out: task {shown_name(bad.id)}: {bad.reason}")
    effort = EFFORT if options.effort is None else options.effort
    candidates = {task.id: induce(task, effort) for task in tasks.tasks}
    with written(options.out):
        write_candidates(options.out, candidates)
    found = sum(any(tests) for tests in candidates.values())
    print(f"{found} of {len(candidates)} tasks have a candidate; {options.out}")
    return 0


def _score(options: argparse.Namespace, _) -> int:
    from hrm_offline.answers.score import score_files

    score = score_files(options.submission, options.solutions)
    print(score.as_text(), flush=True)
    if options.json:
        with written(options.json):
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

    finished = pretrain(_pretrain_config(options), PretrainOptions(**given(options, PretrainOptions)))
    return 0 if finished else 1


def _pretrain_config(options: argparse.Namespace) -> PretrainConfig:
    """Return the preset's recipe, overridden by the config file, overridden by flags."""
    from_file = read_json(options.config) if options.config else {}
    if not isinstance(from_file, dict):
        raise InputError(f"{options.config}: expected an object of settings")
    changes = from_file | given(options, PretrainConfig)
    name = changes.get("preset", PretrainConfig.preset)
    if not isinstance(name, str):
        raise InputError(f"{options.config}: 'preset' is {shown(name)}, expected a name")
    settings = dataclasses.asdict(preset(name).pretrain) | changes
    return from_dict(PretrainConfig, settings, options.config or "flags")


def _import_checkpoint(options: argparse.Namespace, _) -> int:
    from hrm_offline.model.published import import_checkpoint

    config = import_checkpoint(
        options.checkpoint,
        options.out,
        settings_file=options.config,
        identifiers=options.identifiers,
        keep_puzzles=options.keep_puzzles,
        say=_say,
        **given(options, ModelConfig),
    )
    print(f"artifact in {options.out}: {json.dumps(dataclasses.asdict(config))}")
    return 0


def _leaks(options: argparse.Namespace, _) -> int:
    from hrm_offline.data.leaks import find_leaks
    from hrm_offline.data.sets import load_set

    sets = [load_set(name, needs_tests=False) for name in (options.tasks, options.others)]
    for line in filter(None, (found.left_out() for found in sets)):
        print(line)
    tasks, others = sets[0].require_some(), sets[1].readable() or sets[1].require_some()
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


def _selftest(options: argparse.Namespace, _) -> int:
    from hrm_offline.model.device import interpret_kernels_on_cpu

    interpret_kernels_on_cpu(options.device)
    from hrm_offline.solve.selftest import show_selftest  # defines the kernels

    right = show_selftest(
        options.device,
        options.dtype,
        options.preset,
        options.side,
        options.seconds,
        options.json,
        say=lambda text: print(text, flush=True),
    )
    return 0 if right else 1


def _parser() -> argparse.ArgumentParser:
    is_script = Path(sys.argv[0]).stem == "hrm-offline"
    parser = argparse.ArgumentParser(
        prog="hrm-offline" if is_script else "python -m hrm_offline",
        description="Pretrain a small network offline, adapt it to hidden ARC tasks inside a Kaggle notebook.",
        epilog="COMMAND --help lists the flags of a command; docs/configuration.md lists all settings.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add_command in (
        _add_solve,
        _add_score,
        _add_show,
        _add_induce,
        _add_pretrain,
        _add_leaks,
        _add_import_checkpoint,
        _add_parity,
        _add_selftest,
    ):
        add_command(commands)
    return parser


def _add_command(commands, name: str, run, needs: tuple[str, ...], text: str, usage: str | None = None):
    """Add a command and return its parser. `needs` are the packages without which it does not start."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", usage=usage)
    parser.set_defaults(run=run, needs=needs)
    return parser


def _add_solve(commands) -> None:
    solve = _add_command(
        commands,
        "solve",
        _solve,
        (),  # asked for once a submission is there, which needs no package
        "adapt to the hidden tasks, predict, vote, write submission.json",
        "%(prog)s --challenges FILE --out DIR [--budget TIME] [options]",
    )
    add_flags(solve, SolveOptions)
    solve.add_argument(
        "--budget",
        default="11h30m",
        metavar="TIME",
        help="wall-clock time, such as 11h30m or 3m (default: %(default)s)",
    )
    solve.add_argument(
        "--artifact",
        dest="artifact_name",
        metavar="DIR|bundled|none",
        help="pretrained network to adapt: a folder, the package's own where it has one for the preset, or none for "
        "random weights (default: bundled; none with --adapt per-task)",
    )
    for field in dataclasses.fields(AdaptConfig):
        if field.name in ("visits", "members"):
            solve.add_argument(
                f"--{field.name}",
                dest="overrides",
                action="append",
                type=functools.partial(_parse_override, field.name),
                default=argparse.SUPPRESS,
                metavar="N",
                help=escaped(f"{help_of(field)} (short for --set {field.name}=N)"),
            )


def _parse_override(name: str, text: str):
    """Return the setting of a recipe that a flag of its own gives."""
    return parse_setting(AdaptConfig, f"{name}={text}")


def _add_pretrain(commands) -> None:
    pretrain = _add_command(
        commands,
        "pretrain",
        _pretrain,
        _TRAINING,
        "train offline on public tasks; the same command continues a run that was cut off; also under torchrun",
        "%(prog)s --out DIR [--preset NAME] [--data SET ...] [options]",
    )
    add_flags(pretrain, PretrainOptions)
    pretrain.add_argument("--config", metavar="FILE", help="JSON file of settings, which flags override")
    add_flags(pretrain, PretrainConfig, _default_by_preset)


def _default_by_preset(field: dataclasses.Field) -> str:
    """Return a field's default in words: the default preset's, then those of the presets that differ from that."""
    if field.name == "preset":
        return PretrainConfig.preset
    by_preset = {name: in_words(getattr(values.pretrain, field.name)) for name, values in PRESETS.items()}
    common = by_preset[PretrainConfig.preset]
    return "; ".join([common, *(f"{name} {value}" for name, value in by_preset.items() if value != common)])


def _add_induce(commands) -> None:
    induce = _add_command(
        commands,
        "induce",
        _induce,
        _GRIDS,
        "search for programs that reproduce all demonstrations of a task, and write their votes",
    )
    induce.add_argument("--challenges", required=True, metavar="FILE", help=_TASKS_HELP)
    induce.add_argument("--out", required=True, metavar="FILE", help="candidates file to write, for solve --votes")
    induce.add_argument(
        "--effort",
        type=int,
        metavar="N",
        help="operations on a grid per task (default: 10,000, a third of a second of a core)",
    )


def _add_score(commands) -> None:
    score = _add_command(commands, "score", _score, _GRIDS, "score a submission against solutions")
    score.add_argument("submission", metavar="SUBMISSION", help="the submission.json that solve wrote")
    score.add_argument(
        "solutions", metavar="SOLUTIONS", help="Kaggle solutions file, or tasks with test outputs: file, folder or set"
    )
    score.add_argument("--json", metavar="FILE", help="also write the totals into this file")


def _add_show(commands) -> None:
    show = _add_command(commands, "show", _show, _PICTURES, "draw the pictures of a folder that solve or pretrain left")
    show.add_argument("run_dir", metavar="RUN", help="the --out of solve or pretrain, or a metrics.jsonl")
    show.add_argument("--solutions", metavar="FILE", help="Kaggle solutions file, where the tasks come without outputs")
    show.add_argument("--out", metavar="DIR", help="folder for the PNG files (default: RUN/pictures)")
    show.add_argument(
        "--tasks", nargs="+", metavar="ID", help="tasks to draw (default: those of the first test inputs)"
    )
    show.add_argument("--challenges", metavar="FILE", help="where the tasks are now (default: where solve found them)")


def _add_leaks(commands) -> None:
    leaks = _add_command(
        commands,
        "leaks",
        _leaks,
        _GRIDS,
        "name the tasks of one set that share a pair with another set, in any view; exit code 1 if there are any",
    )
    leaks.add_argument("tasks", metavar="SET", help=_SET_HELP)
    leaks.add_argument("others", metavar="OTHER_SET", help="the set that they may be in; named in the same ways")


def _add_import_checkpoint(commands) -> None:
    importer = _add_command(
        commands,
        "import-checkpoint",
        _import_checkpoint,
        _NETWORK,
        f"turn a published checkpoint ({', '.join(PUBLISHED)}) into an artifact",
    )
    importer.add_argument("checkpoint", metavar="CHECKPOINT", help="file of weights, as torch.save wrote it")
    importer.add_argument("--out", required=True, metavar="DIR", help="folder for the artifact")
    importer.add_argument(
        "--config",
        metavar="FILE",
        help="settings of the run that made the checkpoint: its all_config.yaml, or the same as .json (default: an "
        "all_config.yaml or config.yaml beside the checkpoint)",
    )
    importer.add_argument("--identifiers", metavar="FILE", help="the identifiers.json of the checkpoint's data set")
    importer.add_argument(
        "--keep-puzzles", action="store_true", help="keep the whole embedding table, not only its mean row"
    )
    add_flags(importer, ModelConfig, _default_by_network, only=NOT_IN_WEIGHTS)


def _default_by_network(field: dataclasses.Field) -> str:
    """Return what a setting is where nothing tells it, for each published network."""
    values = (f"{name} {getattr(PRESETS[chosen].model, field.name)}" for name, chosen in PUBLISHED.items())
    return f"as the file of settings says, else as published: {', '.join(values)}"


def _add_parity(commands) -> None:
    parity = _add_command(
        commands, "parity", _parity, _NETWORK, "compare with numbers computed from the published reference"
    )
    parity.add_argument(
        "case", nargs="+", metavar="FILE.json", help="a case's settings; its tensors lie in FILE.safetensors beside it"
    )


def _add_selftest(commands) -> None:
    selftest = _add_command(
        commands,
        "selftest",
        _selftest,
        _NETWORK,
        "compare every kernel with plain PyTorch on this machine, and time both; exit code 1 if a kernel is wrong",
    )
    selftest.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        default=PretrainConfig.preset,
        help="network whose shapes are tested on a GPU; a CPU tests tiny ones (default: %(default)s)",
    )
    selftest.add_argument(
        "--side",
        type=_side,
        default=30,
        metavar="N",
        help="side of the canvas in cells, on a GPU (default: %(default)s)",
    )
    selftest.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    selftest.add_argument("--dtype", choices=DTYPES, help="number format (default: what suits the device)")
    selftest.add_argument(
        "--seconds", type=float, default=60.0, metavar="X", help="begin no operation after this time (default: 60)"
    )
    selftest.add_argument("--json", metavar="FILE", help="also write all errors, times and choices into this file")


def _side(text: str) -> int:
    """Return the side of a canvas. Raises `ValueError`, which argparse turns into an error in one line."""
    if not 1 <= int(text) <= 512:
        raise ValueError(text)
    return int(text)
