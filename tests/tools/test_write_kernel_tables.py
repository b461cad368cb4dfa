"""Test the tables of compiled kernels: what spills where, and how many instructions attention has."""

import json

import pytest

from hrm_offline.common.errors import InputError
from tools.write_kernel_tables import PAGE, read_reports, replaced, tables


def kernel(name, capability, **numbers):
    usual = {"op": "attention", "chosen": True, "fits": True, "spills": 0, "stack": 0, "instructions": 100, "error": ""}
    return {"kernel": name, "capability": capability} | usual | numbers


def write(file, version, *kernels):
    file.write_text(json.dumps({"triton": version, "kernels": kernels}))
    return file


def test_spills_by_version_and_instructions_of_the_newest(tmp_path):
    files = [
        write(tmp_path / "1", "3.10.0", kernel("grad_q", 89, instructions=398), kernel("grad_q rotate", 89)),
        write(tmp_path / "2", "3.4.0", kernel("grad_q", 89, spills=10, stack=24), kernel("grad_kv", 89)),
        write(
            tmp_path / "3", "3.4.0", kernel("grad_q", 90, chosen=False, spills=4), kernel("grad_q", 90, error="E: x")
        ),
    ]
    lines = tables(read_reports(files)).splitlines()
    older = lines.index("| Triton 3.4 | 1 of 2 (10: grad_q) | 0 of 1 and 1 that do not compile |")
    assert lines[older + 1] == "| Triton 3.10 | 0 of 2 | not compiled |"
    assert "| `grad_q` | 100 | 398 |" in lines


def test_the_page_keeps_what_is_around_the_tables():
    page = PAGE.read_text(encoding="utf-8")
    once = replaced(page, "new\n")
    assert replaced(once, "new\n") == once and "new" in once
    assert once.startswith("# Kernels") and once.endswith(page[-200:])


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other").write_text("[]")
    with pytest.raises(InputError, match="not a file of kernel_report"):
        read_reports([tmp_path / "other"])
