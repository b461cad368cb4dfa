"""Share what every tool's command line does: help from the docstring, flags, errors in one line.

Imports the standard library only, so that a tool can show its help before any package is installed.
"""

from __future__ import annotations

import argparse
import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path

from hrm_offline.common.errors import INTERRUPTED, INTERRUPTED_CODE, InputError, end_unread
from hrm_offline.config import MAX_SEED


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with a tool's docstring, with its line breaks."""
    docstring = docstring or docstring_of(sys.argv[0])
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)


def docstring_of(script: str | Path) -> str | None:
    """Return the docstring in a script's source. python -OO drops it from the module. None if there is no such file."""
    try:
        return ast.get_docstring(ast.parse(Path(script).read_text(encoding="utf-8")), clean=False)
    except (OSError, SyntaxError, ValueError):
        return None


def add_seeds(parser: argparse.ArgumentParser, default: list[int]) -> None:
    """Add `--seeds`, the random seeds of a tool that repeats its runs."""
    parser.add_argument(
        "--seeds",
        type=seed_number,
        nargs="+",
        default=default,
        metavar="SEED",
        help=f"random seeds; everything runs once per seed (default: {' '.join(map(str, default))})",
    )


def seed_number(text: str) -> int:
    """Return the random seed that a flag gives. argparse tells what is wrong with another text."""
    if not 0 <= int(text) <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text} is no seed, expected 0 to {MAX_SEED}")
    return int(text)


def price(text: str) -> float:
    """Return the price that a flag gives, in dollars. argparse tells what is wrong with another text."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no price, expected a number of dollars")
    return float(text)


def absolute_path(text: str) -> Path:
    """Return the path of a flag, relative to the working folder, as an absolute path."""
    return Path(text).resolve()


def run_tool(tool: Callable[[], int]) -> int:
    """Run a tool and return its exit code.

    An `InputError` or an `OSError` becomes one line on stderr and exit code 2, Ctrl-C one line and exit code 130.
    """
    try:
        return tool()
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return end_unread()
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: {INTERRUPTED}", file=sys.stderr)
        return INTERRUPTED_CODE


def flags(**values: object) -> list[str]:
    """Return the words of a command line: `save_every=0.3` becomes "--save-every", "0.3". None leaves a flag out."""
    words = []
    for name, value in values.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def solve_command(**values: object) -> list[str]:
    """Return the command that runs `hrm_offline solve` with this Python; `values` are its flags, as in `flags`."""
    return [sys.executable, "-m", "hrm_offline", "solve", *flags(**values)]
