"""Test the package against numbers of the published reference, and that a planted difference is found."""

import json

import pytest
import torch
from places import GOLDEN
from safetensors.torch import load_file, save_file

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.ops import dispatch, launch
from hrm_offline.parity import run_case


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_equals_the_published_reference(path):
    comparison = run_case(path)
    assert comparison.passed, f"\n{comparison.as_text()}"


# The interpreter takes half a minute and more for each of these, and they call no operation in another way than the
# other cases do.
LONG_CASES = set()
if not torch.cuda.is_available():
    LONG_CASES = {GOLDEN / f"hrm_{name}.json" for name in ("base", "deep", "halt16")}
KERNEL_CASES = sorted({GOLDEN / "ops.json", *GOLDEN.glob("hrm_*.json")} - LONG_CASES)


@pytest.mark.skipif(launch.triton is None, reason="Triton is not installed")
@pytest.mark.parametrize("path", KERNEL_CASES, ids=lambda path: path.stem)
def test_equals_the_published_reference_through_our_kernels(path):
    with dispatch.override("triton"):
        comparison = run_case(path)
    assert comparison.passed, f"\n{comparison.as_text()}"


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("eval/step2/logits", "eval/logits"),
        ("train/step1/grad/model.inner.L_level.layers.0.mlp.down_proj.weight", "train/grad"),
        ("train/step1/grad/model.inner.puzzle_emb.local_weights", "train/grad"),
        ("train/step3/weights_after/model.inner.puzzle_emb.weights", "train/weights_after"),
        ("train/step2/loss", "train/loss"),
        ("train/step2/halted", "train/halted"),
    ],
)
def test_a_planted_difference_is_found(tmp_path, tensor, kind, capsys):
    tensors = load_file(GOLDEN / "hrm_base.safetensors")
    changed = tensors[tensor]
    if changed.is_floating_point():
        changed.view(-1)[-1] += 3e-3 * changed.abs().max()
    else:
        changed.view(-1)[-1] ^= True
    save_file(tensors, tmp_path / "case.safetensors")
    case = tmp_path / "case.json"
    case.write_text((GOLDEN / "hrm_base.json").read_text())
    comparison = run_case(case)
    assert [k for k, worst in comparison.worst.items() if worst > comparison.tolerance(k)] == [kind]
    assert main(["parity", str(case)]) == 1
    assert "BEYOND TOLERANCE" in capsys.readouterr().out


def test_command_line_reports_by_kind_and_exits_0(capsys):
    assert main(["parity", str(GOLDEN / "ops.json"), str(GOLDEN / "data.json")]) == 0
    printed = capsys.readouterr().out
    assert "stablemax grad" in printed
    assert printed.count("within tolerance") == 2


def test_unusable_cases_are_refused(tmp_path):
    case = tmp_path / "x.json"
    case.write_text(json.dumps({"kind": "poem"}))
    with pytest.raises(InputError, match="poem"):
        run_case(case)
    case.write_text(json.dumps({"kind": "ops"}))
    with pytest.raises(InputError, match=r"x\.safetensors"):
        run_case(case)
