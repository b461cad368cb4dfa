"""Test the package's import directions, and that importing it loads neither torch nor Triton."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from places import PACKAGE, REPOSITORY

# The rooms and files of the package, and the others that each may import. An import never points upwards.
ALLOWED = {
    "common": set(),
    "config": {"common"},
    "presets": {"common", "config"},
    "data": {"common", "config"},
    "ops": {"common", "config"},
    "model": {"common", "config", "presets", "data", "ops"},
    "train": {"common", "config", "presets", "data", "ops", "model"},
    "answers": {"common", "config", "data"},
    "predict": {"common", "config", "data", "ops", "model", "answers"},
    "induction": {"common", "data", "answers"},
    "solve": {"common", "config", "presets", "data", "ops", "model", "train", "answers", "predict", "induction"},
    "show": {"common", "config", "data", "model", "answers", "predict", "train", "solve"},
    "parity": {"common", "config", "data", "ops", "model", "train", "answers"},
    "cli": {
        "common",
        "config",
        "presets",
        "data",
        "model",
        "train",
        "answers",
        "predict",
        "induction",
        "solve",
        "show",
        "parity",
    },
    "__main__": {"cli", "common"},
    "__init__": {"config", "presets", "data", "model"},
}
NO_TORCH = ("common", "config", "presets", "data", "answers", "induction", "cli")
STANDARD_LIBRARY_ONLY = ("common", "config", "presets", "cli", "__main__", "solve/options", "solve/kaggle")


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def files_of(part: str) -> list[Path]:
    return sorted((PACKAGE / part).glob("*.py")) or [PACKAGE / f"{part}.py"]


def test_every_room_and_file_has_its_rule():
    rooms = {path.parent.name for path in PACKAGE.glob("*/*.py")} | {path.stem for path in PACKAGE.glob("*.py")}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_import_only_what_lies_below_them(part):
    for file in files_of(part):
        ours = {name.split(".")[1] for name in imports_of(file) if name.startswith("hrm_offline.")}
        assert ours <= ALLOWED[part] | {part}, file


@pytest.mark.parametrize("part", STANDARD_LIBRARY_ONLY)
def test_leaves_need_the_standard_library_alone(part):
    for file in files_of(part):
        outside = {name.split(".")[0] for name in imports_of(file)}
        assert outside <= set(sys.stdlib_module_names) | {"hrm_offline"}, file


@pytest.mark.parametrize("part", NO_TORCH)
def test_rooms_without_torch_never_import_it(part):
    for file in files_of(part):
        assert not any(name.split(".")[0] == "torch" for name in imports_of(file)), file


def test_candidates_files_are_read_without_torch():
    code = "import sys, hrm_offline.answers.candidates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_the_package_loads_neither_torch_nor_triton():
    code = "import sys, hrm_offline, hrm_offline.cli; sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_learning_and_predicting_do_not_load_the_compiler():
    """PyTorch's compiler takes longer to load than the rest of a worker, which has no use for it."""
    code = """
import dataclasses, sys, torch
from hrm_offline.common.budget import Budget
from hrm_offline.presets import preset
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.sets import load_set
from hrm_offline.model.artifact import bundled_artifact, load_artifact
from hrm_offline.predict.loop import predict_votes
from hrm_offline.train.adapt import adapt

artifact = load_artifact(bundled_artifact("hrm-132k"))
recipe = dataclasses.replace(preset("hrm-132k").recipe(pretrained=True), visits=1, embeddings_only=0.0)
puzzles = PuzzleSet(load_set("synthetic-1-sides-5").tasks, recipe, artifact.config, seed=0)
model = artifact.build(puzzles.num_rows, torch.float32)
adapt(model, puzzles, recipe, Budget(60), seed=0, pretrained=True)
predict_votes(model, puzzles, recipe)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_nothing_loads_a_pickle():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node)
        assert "pickle" not in set(imports_of(file))
