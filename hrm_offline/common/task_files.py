"""Find the tasks in what people hand in: a challenges file, the file of one task, or a folder tree of such files.

Nothing is checked here beyond the form of the JSON, so that the standard library is enough.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.common.errors import InputError, shown
from hrm_offline.common.files import read_json

_PARTS = ("train", "test")
_PAIR = ("input", "output")
# Folders that archivers and editors leave. Hidden ones, such as .ipynb_checkpoints, are left out too.
_JUNK_FOLDERS = ("__MACOSX", "__pycache__")
# What `solve`, downloads from Kaggle and RE-ARC leave beside tasks. A task may have such a name as well.
_COMPANIONS = (
    "submission",
    "submission_network",
    "submission_induction",
    "report",
    "candidates",
    "dataset-metadata",
    "kernel-metadata",
    "metadata",
)
# A folder of this name is the journal of a run of `solve` where it holds such a file.
_JOURNAL = ("journal", "run.journal")


@dataclass(frozen=True)
class Damaged:
    """Stands for the content of a task's file that cannot be read, for this `reason`."""

    reason: str


def read_raw_tasks(source: str | Path) -> dict[str, object]:
    """Return the tasks of a file or a folder as parsed JSON by id, in file order.

    A challenges file is an object of tasks. The file of one task is an object with "train" and "test", or a list of
    pairs, and its name is the task's id. A folder is searched with all its subfolders for files of one task. Files
    and folders whose names begin with a dot are left out, and so is what a run of `solve` leaves. A file of a folder
    that cannot be read is a task whose value is `Damaged`. Where two files of a folder have one name, their ids are
    their paths in the folder.

    Raises `InputError` where a single file cannot be read or holds no tasks, and where a folder has no JSON file.
    """
    if os.path.isdir(source):
        return _folder_tasks(Path(source))
    value = read_json(source)
    if _is_task(value):
        return {Path(source).stem: value}
    if not isinstance(value, dict) or not value:
        raise InputError(f"{source}: expected a non-empty object of tasks, found {shown(value)}")
    return value


def entries_needed(task) -> int:
    """Return the number of test inputs that a task of parsed JSON has, or seems to have where it is broken: at least 1.

    A submission needs an entry for each.
    """
    tests = task.get("test") if isinstance(task, dict) else None
    return max(1, len(tests)) if isinstance(tests, list) else 1


def is_pair_list(value) -> bool:
    """Return whether parsed JSON is a task in the form of RE-ARC: a list of pairs, which are all demonstrations."""
    return isinstance(value, list) and bool(value) and all(_has(item, _PAIR) for item in value)


def tasks_in(value) -> int:
    """Return how many tasks an object of parsed JSON holds as values."""
    return sum(_has(item, _PARTS) for item in value.values()) if isinstance(value, dict) else 0


def _is_task(value) -> bool:
    """Return whether the content of a file is one task. A task named "train" makes no task of a challenges file."""
    return is_pair_list(value) or (_has(value, _PARTS) and not tasks_in(value))


def _has(value, keys: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and any(key in value for key in keys)


def _folder_tasks(folder: Path) -> dict[str, object]:
    tasks = {}
    for name, file in _named(folder, _json_files(folder)).items():
        try:
            value = read_json(file)
        except InputError as error:
            value = Damaged(str(error).removeprefix(f"{file}: "))
        if file.stem.lower() not in _COMPANIONS or isinstance(value, Damaged) or _is_task(value):
            tasks[name] = value
    if not tasks:
        raise InputError(f"{folder}: no .json files of tasks in it or its subfolders, expected one task per file")
    return tasks


def _json_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder tree that may be tasks, sorted by path. Links to folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_junk(Path(place, name))]
        found += [Path(place, name) for name in files if name.lower().endswith(".json") and not name.startswith(".")]
    return sorted(found)


def _is_junk(folder: Path) -> bool:
    journal, file = _JOURNAL
    is_journal = folder.name == journal and (folder / file).exists()
    return is_journal or folder.name.startswith(".") or folder.name in _JUNK_FOLDERS


def _named(folder: Path, files: list[Path]) -> dict[str, Path]:
    """Return the files by the ids of their tasks."""
    names = Counter(file.stem for file in files)
    named = {}
    for file in files:
        path = file.relative_to(folder)
        name = file.stem if names[file.stem] == 1 else path.with_suffix("").as_posix()
        named[path.as_posix() if name in named else name] = file
    return named
