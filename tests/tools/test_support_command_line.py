"""Test what the command lines of all tools share."""

import sys

import pytest

from hrm_offline.common.errors import InputError
from tools.support.command_line import absolute_path, add_seeds, docstring_of, flags, parser_of, run_tool, solve_command


def test_flags_are_named_after_the_arguments_and_none_is_left_out():
    assert flags(save_every=0.3, preset=None, visits=0) == ["--save-every", "0.3", "--visits", "0"]
    assert flags() == []


def test_solve_runs_in_the_same_python():
    command = solve_command(seed=1)
    assert command[0] == sys.executable
    assert command[-3:] == ["solve", "--seed", "1"]


def test_an_input_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def tool():
        raise InputError("no such set")

    monkeypatch.setattr(sys, "argv", ["/somewhere/tool.py"])
    assert run_tool(tool) == 2
    assert capsys.readouterr().err == "tool.py: error: no such set\n"
    assert run_tool(lambda: 1) == 1


def test_help_keeps_the_lines_of_the_docstring(capsys):
    parser = parser_of("Do it.\n\n    python tool.py\n")
    add_seeds(parser, [0, 1])
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "Do it.\n\n    python tool.py\n" in shown
    assert "(default: 0 1)" in " ".join(shown.split())  # help is wrapped to the width of the terminal
    assert parser.parse_args(["--seeds", "5"]).seeds == [5]


@pytest.mark.parametrize("text", ["-1", "100000000000000000000", "nan", "1.5", "x", ""])
def test_what_is_no_seed_is_refused_at_once(text, capsys):
    parser = parser_of("Do it.")
    add_seeds(parser, [0])
    with pytest.raises(SystemExit):
        parser.parse_args(["--seeds", text])
    assert "--seeds" in capsys.readouterr().err
    assert parser.parse_args(["--seeds", str(2**63 - 1)]).seeds == [2**63 - 1]


def test_a_path_is_that_of_the_folder_where_the_tool_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_path("out") == tmp_path.resolve() / "out"


def test_help_needs_no_docstring_in_memory(tmp_path, monkeypatch, capsys):
    """python -OO drops docstrings."""
    (tmp_path / "tool.py").write_text('"""Do it.\n\n    python tool.py\n"""\n')
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tool.py")])
    with pytest.raises(SystemExit):
        parser_of(None).parse_args(["--help"])
    assert "Do it.\n\n    python tool.py" in capsys.readouterr().out
    assert docstring_of(tmp_path / "none-such.py") is None


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def tool():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["/somewhere/tool.py"])
    assert run_tool(tool) == 130
    assert capsys.readouterr().err == "tool.py: interrupted (Ctrl-C)\n"
