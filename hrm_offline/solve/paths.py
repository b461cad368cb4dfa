"""Name the files that a run keeps below its output folder."""

from __future__ import annotations

from pathlib import Path

FOLDER, JOURNAL_FILE, INDUCTION_FILE = "journal", "run.journal", "induction.journal"


def network_path(folder: Path, group: int) -> Path:
    """Return the file of a group's adapted network."""
    return folder / f"group-{group:03d}.safetensors"


def selftest_path(folder: Path) -> Path:
    """Return the file of the self-test's verdicts, which workers on the same chip share."""
    return folder / "selftest.json"


def state_folder(folder: Path, group: int) -> Path:
    """Return the folder of the state of an adaptation that is going on."""
    return folder / f"adapting-{group:03d}"
