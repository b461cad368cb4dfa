"""Test the kernel's notebook: its form, its first cell, and what it leaves where nothing can be installed."""

import ast
import json
import shutil
import zipfile

import pytest
from notebooks import NOTEBOOK, code_cells, lay_out
from places import REPOSITORY
from programs import run_python

from hrm_offline.solve import kaggle


def test_the_notebook_is_short_and_has_no_output():
    notebook = json.loads((REPOSITORY / "kernel" / "hrm_offline.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) <= 8
    for cell in code:
        assert cell["outputs"] == []
        assert len(cell["source"]) <= 15
        ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("name", kaggle.CHALLENGES)
def test_the_first_cell_alone_leaves_a_valid_submission(tmp_path, name):
    submission = lay_out(tmp_path, name)
    cell = run_python("-I", "-S", "-c", code_cells(NOTEBOOK)[0], HRM_OFFLINE_ROOT=str(tmp_path))
    assert cell.returncode == 0, cell.stderr
    blank = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert json.loads(submission.read_text()) == {"a": [blank, blank], "b": [blank]}
    assert [path.name for path in submission.parent.iterdir()] == ["submission.json"]

    submission.write_text("an earlier run's")
    assert run_python("-I", "-c", code_cells(NOTEBOOK)[0], HRM_OFFLINE_ROOT=str(tmp_path)).returncode == 0
    assert submission.read_text() == "an earlier run's"


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
