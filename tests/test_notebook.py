"""Test the kernel's notebook: its form, its first cells, and what it leaves where nothing can be installed."""

import ast
import json
import shutil
import zipfile

import pytest
from notebooks import CHALLENGES, CHALLENGES_FILES, NOTEBOOK, code_cells, lay_out
from places import REPOSITORY
from programs import run_python

from hrm_offline.common.task_files import entries_needed


def test_the_notebook_is_short_and_has_no_output():
    notebook = json.loads((REPOSITORY / "kernel" / "hrm_offline.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) <= 8
    for cell in code:
        assert cell["outputs"] == []
        assert len(cell["source"]) <= 15
        ast.parse("".join(cell["source"]))


BLANK = {"attempt_1": [[0]], "attempt_2": [[0]]}


def draft(root, *flags, competition=""):
    """Run the cells that find the tasks and write the first submission, on Python alone. Return the process."""
    code = "\n".join(code_cells(NOTEBOOK)[:2]).replace('COMPETITION = ""', f'COMPETITION = "{competition}"')
    return run_python("-I", "-S", *flags, "-c", code, HRM_OFFLINE_ROOT=str(root))


@pytest.mark.parametrize("name", CHALLENGES_FILES)
def test_the_first_cells_alone_leave_a_valid_submission(tmp_path, name):
    submission = lay_out(tmp_path, name)
    cells = draft(tmp_path)
    assert (cells.returncode, cells.stdout, cells.stderr) == (0, "", "")
    assert json.loads(submission.read_text()) == {"a": [BLANK, BLANK], "b": [BLANK]}
    assert [path.name for path in submission.parent.iterdir()] == ["submission.json"]


@pytest.mark.parametrize("task", [{"train": []}, {"test": []}, {"test": None}, {"test": {}}, {}, [], None, 3, "x"])
def test_a_task_without_tests_gets_one_entry_as_from_solve(tmp_path, task):
    submission = lay_out(tmp_path, challenges=CHALLENGES | {"c": task})
    assert draft(tmp_path).stderr == ""
    assert json.loads(submission.read_text()) == {"a": [BLANK, BLANK], "b": [BLANK], "c": [BLANK]}
    assert entries_needed(task) == 1


ANSWER = {"attempt_1": [[5]], "attempt_2": [[6]]}


@pytest.mark.parametrize(
    ("there", "is_kept"),
    [
        ({"a": [ANSWER, ANSWER], "b": [ANSWER]}, True),
        ({"a": [ANSWER], "b": [ANSWER]}, False),  # an entry is missing
        ({"a": [ANSWER, ANSWER]}, False),  # a task is missing
        ({"a": [ANSWER, ANSWER], "b": [ANSWER], "c": [ANSWER]}, False),
        ({"old": [ANSWER]}, False),  # another competition's tasks
        ({"a": [ANSWER, {}], "b": [ANSWER]}, False),
        ({"a": "xy", "b": "x"}, False),
        ({"a": 3}, False),
        ([], False),
        ("{", False),
        ("", False),
    ],
)
def test_an_earlier_submission_is_kept_where_it_answers_just_these_tasks(tmp_path, there, is_kept):
    submission = lay_out(tmp_path)
    submission.write_text(there if isinstance(there, str) else json.dumps(there))
    before = submission.read_text()
    assert draft(tmp_path).returncode == 0
    if is_kept:
        assert submission.read_text() == before
    else:
        assert json.loads(submission.read_text()) == {"a": [BLANK, BLANK], "b": [BLANK]}


@pytest.mark.parametrize(
    ("mounts", "competition", "taken"),
    [
        (("arc-prize-2024", "arc-prize-2025"), "", "arc-prize-2025"),
        (("arc-prize-2024", "arc-prize-2025"), "arc-prize-2024", "arc-prize-2024"),
        (("arc-prize-2025", "competitions/arc-prize-2024"), "arc-prize-2024", "competitions/arc-prize-2024"),
        (
            ("competitions/arc-prize-2025", "competitions/arc-prize-2026-arc-agi-2"),
            "",
            "competitions/arc-prize-2026-arc-agi-2",
        ),
        (("competitions/arc-prize-2025", "datasets/x/arc-2026"), "", "competitions/arc-prize-2025"),
        (("arc-prize-2024", "arc-prize-2025"), "arc-prize-2026", "arc-prize-2025"),
        (("arc-prize-2025/copy/deep", "arc-prize-2024"), "arc-prize-2025", "arc-prize-2025/copy/deep"),
        (("arc-prize", "arc-prize-2024"), "", "arc-prize-2024"),
    ],
)
def test_of_several_competitions_the_notebooks_own_or_the_latest_is_solved(tmp_path, mounts, competition, taken):
    for mount in mounts:
        submission = lay_out(tmp_path, challenges={mount: {"test": [{}]}}, mount=mount)
    cells = draft(tmp_path, competition=competition)
    assert list(json.loads(submission.read_text())) == [taken]
    if competition in taken.split("/"):
        assert cells.stdout == ""
    else:
        assert cells.stdout.startswith("WARNING: ")
        assert all(str(tmp_path / "input" / mount) in cells.stdout for mount in mounts)


def test_a_single_competition_of_another_name_is_solved_with_a_warning(tmp_path):
    submission = lay_out(tmp_path)
    assert draft(tmp_path, competition="arc-prize-2026").stdout.startswith("WARNING: COMPETITION arc-prize-2026 ")
    assert set(json.loads(submission.read_text())) == {"a", "b"}


def test_the_first_cell_says_that_the_competition_is_not_attached(tmp_path):
    cell = run_python("-c", code_cells(NOTEBOOK)[0], HRM_OFFLINE_ROOT=str(tmp_path))
    assert cell.returncode == 1
    assert "attach the competition" in cell.stderr


@pytest.mark.parametrize("spoil", ["no dataset", "another wheel"])
def test_a_notebook_that_cannot_install_ends_and_keeps_the_fallback(tmp_path, dataset, wheel, spoil):
    submission = lay_out(tmp_path)
    if spoil == "another wheel":
        mounted = shutil.copytree(dataset, tmp_path / "input" / "bundle")
        with zipfile.ZipFile(mounted / wheel.name, "a") as archive:
            archive.writestr("surprise.py", "")
    result = run_python(
        REPOSITORY / "tools" / "support" / "execute_notebook.py",
        NOTEBOOK,
        submission.with_name("executed.ipynb"),
        60,
        HRM_OFFLINE_ROOT=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING: nothing installed" in result.stdout
    assert set(json.loads(submission.read_text())) == {"a", "b"}
