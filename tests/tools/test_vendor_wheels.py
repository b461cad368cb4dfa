"""Test the dataset of vendored wheels: its hashes, its lock, and what is refused."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest
from places import REPOSITORY
from programs import run_python

from hrm_offline.common.errors import InputError
from tools import vendor_wheels


def test_what_was_written_verifies(dataset):
    assert vendor_wheels.verify(dataset) == []
    tool = run_python(REPOSITORY / "tools" / "vendor_wheels.py", "--verify", dataset)
    assert tool.returncode == 0, tool.stderr


@pytest.mark.parametrize(
    "finding, spoil",
    [
        ("differs: requirements.txt", lambda folder: (folder / "requirements.txt").write_text("hrm_offline\n")),
        ("missing: requirements.txt", lambda folder: (folder / "requirements.txt").unlink()),
        (
            "not listed: extra/more.whl",
            lambda folder: ((folder / "extra").mkdir(), (folder / "extra" / "more.whl").write_text("")),
        ),
        ("missing: SHA256SUMS", lambda folder: (folder / "SHA256SUMS").unlink()),
        ("differs: SHA256SUMS (line 1 is not", lambda folder: (folder / "SHA256SUMS").write_text("gone\n")),
    ],
)
def test_a_changed_folder_is_found_out_by_name(tmp_path, dataset, finding, spoil):
    folder = shutil.copytree(dataset, tmp_path / "changed")
    spoil(folder)
    assert vendor_wheels.verify(folder)[0].startswith(finding)
    tool = run_python(REPOSITORY / "tools" / "vendor_wheels.py", "--verify", folder)
    assert tool.returncode == 1
    assert finding in tool.stdout


def test_a_folder_that_is_not_there_or_not_ours_is_one_line(tmp_path):
    tool = run_python(REPOSITORY / "tools" / "vendor_wheels.py", "--verify", tmp_path / "nowhere")
    assert tool.returncode == 2
    assert tool.stderr.splitlines() == [f"vendor_wheels.py: error: {tmp_path / 'nowhere'}: no such folder"]
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        vendor_wheels.clear_earlier(tmp_path)


def make_wheel(folder: Path, name: str, tag: str) -> Path:
    """Write a wheel with one module, so that a download needs no network."""
    folder.mkdir()
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "VALUE = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_vendoring_downloads_the_lock_and_refuses_another_file(tmp_path, monkeypatch, wheel):
    insurance = make_wheel(tmp_path / "index", "insurance", "cp38-abi3-manylinux2014_x86_64")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(insurance.parent))
    digest = hashlib.sha256(insurance.read_bytes()).hexdigest()
    lock = tmp_path / "lock"
    lock.write_text(f"insurance==1.0 --hash=sha256:{digest}\n")
    out = tmp_path / "out"
    vendor_wheels.vendor(out, "somebody", lock=lock)
    assert vendor_wheels.verify(out) == []
    assert (out / insurance.name).read_bytes() == insurance.read_bytes()
    assert (out / wheel.name).read_bytes() == wheel.read_bytes()
    requirements = (out / "requirements.txt").read_text()
    assert f"sha256:{digest}" in requirements
    assert "insurance==1.0 ; sys_platform == 'linux' and platform_machine == 'x86_64'" in requirements

    lock.write_text(f"insurance==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(vendor_wheels.DownloadError, match="DO NOT MATCH"):
        vendor_wheels.vendor(out, "somebody", lock=lock)
    assert vendor_wheels.verify(out) == []
    lock.write_text(f"nothing-of-that-name==1.0 --hash=sha256:{digest}\n")
    with pytest.raises(vendor_wheels.DownloadError, match="nothing-of-that-name"):
        vendor_wheels.download(lock, tmp_path / "none")


def test_the_lock_is_exact_and_hashed():
    text = vendor_wheels.LOCK.read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        requirement, *hashes = line.split()
        assert requirement.count("==") == 1
        assert hashes and all(len(h) == len("--hash=sha256:") + 64 for h in hashes)
