"""What is uploaded: our wheel, the vendored ones, the bundle, its metadata, and the notebook's first cells."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from places import REPOSITORY

from hrm_offline.common.errors import InputError
from hrm_offline.solve import kaggle
from tools import build_kernel, vendor_wheels
from tools import build_wheel as wheel_builder
from tools.support.kaggle_metadata import check_dataset, check_kernel, check_slug, slugify
from tools.support.kill_solve import kill_solve

CHALLENGES = {"a": {"train": [], "test": [{"input": [[1]]}, {"input": [[2]]}]}, "b": {"train": [], "test": [{}]}}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A dataset of our wheel alone, written once; tests copy what they change."""
    folder = tmp_path_factory.mktemp("vendored") / "dataset"
    vendor_wheels.vendor(folder, "somebody", lock=None)
    return folder


@pytest.fixture
def wheel(dataset):
    return next(dataset.glob("hrm_offline-*.whl"))


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment
    )


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


def test_a_source_date_epoch_is_taken_and_checked(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert wheel_builder.source_date_epoch() == 86400
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="yesterday"):
        wheel_builder.source_date_epoch()


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
    assert tool.stderr.splitlines() == [f"vendor_wheels: error: {tmp_path / 'nowhere'}: no such folder"]
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        vendor_wheels.clear_earlier(tmp_path)


def make_wheel(folder: Path, name: str, tag: str) -> Path:
    """A wheel with one module, for downloads that need no network."""
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


@pytest.fixture
def kernel_metadata():
    text = (REPOSITORY / "kernel" / "kernel-metadata.json").read_text()
    return json.loads(text.replace("YOUR_USERNAME", "somebody").replace("COMPETITION_SLUG", "arc-prize-2026"))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"title": "hrm"}, "5 to 50"),
        ({"title": "hrm offline " * 5}, "5 to 50"),
        ({"title": "another name"}, "another-name"),
        ({"id": "somebody"}, "USER/SLUG"),
        ({"id": "Some_body/hrm-offline"}, "Some_body"),
        ({"id": None}, "id is None"),
        ({"enable_internet": True}, "enable_internet is True, expected False"),
        ({"enable_internet": None}, "enable_internet is None, expected False"),
        ({"machine_shape": "NvidiaL5"}, "NvidiaL4X1"),
        ({"accelerator": "NvidiaL4"}, "accelerator"),
        ({"language": "julia"}, "language"),
        ({"is_private": "true"}, "is_private"),
        ({"dataset_sources": ["wheels"]}, "USER/SLUG"),
        ({"competition_sources": ["ARC Prize"]}, "ARC Prize"),
    ],
)
def test_kernel_metadata_that_kaggle_would_refuse(kernel_metadata, change, said):
    check_kernel(kernel_metadata, "here")
    with pytest.raises(InputError, match=r"^here: ") as error:
        check_kernel(kernel_metadata | change, "here")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"title": "short"}, "6 to 50"),
        ({"id": "somebody/short"}, "6 to 50"),
        ({"subtitle": "too short"}, "20 to 80"),
        ({"licenses": []}, "exactly one"),
        ({"licenses": [{"name": "MIT-0"}]}, "MIT-0"),
        ({"license": "other"}, "'license'"),
    ],
)
def test_dataset_metadata_that_kaggle_would_refuse(change, said):
    metadata = vendor_wheels.dataset_metadata("somebody", ["a.whl"])
    check_dataset(metadata, "here")
    with pytest.raises(InputError, match=r"^here: ") as error:
        check_dataset(metadata | change, "here")
    assert said in str(error.value)


def test_slugs():
    assert slugify("HRM offline: 2nd try") == "hrm-offline-2nd-try"
    check_slug("arc-prize-2026", "competition")
    for wrong in ("", "Arc", "arc prize", "-arc", "arc--prize", "arc/prize", "arc_prize"):
        with pytest.raises(InputError, match="competition"):
            check_slug(wrong, "competition")


def test_the_bundle_is_complete_and_rebuilt_in_place(tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    for name in (*kaggle.ARTIFACT_FILES, "puzzles.safetensors"):
        (artifact / name).write_text(name)
    out = tmp_path / "bundle"
    build_kernel.build(out, "somebody", "arc-prize-2026", artifact, lock=None)
    bundle = build_kernel.read_bundle(out)
    assert bundle.metadata["id"] == "somebody/hrm-offline"
    assert bundle.metadata["enable_internet"] is False
    assert bundle.metadata["dataset_sources"] == ["somebody/hrm-offline-bundle"]
    assert bundle.mounts == ("arc-prize-2026", "hrm-offline-bundle")
    assert kaggle.find_artifact(out) == bundle.dataset
    assert not (bundle.dataset / "puzzles.safetensors").exists()
    assert vendor_wheels.verify(bundle.dataset) == []
    assert "YOUR_USERNAME" not in "".join(path.read_text() for path in (out / "notebook").iterdir())

    build_kernel.build(out, "somebody", "arc-prize-2026", single_file=True)
    bundle = build_kernel.read_bundle(out)
    assert bundle.dataset is None
    assert bundle.metadata["dataset_sources"] == []
    (bundle.notebook).unlink()
    with pytest.raises(InputError, match="code_file"):
        build_kernel.read_bundle(out)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--user", "Some Body", "--competition", "arc"], "user name 'Some Body'"),
        (["--user", "somebody", "--competition", "arc/prize"], "competition 'arc/prize'"),
        (["--user", "somebody", "--competition", "arc", "--artifact", "nowhere"], "model.safetensors: no such file"),
    ],
)
def test_what_cannot_be_bundled_is_one_line_and_writes_nothing(tmp_path, arguments, said):
    tool = run_python(REPOSITORY / "tools" / "build_kernel.py", *arguments, "--out", tmp_path / "out")
    assert tool.returncode == 2
    assert len(tool.stderr.splitlines()) == 1
    assert said in tool.stderr
    assert not (tmp_path / "out").exists()


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def lay_out(root: Path, name: str = "arc-agi_test_challenges.json") -> Path:
    """A tree like Kaggle's; returns the submission's path."""
    competition = root / "input" / "competitions" / "arc"
    for folder in (competition, root / "working"):
        folder.mkdir(parents=True)
    (competition / name).write_text(json.dumps(CHALLENGES), encoding="utf-8-sig")
    return root / "working" / "submission.json"


NOTEBOOK = REPOSITORY / "kernel" / "hrm_offline.ipynb"


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


def test_a_single_file_notebook_installs_the_wheel_it_carries(tmp_path, wheel):
    build_kernel.build(tmp_path / "bundle", "somebody", "arc", single_file=True)
    notebook = tmp_path / "bundle" / "notebook" / "hrm_offline.ipynb"
    cells = code_cells(notebook)
    assert len(cells) <= 8
    assert all(len(cell.splitlines()) <= 15 for cell in cells)
    lay_out(tmp_path)
    code = "\n".join([*cells[:3], "import hrm_offline; print(hrm_offline.__file__)"])
    (tmp_path / "cells.py").write_text(code)
    result = run_python("-I", tmp_path / "cells.py", HRM_OFFLINE_ROOT=str(tmp_path))
    assert result.returncode == 0, result.stderr
    site = tmp_path / "temp" / "hrm_offline_site"
    assert result.stdout.splitlines()[-1] == str(site / "hrm_offline" / "__init__.py")
    assert [path.read_bytes() for path in (tmp_path / "temp").rglob("*.whl")] == [wheel.read_bytes()]

    damaged = cells[1].replace('b64decode("', 'b64decode("AAAA')
    (tmp_path / "cells.py").write_text(f"{cells[0]}\n{damaged}")
    assert run_python(tmp_path / "cells.py", HRM_OFFLINE_ROOT=str(tmp_path)).returncode == 1


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


def test_copies_are_told_and_compared(tmp_path):
    said = []
    for folder, text in (("arc", "{}"), ("competitions/arc", "{}"), ("old/arc-2025", '{"a": 1}')):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "arc-agi_test_challenges.json").write_text(text)
        (tmp_path / folder / "model.safetensors").write_text("the same")
        (tmp_path / folder / "config.json").write_text(text)
    near = tmp_path / "arc"
    assert kaggle.find_file(tmp_path, kaggle.CHALLENGES, said.append) == near / "arc-agi_test_challenges.json"
    assert kaggle.find_artifact(tmp_path, said.append) == near
    for line, name in zip(said, ("/arc-agi_test_challenges.json", "")):
        assert f"found 3 times: taken {near}{name};" in line
        assert f"{tmp_path}/competitions/arc{name} (the same)" in line
        assert f"{tmp_path}/old/arc-2025{name} (DIFFERENT)" in line
    assert kaggle.find_file(near, kaggle.CHALLENGES, said.append)
    assert len(said) == 2


def test_a_command_is_echoed_line_by_line_and_its_exit_code_returned():
    said = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    assert kaggle.run_with_limit([sys.executable, "-c", code], 30, said.append) == 3
    assert sorted(said) == ["one", "two"]


@pytest.mark.parametrize("leaves_the_group", [False, True])
def test_a_command_that_hangs_is_killed_with_its_children(monkeypatch, leaves_the_group):
    """A child that left the process group is out of reach, and holds the pipe open: that must not hang either."""
    monkeypatch.setattr(kaggle, "_SECONDS_TO_DRAIN", 0.5)
    code = (
        "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'], "
        f"start_new_session={leaves_the_group}); print(c.pid, flush=True); time.sleep(60)"
    )
    said, started = [], time.monotonic()
    assert kaggle.run_with_limit([sys.executable, "-c", code], 1.5, said.append) == -9
    assert time.monotonic() - started < 6
    assert said[1] == "still running after 2 s: killed"
    assert ends_within(int(said[0]), 3) is not leaves_the_group


def ends_within(pid: int, seconds: float) -> bool:
    """Whether a process that may be no child of this one is over; an orphan can stay as a zombie."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_the_killer_finds_solve_and_takes_its_children_along():
    code = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    solve = subprocess.Popen([sys.executable, "-c", code, "-m", "hrm_offline", "solve"], start_new_session=True)
    assert kill_solve(1.0, threading.Event()) == 2
    assert solve.wait(10) == -9
    over = threading.Event()
    over.set()
    assert kill_solve(1.0, over) == 0
