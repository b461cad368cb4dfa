"""Test the package against numbers of the published reference, and that a planted difference is found."""

import dataclasses
import json

import pytest
import torch
from places import GOLDEN
from safetensors.torch import load_file, save_file

from hrm_offline import parity
from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.config import Recipe
from hrm_offline.model import layers
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch, launch, muon
from hrm_offline.ops.conv_silu import conv_silu_reference
from hrm_offline.parity import run_case


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_equals_the_published_reference(path):
    comparison = run_case(path)
    assert comparison.passed, f"\n{comparison.as_text()}"


# The interpreter takes a minute for these, and they call no operation in another way than the other cases do.
LONG_CASES = {"hrm_base", "hrm_deep", "hrm_halt16", "trm_base", "trm_deep", "trm_published_cycles", "urm_base"}
LONG_CASES |= {"urm_published_loops"}
KERNEL_CASES = sorted(
    path
    for path in GOLDEN.glob("*.json")
    if path.stem != "data" and (torch.cuda.is_available() or path.stem not in LONG_CASES)
)


@pytest.mark.skipif(launch.triton is None, reason="Triton is not installed")
@pytest.mark.parametrize("path", KERNEL_CASES, ids=lambda path: path.stem)
def test_equals_the_published_reference_through_our_kernels(path):
    with dispatch.override("triton"):
        comparison = run_case(path)
    assert comparison.passed, f"\n{comparison.as_text()}"


WRONG_VARIANTS = {
    "one puzzle token": ("trm_base", {"puzzle_tokens": 1}, "eval/logits"),
    "a token too many": ("trm_base", {"puzzle_tokens": 3}, "eval/logits"),
    "all loops carry gradient": ("urm_base", {"H_cycles": 1, "L_cycles": 4}, "train/grad"),
    "half the loops": ("urm_base", {"H_cycles": 1}, "eval/logits"),
}


@pytest.mark.parametrize("name", WRONG_VARIANTS)
def test_a_network_of_another_form_fails(name, monkeypatch):
    case, changes, kind = WRONG_VARIANTS[name]
    right = parity.model_config
    monkeypatch.setattr(parity, "model_config", lambda *args: dataclasses.replace(right(*args), **changes))
    comparison = run_case(GOLDEN / f"{case}.json")
    assert comparison.worst[kind] > 10 * comparison.tolerance(kind)


def test_gradient_through_one_pass_alone_fails(monkeypatch):
    """Cut the first pass of the last cycle off, as the Hierarchical Reasoning Model does."""
    cycle = RecursiveModel._cycle

    def cut(self, z_H, z_L, *rest):
        if torch.is_grad_enabled():
            with torch.no_grad():
                z_L = self.L_level(z_L, z_H + rest[0], *rest[1:])
            self.config.__dict__["L_cycles"] -= 1
            try:
                return cycle(self, z_H, z_L, *rest)
            finally:
                self.config.__dict__["L_cycles"] += 1
        return cycle(self, z_H, z_L, *rest)

    monkeypatch.setattr(RecursiveModel, "_cycle", cut)
    comparison = run_case(GOLDEN / "trm_base.json")
    assert comparison.worst["eval/logits"] <= comparison.tolerance("eval/logits")
    assert comparison.worst["train/grad"] > 10 * comparison.tolerance("train/grad")


WRONG_CONVOLUTIONS = {
    "none": lambda x, weight, bias: x + 0 * (weight.sum() + bias.sum()),
    "one that looks ahead": lambda x, weight, bias: conv_silu_reference(x.flip(1), weight, bias).flip(1),
    "one token alone": lambda x, weight, bias: torch.nn.functional.silu(x * weight[:, 1] + bias),
}


@pytest.mark.parametrize("convolution", WRONG_CONVOLUTIONS)
def test_another_convolution_fails(convolution, monkeypatch):
    monkeypatch.setattr(layers, "conv_silu", WRONG_CONVOLUTIONS[convolution])
    comparison = run_case(GOLDEN / "urm_base.json")
    for kind in ("eval/logits", "eval/current_hidden", "train/grad"):
        assert comparison.worst[kind] > 10 * comparison.tolerance(kind)


def test_averages_with_a_rising_decay_fail(monkeypatch):
    monkeypatch.setattr(parity, "Recipe", lambda **settings: Recipe(**(settings | {"ema_rises": True})))
    comparison = run_case(GOLDEN / "trm_published_cycles.json")
    assert not comparison.passed
    assert [kind for kind, worst in comparison.worst.items() if worst > comparison.tolerance(kind)] == ["train/ema"]


def spoilt_case(folder, tensor):
    """Write the case `hrm_base` with another number in one tensor, and return its file."""
    tensors = load_file(GOLDEN / "hrm_base.safetensors")
    changed = tensors[tensor]
    if changed.is_floating_point():
        changed.view(-1)[-1] += 3e-3 * changed.abs().max()
    else:
        changed.view(-1)[-1] ^= True
    save_file(tensors, folder / "case.safetensors")
    case = folder / "case.json"
    case.write_text((GOLDEN / "hrm_base.json").read_text())
    return case


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
def test_a_planted_difference_is_found(tmp_path, tensor, kind):
    comparison = run_case(spoilt_case(tmp_path, tensor))
    assert [k for k, worst in comparison.worst.items() if worst > comparison.tolerance(k)] == [kind]


def test_the_command_tells_a_difference_and_exits_1(tmp_path, capsys):
    assert main(["parity", str(spoilt_case(tmp_path, "train/step2/loss"))]) == 1
    assert "BEYOND TOLERANCE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("_MOMENTUM", 0.9), ("_COEFFICIENTS", muon._COEFFICIENTS + muon._COEFFICIENTS[-1:]), ("_LENGTH", 0.1)],
)
def test_another_muon_fails(name, wrong, monkeypatch):
    monkeypatch.setattr(muon, name, wrong)
    assert not run_case(GOLDEN / "muon.json").passed
    comparison = run_case(GOLDEN / "urm_muon.json")
    assert comparison.worst["train/weights_after"] > 2 * comparison.tolerance("train/weights_after")


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
    save_file({}, tmp_path / "x.safetensors")
    case.write_text(json.dumps({"kind": "urm"}))
    with pytest.raises(InputError, match=r"x\.json: 'config' is missing"):
        run_case(case)


@pytest.mark.parametrize(
    ("changes", "reason"), [({"mlp_t": True}, "mlp_t"), ({"pos_encodings": "none"}, "pos_encodings is 'none'")]
)
def test_a_form_that_is_not_there_is_refused(tmp_path, changes, reason):
    case = json.loads((GOLDEN / "trm_base.json").read_text())
    case["config"] |= changes
    (tmp_path / "case.json").write_text(json.dumps(case))
    (tmp_path / "case.safetensors").write_bytes((GOLDEN / "trm_base.safetensors").read_bytes())
    with pytest.raises(InputError, match=reason):
        run_case(tmp_path / "case.json")


def test_another_muon_than_ours_is_refused(tmp_path):
    case = json.loads((GOLDEN / "muon.json").read_text())
    case["muon"]["ns_steps"] = 6
    (tmp_path / "case.json").write_text(json.dumps(case))
    (tmp_path / "case.safetensors").write_bytes((GOLDEN / "muon.safetensors").read_bytes())
    with pytest.raises(InputError, match="ns_steps is 6, expected 5"):
        run_case(tmp_path / "case.json")
