"""Test our wheel: what it holds, and that it has the same bytes wherever it is built."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from places import REPOSITORY

from hrm_offline.common.errors import InputError
from tools import build_wheel as wheel_builder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "hrm_offline").rglob("*.py")}
    assert ours <= set(names)
    data = {"hrm_offline/py.typed", "hrm_offline/artifacts/hrm-132k/model.safetensors"}
    assert data <= set(names)
    assert all(name.startswith(("hrm_offline/", "hrm_offline-")) for name in names)


def test_the_wheel_has_the_same_bytes_from_another_folder_umask_and_time(tmp_path, wheel):
    copy = tmp_path / "somewhere else"
    for name in ("hrm_offline", "tools", "wheels"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("*.whl"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o700)
    command = f"umask 077; exec '{sys.executable}' tools/build_wheel.py"
    built = subprocess.run(
        ["sh", "-c", command],
        cwd=copy,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(wheel_builder.source_date_epoch())},
    )
    assert Path(built.stdout.strip()).read_bytes() == wheel.read_bytes()


def test_the_wheels_entries_are_sorted_plain_and_of_the_commits_time(tmp_path, wheel):
    entries = zipfile.ZipFile(wheel).infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    when = time.gmtime(wheel_builder.source_date_epoch() // 2 * 2)  # a zip file counts in steps of two seconds
    assert {entry.date_time for entry in entries} == {when[:6]}
    later = wheel_builder.pack_again(wheel, tmp_path / "later.whl", wheel_builder.source_date_epoch() + 60)
    assert later.read_bytes() != wheel.read_bytes()


def test_an_editable_install_is_a_path_which_the_clones_parent_folder_cannot_hide(tmp_path):
    """An import hook would come after the working folder, where a clone looks like a package of the same name."""
    clone = tmp_path / "hrm_offline"
    shutil.copytree(REPOSITORY / "hrm_offline", clone / "hrm_offline", ignore=shutil.ignore_patterns("artifacts"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, clone)
    code = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        paths = {name: wheel.read(name).decode().strip() for name in wheel.namelist() if "dist-info" not in name}
    assert list(paths.values()) == [str(clone)]
    code = f"import sys; sys.path.append({str(clone)!r}); import hrm_offline; print(hrm_offline.__version__)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_a_source_date_epoch_is_taken_and_checked(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert wheel_builder.source_date_epoch() == 86400
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="yesterday"):
        wheel_builder.source_date_epoch()
