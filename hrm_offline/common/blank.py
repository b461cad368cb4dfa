"""A complete submission of blank answers, written with the standard library alone.

The platform accepts it, whatever else goes wrong. Where numpy is there, `hrm_offline.answers.submission` makes a better
fallback, from the demonstrations.
"""

from __future__ import annotations

from pathlib import Path

from hrm_offline.common.errors import InputError, shown
from hrm_offline.common.files import make_folder, read_json, write_json

_BLANK = {"attempt_1": [[0]], "attempt_2": [[0]]}


def write_blank(challenges: str | Path, path: str | Path) -> bool:
    """Write a submission with the answer [[0]] for every test input of the tasks in `challenges`.

    `challenges` is a Kaggle challenges file or a folder of one-task files. A file at `path` that has entries for just
    these test inputs is kept: an earlier run left it. Returns whether a submission was written. Raises `InputError` if
    the tasks cannot be read or the submission cannot be written.
    """
    blank = {task_id: [_BLANK] * entries_needed(task) for task_id, task in _read_tasks(Path(challenges)).items()}
    path = Path(path)
    make_folder(path.parent)
    if _lengths_in(path) == {task_id: len(entries) for task_id, entries in blank.items()}:
        return False
    try:
        write_json(path, blank)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None
    return True


def entries_needed(task) -> int:
    """Return the number of test inputs that a task of parsed JSON has, or seems to have where it is broken: at least 1.

    A submission needs an entry for each.
    """
    tests = task.get("test") if isinstance(task, dict) else None
    return max(1, len(tests)) if isinstance(tests, list) else 1


def _read_tasks(challenges: Path) -> dict:
    """Return the tasks of a file or a folder as parsed JSON, by id. Raises `InputError` if there are none."""
    if challenges.is_dir():
        tasks = {file.stem: read_json(file) for file in sorted(challenges.glob("*.json"))}
    else:
        tasks = read_json(challenges)
    if not isinstance(tasks, dict) or not tasks:
        raise InputError(f"{challenges}: expected a non-empty object of tasks, found {shown(tasks)}")
    return tasks


def _lengths_in(submission: Path) -> dict[str, int] | None:
    """Return the number of entries of each task in a submission, or None where there is no sound one."""
    try:
        entries = read_json(submission)
    except InputError:
        return None
    if not isinstance(entries, dict) or not all(isinstance(value, list) for value in entries.values()):
        return None
    return {task_id: len(value) for task_id, value in entries.items()}
