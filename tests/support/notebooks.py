"""The kernel's notebook, and a tree of folders like Kaggle's for it to run in."""

import json
from pathlib import Path

from places import REPOSITORY

CHALLENGES = {"a": {"train": [], "test": [{"input": [[1]]}, {"input": [[2]]}]}, "b": {"train": [], "test": [{}]}}


def code_cells(notebook: Path) -> list[str]:
    """Return the source of every code cell."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def lay_out(root: Path, name: str = "arc-agi_test_challenges.json") -> Path:
    """Make a tree of folders like Kaggle's. Return the path where the submission goes."""
    competition = root / "input" / "competitions" / "arc"
    for folder in (competition, root / "working"):
        folder.mkdir(parents=True)
    (competition / name).write_text(json.dumps(CHALLENGES), encoding="utf-8-sig")
    return root / "working" / "submission.json"


NOTEBOOK = REPOSITORY / "kernel" / "hrm_offline.ipynb"
