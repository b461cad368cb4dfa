"""The kernel's notebook, and a tree of folders like Kaggle's for it to run in."""

import json
from pathlib import Path

from places import REPOSITORY

CHALLENGES = {"a": {"train": [], "test": [{"input": [[1]]}, {"input": [[2]]}]}, "b": {"train": [], "test": [{}]}}
# The file's name; older public copies write a hyphen between the split and the word.
CHALLENGES_FILES = ("arc-agi_test_challenges.json", "arc-agi_test-challenges.json")


def code_cells(notebook: Path) -> list[str]:
    """Return the source of every code cell."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def lay_out(
    root: Path, name: str = CHALLENGES_FILES[0], challenges=CHALLENGES, mount: str = "competitions/arc"
) -> Path:
    """Make a tree of folders like Kaggle's, with a competition at `mount`. Return the path where the submission goes.

    A tree that is there gets the competition in addition.
    """
    competition = root / "input" / mount
    for folder in (competition, root / "working"):
        folder.mkdir(parents=True, exist_ok=True)
    (competition / name).write_text(json.dumps(challenges), encoding="utf-8-sig")
    return root / "working" / "submission.json"


NOTEBOOK = REPOSITORY / "kernel" / "hrm_offline.ipynb"
