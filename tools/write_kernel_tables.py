"""Write the tables of compiled kernels in docs/kernels.md from the files of `kernel_report.py --json`.

    python tools/bench/kernel_report.py --json runs/triton39.json
    python tools/write_kernel_tables.py runs/triton*.json

Give the files of all versions of Triton at once. Files of the same version, such as one for each chip, are joined.
"""

from __future__ import annotations

import script_setup

import argparse
import sys
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import read_json, write_bytes
from tools.support import environment
from tools.support.command_line import parser_of, run_tool

PAGE = environment.REPOSITORY / "docs" / "kernels.md"

_BEGIN = "<!-- Made by `python tools/write_kernel_tables.py`. Do not edit. -->\n"
_END = "<!-- End of what is made. -->\n"
_COMPARED = (89, 90)  # the chips whose instructions are shown

Reports = dict[str, dict[int, list[dict]]]  # kernels by version of Triton and chip


def read_reports(files: list[Path]) -> Reports:
    """Return the kernels in the files. Raises `InputError` naming a file that is not a kernel report."""
    reports: Reports = {}
    for file in files:
        found = read_json(file)
        try:
            version = ".".join(found["triton"].split(".")[:2])
            for kernel in found["kernels"]:
                reports.setdefault(version, {}).setdefault(kernel["capability"], []).append(kernel)
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{file}: not a file of kernel_report.py --json") from None
    return dict(sorted(reports.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def tables(reports: Reports) -> str:
    """Return both tables as Markdown."""
    chips = sorted({chip for by_chip in reports.values() for chip in by_chip})
    spills = [
        [f"Triton {version}", *(_trouble(by_chip.get(chip)) for chip in chips)] for version, by_chip in reports.items()
    ]
    head = ["", *(f"{chip / 10:.1f}" for chip in chips)]
    newest = reports[list(reports)[-1]]
    counted = [chip for chip in _COMPARED if chip in newest]
    return (
        "How many of the kernels that `dispatch` would choose spill registers, by version of Triton and compute\n"
        "capability. In brackets: the spill instructions of the worst, and the names.\n\n"
        + _table(head, spills)
        + "\nInstructions of the attention kernels, rotation inside the loop against queries and keys rotated before. "
        f"Triton\n{list(reports)[-1]}, bfloat16, heads as in `hrm-27m`:\n\n"
        + _table(
            ["", *(f"{chip / 10:.1f}, {how}" for chip in counted for how in ("inside", "before"))],
            _instructions(newest, counted),
        )
    )


def _trouble(kernels: list[dict] | None) -> str:
    """Say how many of a chip's kernels spill, do not fit, or are not compiled."""
    if kernels is None:
        return "not compiled"
    chosen = [kernel for kernel in kernels if kernel["chosen"]]
    spilling = [kernel for kernel in chosen if kernel["spills"] or kernel["stack"]]
    too_large = sum(not kernel["fits"] for kernel in chosen)
    failed = sum(bool(kernel["error"]) for kernel in chosen)
    words = [f"{len(spilling)} of {len(chosen)}"]
    if spilling:
        names = ", ".join(sorted({kernel["kernel"] for kernel in spilling}))
        words.append(f"({max(kernel['spills'] for kernel in spilling)}: {names})")
    if too_large:
        words.append(f"and {too_large} too large")
    if failed:
        words.append(f"and {failed} that do not compile")
    return " ".join(words)


def _instructions(by_chip: dict[int, list[dict]], chips: list[int]) -> list[list[str]]:
    """Return a row for each attention kernel. The first of a name is that of the first preset, `hrm-27m`."""
    counts: dict[int, dict[str, int]] = {chip: {} for chip in chips}
    for chip in chips:
        for kernel in by_chip[chip]:
            if kernel["op"] == "attention":
                counts[chip].setdefault(kernel["kernel"], kernel["instructions"])
    names = {name for of_chip in counts.values() for name in of_chip}
    rows = []
    for before in sorted(name for name in names if "rotate" not in name):
        first, *flags = before.split()
        inside = " ".join([first, "rotate", *flags])
        rows.append([f"`{before}`", *(str(counts[chip][name]) for chip in chips for name in (inside, before))])
    return rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replaced(page: str, made: str) -> str:
    """Return the page with `made` in the place of what was made before."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{made}\n{_END}{after}"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="made by kernel_report.py --json")
    options: argparse.Namespace = parser.parse_args()
    made = tables(read_reports(options.files))
    write_bytes(PAGE, replaced(PAGE.read_text(encoding="utf-8"), made).encode())
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
