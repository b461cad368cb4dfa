"""Test the bundle that is uploaded, with its dataset or as a single notebook."""

import dataclasses

import pytest
from notebooks import code_cells, lay_out
from places import REPOSITORY
from programs import run_python
from runs import SMALL, save_random_artifact

from hrm_offline.common.errors import InputError
from hrm_offline.data.companions import load_companions
from hrm_offline.data.tasks import to_challenges
from hrm_offline.solve import kaggle
from tools import build_kernel, vendor_wheels


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
    assert 'COMPETITION = "arc-prize-2026"' in code_cells(bundle.notebook)[0]
    assert "YOUR_USERNAME" not in "".join(path.read_text() for path in (out / "notebook").iterdir())

    build_kernel.build(out, "somebody", "arc-prize-2026", single_file=True)
    bundle = build_kernel.read_bundle(out)
    assert bundle.dataset is None
    assert bundle.metadata["dataset_sources"] == []
    text = bundle.notebook.read_text()
    bundle.notebook.write_text(text.replace("arc-prize-2026", "arc-prize-2024"))
    with pytest.raises(InputError, match='has the line COMPETITION = "arc-prize-2024", expected the same'):
        build_kernel.read_bundle(out)
    bundle.notebook.write_text(text.replace("arc-prize-2026", ""))
    assert build_kernel.read_bundle(out).mounts == ("arc-prize-2026", None)
    (bundle.notebook).unlink()
    with pytest.raises(InputError, match="code_file"):
        build_kernel.read_bundle(out)


def test_the_bundle_carries_the_tasks_to_learn_along(tmp_path, write_json, make_task):
    artifact = save_random_artifact(tmp_path / "artifact")
    tasks = write_json("public.json", to_challenges([make_task("a", seed=1), make_task("b", seed=2)]))
    out = tmp_path / "bundle"
    build_kernel.build(out, "somebody", "arc", artifact, lock=None, along=(str(tasks), "synthetic-2-sides-5"))
    dataset = build_kernel.read_bundle(out).dataset
    assert {"puzzles.safetensors", "puzzles.json"} <= {path.name for path in dataset.iterdir()}
    assert vendor_wheels.verify(dataset) == []
    flag, path = kaggle.along_flags(out)
    assert (flag, path) == ("--along", str(dataset / kaggle.ALONG_FILE))
    learned = load_companions([path], hidden=[make_task("b", seed=3)])
    assert [task.id for task in learned.tasks] == ["a", "synthetic-recolour-0", "synthetic-transform-1"]
    assert learned.left_out.keys() == {"b"}
    assert "*along_flags(INPUT)" in code_cells(build_kernel.read_bundle(out).notebook)[3]

    build_kernel.build(out, "somebody", "arc", single_file=True, along=("synthetic-2-sides-5",))
    assert kaggle.along_flags(out) and not kaggle.find_artifact(out)
    with pytest.raises(InputError, match=r"nowhere\.json"):
        build_kernel.build(out, "somebody", "arc", lock=None, along=("nowhere.json",))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--user", "Some Body", "--competition", "arc"], "user name 'Some Body'"),
        (["--user", "somebody", "--competition", "arc/prize"], "competition 'arc/prize'"),
        (["--user", "somebody", "--competition", "arc", "--artifact", "nowhere"], "nowhere: no such artifact folder"),
    ],
)
def test_what_cannot_be_bundled_is_one_line_and_writes_nothing(tmp_path, arguments, said):
    tool = run_python(REPOSITORY / "tools" / "build_kernel.py", *arguments, "--out", tmp_path / "out")
    assert tool.returncode == 2
    assert len(tool.stderr.splitlines()) == 1
    assert said in tool.stderr
    assert not (tmp_path / "out").exists()


def test_an_artifact_is_loaded_before_it_is_packed(tmp_path):
    folder = save_random_artifact(tmp_path / "artifact")
    said = build_kernel.describe_artifact(folder)
    assert "hidden_size 64" in said and "by the recipe of hrm-132k" in said

    small = dataclasses.replace(SMALL.model, canvas_rows=20)
    with pytest.raises(InputError, match="its largest canvas has a side of 20, expected 30"):
        build_kernel.describe_artifact(save_random_artifact(tmp_path / "small", small))

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])  # as after a copy that was cut off
    tool = run_python(
        REPOSITORY / "tools" / "build_kernel.py",
        *("--user", "somebody", "--competition", "arc", "--artifact", folder, "--out", tmp_path / "out"),
    )
    assert tool.returncode == 2
    assert "model.safetensors: not a safetensors file" in tool.stderr and len(tool.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_single_file_notebook_installs_the_wheel_it_carries(tmp_path, wheel):
    build_kernel.build(tmp_path / "bundle", "somebody", "arc", single_file=True)
    notebook = tmp_path / "bundle" / "notebook" / "hrm_offline.ipynb"
    cells = code_cells(notebook)
    assert len(cells) <= 8
    assert all(len(cell.splitlines()) <= 15 for cell in cells)
    lay_out(tmp_path)
    code = "\n".join([*cells[:4], "import hrm_offline; print(hrm_offline.__file__)"])
    (tmp_path / "cells.py").write_text(code)
    result = run_python("-I", tmp_path / "cells.py", HRM_OFFLINE_ROOT=str(tmp_path))
    assert result.returncode == 0, result.stderr
    site = tmp_path / "temp" / "hrm_offline_site"
    assert result.stdout.splitlines()[-1] == str(site / "hrm_offline" / "__init__.py")
    assert [path.read_bytes() for path in (tmp_path / "temp").rglob("*.whl")] == [wheel.read_bytes()]

    damaged = cells[2].replace('b64decode("', 'b64decode("AAAA')
    (tmp_path / "cells.py").write_text(f"{cells[0]}\n{cells[1]}\n{damaged}")
    assert run_python(tmp_path / "cells.py", HRM_OFFLINE_ROOT=str(tmp_path)).returncode == 1
