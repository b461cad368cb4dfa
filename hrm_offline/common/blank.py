"""A complete submission of blank answers, written with the standard library alone.

The platform accepts it, whatever else goes wrong. Where numpy is there, `hrm_offline.answers.submission` makes a better
fallback, from the demonstrations.
"""

from __future__ import annotations

from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, write_json
from hrm_offline.common.task_files import entries_needed, read_raw_tasks

_BLANK = {"attempt_1": [[0]], "attempt_2": [[0]]}


def write_blank(challenges: str | Path, path: str | Path) -> bool:
    """Write a submission with the answer [[0]] for every test input of the tasks in `challenges`.

    `challenges` is what `read_raw_tasks` reads: a file or a folder. A file at `path` that has two attempts for
    just these test inputs is kept: an earlier run left it. Returns whether a submission was written. Raises
    `InputError` if the tasks cannot be read or the submission cannot be written.
    """
    blank = {task_id: [_BLANK] * entries_needed(task) for task_id, task in read_raw_tasks(challenges).items()}
    path = Path(path)
    make_folder(path.parent)
    if _lengths_in(path) == {task_id: len(entries) for task_id, entries in blank.items()}:
        return False
    try:
        write_json(path, blank)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None
    return True


def _lengths_in(submission: Path) -> dict[str, int] | None:
    """Return the number of entries of each task in a submission, or None where there is no sound one."""
    try:
        entries = read_json(submission)
    except InputError:
        return None
    if not isinstance(entries, dict) or not all(map(_are_answers, entries.values())):
        return None
    return {task_id: len(value) for task_id, value in entries.items()}


def _are_answers(entries) -> bool:
    """Return whether a task's entries each have two attempts that may be grids."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return False
    return all(isinstance(entry.get(name), list) and entry[name] for entry in entries for name in _BLANK)
