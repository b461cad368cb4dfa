"""Test the command that shows the self-test, with one planted fault, on a CPU under Triton's interpreter."""

import json

import pytest
from kernels import needs_triton

from hrm_offline import cli
from hrm_offline.ops import dispatch
from hrm_offline.ops import sign_sgd as sign_sgd_module
from hrm_offline.ops.faults import KernelFault
from hrm_offline.solve import selftest as command


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    smaller = dict(batch=1, tokens=6, hidden=32, heads=2, intermediate=32, vocabulary=12, puzzle_tokens=1)
    monkeypatch.setattr(command, "_TINY", smaller)
    yield
    dispatch.promote_all()


@needs_triton
def test_the_table_names_every_candidate_and_the_one_that_fails(monkeypatch, capsys, tmp_path):
    def fail(*_):
        raise KernelFault("sign_sgd", RuntimeError("out of resource: shared memory"))

    monkeypatch.setattr(sign_sgd_module, "sign_sgd_step", fail)
    assert cli.main(["selftest", "--device", "cpu", "--json", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr().out
    assert "TIMES BELOW MEAN NOTHING" in printed
    assert all(op in printed for op in dispatch.RULES)
    assert "out of resource: shared memory" in printed
    assert printed.strip().endswith("wrong or failing: sign_sgd")
    result = json.loads((tmp_path / "out.json").read_text())
    assert {row["op"] for row in result["rows"]} == set(dispatch.RULES)
    assert [row["op"] for row in result["rows"] if row["fault"]] == ["sign_sgd"]
    assert result["interpreted"]
    assert dispatch.demotions() == {}


@needs_triton
def test_what_is_not_tested_is_said(capsys):
    assert cli.main(["selftest", "--device", "cpu", "--seconds", "-1"]) == 0
    assert capsys.readouterr().out.count("not tested, there was no time") == len(dispatch.RULES)


def test_wrong_arguments_are_one_line(capsys):
    assert cli.main(["selftest", "--device", "cuda:x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
