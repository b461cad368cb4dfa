"""Test that a notebook is executed, shown while it runs, and saved with its output."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from places import REPOSITORY
from programs import run_python


def test_a_failing_cell_ends_the_notebook_which_is_saved_with_its_output(tmp_path):
    cells = [new_code_cell(code) for code in ("open('here', 'w'); print('one')", "1 / 0", "print('two')")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    (tmp_path / "working").mkdir()
    executed = tmp_path / "working" / "executed.ipynb"
    tool = REPOSITORY / "tools" / "support" / "execute_notebook.py"
    result = run_python(tool, tmp_path / "notebook.ipynb", executed, 60)
    assert result.returncode == 1
    assert result.stdout == "one\n"
    assert "ZeroDivisionError" in result.stderr
    assert (tmp_path / "working" / "here").exists()  # cells run in the folder of the output
    outputs = [cell.outputs for cell in nbformat.read(executed, as_version=4).cells]
    assert [len(output) for output in outputs] == [1, 1, 0]
