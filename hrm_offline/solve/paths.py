"""Where a run keeps what it has reached, below its output folder."""

from __future__ import annotations

from pathlib import Path

FOLDER, JOURNAL_FILE = "journal", "run.journal"


def network_path(folder: Path, group: int) -> Path:
    """The adapted network of a group of tasks."""
    return folder / f"group-{group:03d}.safetensors"


def state_folder(folder: Path, group: int) -> Path:
    """The state of a group's adaptation that is going on."""
    return folder / f"adapting-{group:03d}"
