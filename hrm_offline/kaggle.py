"""Finding the competition's files and our own inside a Kaggle session."""

from __future__ import annotations

from pathlib import Path

from hrm_offline.errors import InputError

# Older public copies write a hyphen between the split and the word.
CHALLENGES = ("arc-agi_test_challenges.json", "arc-agi_test-challenges.json")


def find_file(root: str | Path, names: tuple[str, ...]) -> Path:
    """The one file under `root` with one of `names`, wherever the platform mounted it.

    Where several copies are mounted, the shallowest path and then the first in order is taken.
    Raises `InputError` saying which folders were looked at.
    """
    root = Path(root)
    found = [path for name in names for path in root.rglob(name)] if root.is_dir() else []
    if not found:
        mounted = sorted(str(p.relative_to(root)) for p in root.glob("*")) if root.is_dir() else []
        raise InputError(f"{root}: no {' or '.join(names)} in any folder below; mounted there: {mounted}")
    return min(found, key=lambda path: (len(path.parts), str(path)))


def find_artifact(root: str | Path) -> Path | None:
    """The folder of a pretrained artifact under `root`, or None."""
    found = [p.parent for p in Path(root).rglob("model.safetensors") if (p.parent / "config.json").exists()]
    return min(found, key=lambda path: (len(path.parts), str(path)), default=None)
