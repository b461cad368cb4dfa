"""Test how the tools find out which packages are missing."""

import sys

import pytest

from tools.support import environment


@pytest.fixture
def requirements(tmp_path, monkeypatch):
    """Replace the list of packages by one with a package that is here, one that is not, and one for elsewhere."""
    path = tmp_path / "requirements.txt"
    elsewhere = "linux" if sys.platform != "linux" else "win32"
    path.write_text(
        f"# comment\n\npytest==0.0.1\nno-such-package==1.0\nneither-this==1.0 ; sys_platform == '{elsewhere}'\n"
    )
    monkeypatch.setattr(environment, "REQUIREMENTS", path)
    monkeypatch.setattr(environment.os, "execv", lambda *_: pytest.fail("the process was replaced"))
    return path


def test_a_package_of_any_version_will_do(requirements):
    assert environment._missing_packages() == ["no-such-package"]


def test_nothing_is_installed_for_a_tool_that_needs_only_what_is_there(requirements):
    environment.ensure(only=("pytest",))
    requirements.write_text("pytest==0.0.1\n")
    environment.ensure()


def test_help_installs_nothing_and_shows_the_docstring(requirements, tmp_path, monkeypatch, capsys):
    (tmp_path / "tool.py").write_text('"""Do something."""\n\nraise AssertionError("was run")\n')
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tool.py"), "--help"])
    with pytest.raises(SystemExit) as end:
        environment.ensure()
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Do something.\n")
    assert "no-such-package" in shown


def test_the_commit_of_something_that_is_no_checkout_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.commit_of_checkout() == "unknown"


def test_a_script_starts_again_with_spaces_in_its_path(tmp_path, monkeypatch):
    """Start it beside this process, as on Windows, whose exec would split the path. Elsewhere replace the process."""
    script = tmp_path / "a folder" / "its script.py"
    script.parent.mkdir()
    script.write_text("import sys; sys.exit(7 if sys.argv[1:] == ['two words'] else 1)")
    command = [sys.executable, str(script), "two words"]
    with pytest.raises(SystemExit) as end:
        environment._start_again(command, beside=True)
    assert end.value.code == 7
    replaced = []
    monkeypatch.setattr(environment.os, "execv", lambda *arguments: replaced.append(arguments))
    environment._start_again(command, beside=False)
    assert replaced == [(sys.executable, command)]
