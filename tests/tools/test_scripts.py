"""Test what holds for every tool that is run as a script: help, docstring, and a line in tools/README.md."""

import ast
import json
import re

import pytest
from places import REPOSITORY
from programs import run_python

TOOLS = REPOSITORY / "tools"
SCRIPTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in TOOLS.rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
# Runs in a process of its own, which the rehearsal starts. The others are run by people.
INTERNAL = "tools/support/execute_notebook.py"
FOR_PEOPLE = [name for name in SCRIPTS if name != INTERNAL]


def syntax_of(name: str) -> ast.Module:
    return ast.parse((REPOSITORY / name).read_text())


def test_every_script_is_found():
    assert {"tools/local_dryrun.py", "tools/bench/ops.py", INTERNAL} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_docstring_says_what_the_script_is_for_and_how_to_run_it(name):
    lines = ast.get_docstring(syntax_of(name)).splitlines()
    assert lines[0].endswith("."), "the first line is a sentence"
    assert any(line.startswith(f"    python {name}") for line in lines)


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_the_script_is_listed_in_the_readme_of_the_tools(name):
    assert f"| `python {name}" in (TOOLS / "README.md").read_text()


def test_the_readme_of_the_tools_names_no_file_that_is_not_there():
    text = (TOOLS / "README.md").read_text()
    assert set(re.findall(r"python (tools/\S+\.py)", text)) <= {*SCRIPTS, "tools/run_tests.py"}
    for folder in ("bench", "stress", "study", "support"):
        section = text.partition(f"`{folder}/`")[2].partition("\n## ")[0]
        named = set(re.findall(r"(\w+\.py)", section))
        assert named == {path.name for path in (TOOLS / folder).glob("*.py")} - {"__init__.py", "script_setup.py"}


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_script_setup_is_the_first_import(name):
    imports = [node for node in syntax_of(name).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [alias.name for alias in imports[1].names] == ["script_setup"]
    assert "sys.path" not in (REPOSITORY / name).read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_has_help(name):
    for node in ast.walk(syntax_of(name)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            assert "help" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)


# Runs scripts one after another, each in a process of its own that has loaded large packages. Prints what each shows.
HELP_OF_ALL = """
import json, os, runpy, sys
import hypothesis, numpy, safetensors.torch, torch, triton

shown = {}
for script in sys.argv[1:]:
    out, into = os.pipe()
    if not os.fork():
        os.dup2(into, 1)
        os.dup2(into, 2)
        sys.path[0], sys.argv = os.path.dirname(script), [script, "--help"]
        runpy.run_path(script, run_name="__main__")
        os._exit(3)  # help ends a script
    os.close(into)
    with open(out) as file:
        text = file.read()
    shown[script] = text, os.waitstatus_to_exitcode(os.wait()[1])
json.dump(shown, sys.stdout)
"""


def test_help_is_shown_in_any_folder(tmp_path):
    scripts = {str(REPOSITORY / name): name for name in FOR_PEOPLE}
    run = run_python("-c", HELP_OF_ALL, *scripts, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    for script, (text, code) in json.loads(run.stdout).items():
        assert code == 0, text
        assert ast.get_docstring(syntax_of(scripts[script])) in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_help_is_shown_without_packages_and_installs_none(name, tmp_path):
    shown = run_python("-E", "-S", REPOSITORY / name, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert ast.get_docstring(syntax_of(name)) in shown.stdout


def test_the_hooks_before_a_commit_have_the_ruff_of_the_test_command():
    pinned = re.search(r"^ruff==\S+", (TOOLS / "requirements.txt").read_text(), re.MULTILINE)[0]
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"ruff==[\d.]+", hooks) == [pinned, pinned]
