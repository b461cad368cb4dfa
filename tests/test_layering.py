"""The package's import directions, and what importing it must not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hrm_offline"

# What each part may import of the package, beside itself.
LEAVES = {"errors", "tokens", "files", "config", "budget"}
ALLOWED = {
    "errors": set(),
    "tokens": set(),
    "files": {"errors"},
    "config": {"errors", "tokens"},
    "budget": {"errors"},
    "kaggle": {"errors"},
    "device": LEAVES,
    "data": LEAVES,
    "ops": LEAVES,
    "model": LEAVES | {"device", "ops"},
    "artifact": LEAVES | {"data", "model"},
    "batching": LEAVES | {"data", "ops", "model"},
    "train": LEAVES | {"device", "data", "ops", "model", "batching", "artifact"},
    "infer": LEAVES | {"device", "data", "ops", "model", "batching"},
    "induction": LEAVES | {"data", "infer"},
    "run": LEAVES | {"device", "data", "ops", "model", "batching", "artifact", "train", "infer"},
    "show": LEAVES | {"data", "infer"},
    "album": LEAVES | {"data", "infer", "run", "train", "show", "pipeline"},
}


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_import_only_what_lies_below_them(part):
    files = list((PACKAGE / part).glob("*.py")) or [PACKAGE / f"{part}.py"]
    for file in files:
        ours = {name.split(".")[1] for name in imports_of(file) if name.startswith("hrm_offline.")}
        assert ours <= ALLOWED[part] | {part}, file


@pytest.mark.parametrize("part", ["errors", "tokens", "files", "config", "budget", "kaggle"])
def test_leaves_need_the_standard_library_alone(part):
    outside = {name.split(".")[0] for name in imports_of(PACKAGE / f"{part}.py")}
    assert outside <= set(sys.stdlib_module_names) | {"hrm_offline"}


def test_data_never_imports_torch():
    for file in (PACKAGE / "data").glob("*.py"):
        assert not any(name.split(".")[0] == "torch" for name in imports_of(file)), file


def test_candidates_files_are_read_without_torch():
    code = "import sys, hrm_offline.infer.candidates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_the_package_loads_neither_torch_nor_triton():
    code = "import sys, hrm_offline, hrm_offline.cli; sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_loads_a_pickle():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node)
        assert "pickle" not in set(imports_of(file))
