"""Test the self-test with planted faults, on a GPU or on a CPU under Triton's interpreter."""

import dataclasses

import pytest
import torch
from kernels import DEVICE

from hrm_offline.ops import adam_atan2 as adam_module
from hrm_offline.ops import attention as attention_module
from hrm_offline.ops import dispatch, launch, selftest, selftest_cases
from hrm_offline.ops import swiglu as swiglu_module
from hrm_offline.ops.faults import KernelFault
from hrm_offline.presets import PRESETS

SMALL = selftest.Workload(
    batch=2, tokens=11, hidden=32, heads=2, intermediate=48, vocabulary=12, puzzle_tokens=2, dtype=torch.float32
)


@pytest.fixture(autouse=True)
def kernels_serve(monkeypatch):
    """Have our kernels serve, as on a GPU that no one demanded anything of."""
    monkeypatch.setattr(dispatch, "_decide", lambda *_: dispatch.Decision(True, "for the test"))
    yield
    dispatch.promote_all()


def measured(slow=()):
    """Return a clock by which kernels take 1 s, but 3 s for the operations in `slow`, and plain PyTorch 2 s."""

    def measure(call, device):
        (op, triton), *_ = dispatch._forced.items()
        return (3.0 if op in slow else 1.0) if triton else 2.0

    return measure


def run(slow=(), seconds=1e9, ops=("swiglu", "rms_norm", "adam_atan2")):
    """Test some operations; all of them take seconds in the interpreter."""
    make_cases = selftest.make_cases
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "make_cases", lambda workload: [c for c in make_cases(workload) if c.op in ops])
        return selftest.run_selftest(SMALL, DEVICE, seconds, measure=measured(slow))


def test_right_and_fast_kernels_serve():
    found = run(ops=dispatch.RULES)
    assert {row.op for row in found.rows} == set(dispatch.RULES)
    assert [row.fault for row in found.rows if not row.is_right] == []
    assert dispatch.demotions() == {}
    assert {verdict.op: verdict.candidate for verdict in found.verdicts}["attention"].startswith("kernel")


def test_a_run_tests_only_the_operations_of_its_network():
    preset = PRESETS["decoder-75m"]
    workload = selftest.workload_of(preset.model, preset.adapt, 900, torch.bfloat16)
    assert (workload.batch, workload.tokens) == (18, 900)
    decoding = {"causal_attention", "cached_attention", "add_rms_norm"}
    assert {case.op for case in selftest.make_cases(workload)} == decoding | {"linear_swiglu", "swiglu", "rotate"}
    assert {case.op for case in selftest.make_cases(SMALL)} == set(dispatch.RULES)
    pre_norm = dataclasses.replace(PRESETS["hrm-27m"].model, pre_norm=True)
    assert set(dispatch.ops_of(PRESETS["hrm-27m"].model)) ^ set(dispatch.ops_of(pre_norm)) == {
        "add_rms_norm",
        "linear_rms_norm",
        "rms_norm",
    }


def test_a_case_bears_the_name_that_the_table_lists():
    assert [case.op for case in selftest.make_cases(SMALL)] == list(selftest_cases.CASES)


def test_a_network_without_puzzle_tokens_is_tested():
    """The gradient of its puzzle tokens has no numbers."""
    workload = dataclasses.replace(SMALL, puzzle_tokens=0, ops=("embedding",))
    found = selftest.run_selftest(workload, DEVICE, 1e9, measure=measured())
    assert [(row.candidate, row.fault) for row in found.rows] == [(selftest.PLAIN, None), ("kernel", None)]


def test_a_slow_kernel_does_not_serve():
    run(slow=("swiglu", "adam_atan2"))
    assert set(dispatch.demotions()) == {"swiglu", "adam_atan2"}


def wrong(gate_up, hidden):
    hidden.copy_(swiglu_module.swiglu_reference(gate_up) * 1.01)


def not_a_number(gate_up, hidden):
    wrong(gate_up, hidden)
    hidden.view(-1)[3] = float("nan")


def unwritten(gate_up, hidden):
    hidden[1:].copy_(swiglu_module.swiglu_reference(gate_up[1:]))


def failing(gate_up, hidden):
    raise KernelFault("swiglu", RuntimeError("out of resource: shared memory"))


@pytest.mark.parametrize("fault", [wrong, not_a_number, unwritten, failing])
def test_a_kernel_with_a_fault_does_not_serve_and_the_others_do(monkeypatch, fault):
    monkeypatch.setattr(swiglu_module, "swiglu_forward", fault)
    found = run()
    assert set(dispatch.demotions()) == {"swiglu"}
    (row,) = (row for row in found.rows if row.op == "swiglu" and row.candidate == "kernel")
    assert row.fault
    assert row.milliseconds is None


def test_an_update_in_place_whose_kernel_fails_does_not_serve(monkeypatch):
    def fail(*_):
        raise KernelFault("adam_atan2", RuntimeError("out of resource"))

    monkeypatch.setattr(adam_module, "adam_atan2_step", fail)
    found = run()
    assert set(dispatch.demotions()) == {"adam_atan2"}
    assert [row.fault for row in found.rows if row.op == "adam_atan2"][1] == (
        "KernelFault: adam_atan2: RuntimeError: out of resource"
    )


def test_a_wrong_kernel_is_found_where_plain_pytorch_fails(monkeypatch):
    monkeypatch.setattr(swiglu_module, "swiglu_forward", wrong)
    monkeypatch.setattr(swiglu_module, "swiglu_reference", lambda gate_up: gate_up[..., : gate_up.shape[-1] // 2] / 0)
    found = run()
    assert all(row.fault for row in found.rows if row.op == "swiglu")


def test_without_memory_for_the_comparison_the_rule_stands(monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(selftest_cases, "swiglu_reference", out_of_memory)
    verdicts = {verdict.op: verdict for verdict in run().verdicts}
    assert "not tested" in verdicts["swiglu"].reason
    assert dispatch.demotions() == {}


def test_a_gradient_that_is_wrong_is_found(monkeypatch):
    monkeypatch.setattr(swiglu_module, "swiglu_backward", lambda grad, gate_up, out: out.fill_(0.5))
    run()
    assert set(dispatch.demotions()) == {"swiglu"}


def test_a_device_that_is_lost_ends_the_test(monkeypatch):
    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(swiglu_module, "swiglu_forward", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run()


def test_what_time_does_not_allow_keeps_its_rule():
    found = run(seconds=-1.0)
    assert found.rows == ()
    assert {verdict.reason for verdict in found.verdicts} == {"not tested, there was no time"}
    assert dispatch.demotions() == {}


def test_demanded_kernels_serve_however_slow():
    with dispatch.override("triton"):
        found = run(slow=("swiglu",))
    assert dispatch.demotions() == {}
    assert {verdict.op: verdict.candidate for verdict in found.verdicts}["swiglu"] == selftest.PLAIN


def test_another_worker_takes_over_the_verdicts():
    verdicts = run(slow=("swiglu",)).as_dict()["verdicts"]
    dispatch.promote_all()
    selftest.apply(verdicts)
    assert set(dispatch.demotions()) == {"swiglu"}


def test_verdicts_are_read_as_runs_have_stored_them():
    """A run folder and the results of a first contact hold an operation, a candidate's name and a reason."""
    named = {"attention": "kernel, rotate inside", "swiglu": "PyTorch", "rms_norm": "kernel"}
    selftest.apply([{"op": op, "candidate": name, "reason": "as measured"} for op, name in named.items()])
    assert dispatch.variant("attention") == "rotate inside"
    assert dispatch.demotions() == {"swiglu": "self-test: as measured"}


def test_an_operation_with_variants_that_was_not_tested_keeps_its_first():
    selftest.apply([{"op": "attention", "candidate": "kernel", "reason": "not tested, there was no time"}])
    assert dispatch.variant("attention") == dispatch.VARIANTS["attention"][0]
    assert dispatch.demotions() == {}


def test_other_tiles_serve_where_they_are_fastest():
    (attention,) = (case for case in selftest.make_cases(SMALL) if case.op == "attention")
    times = {"rotate first": 3.0, "rotate inside": 4.0, "rotate first, small tiles": 1.0}

    def measure(call, device):
        return times[dispatch.variant("attention")] if dispatch._forced["attention"] else 2.0

    rows = selftest._test_case(attention, torch.float32, DEVICE, measure)
    assert all(row.is_right for row in rows)
    assert selftest._choose("attention", rows).candidate == "kernel, rotate first, small tiles"
    assert dispatch.variant("attention") == "rotate first, small tiles"
    with launch.recording(80) as launches, torch.no_grad():
        attention_module.attention(torch.zeros(1, 9, 96, dtype=torch.bfloat16), 2)
    assert [(launch.constants["BLOCK_M"], launch.constants["num_warps"]) for launch in launches] == [(64, 4)]
