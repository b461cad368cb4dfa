"""Test that a kernel that fails costs the kernel and no task: the run ends as if plain PyTorch had served all along."""

import dataclasses
import importlib

import pytest
import torch
from kernels import needs_triton
from networks import ARCHITECTURES
from runs import check, inline, options_of, save_random_artifact, solve_quietly

from hrm_offline.ops import dispatch, selftest
from hrm_offline.ops.faults import KernelFault
from hrm_offline.predict.plan import ROWS_PER_STEP
from hrm_offline.solve.engine import Engine
from hrm_offline.solve.messages import Adapt
from hrm_offline.solve.schedule import Schedule

LAUNCHERS = [
    ("attention", "attention_forward"),
    ("attention", "attention_backward"),
    ("rotate", "rotate_rows"),
    ("linear_swiglu", "linear_swiglu_forward"),
    ("linear_swiglu", "linear_swiglu_backward"),
    ("linear_rms_norm", "linear_rms_norm_forward"),
    ("rms_norm", "rms_norm_forward"),
    ("rms_norm", "rms_norm_backward"),
    ("swiglu", "swiglu_forward"),
    ("swiglu", "swiglu_backward"),
    ("embedding", "embedding_forward"),
    ("embedding", "embedding_backward"),
    ("stablemax_cross_entropy", "stablemax_cross_entropy_forward"),
    ("stablemax_cross_entropy", "stablemax_cross_entropy_backward"),
    ("adam_atan2", "adam_atan2_step"),
    ("sign_sgd", "sign_sgd_step"),
    ("encode_views", "encode_views_forward"),
]
OVERRIDES = {"visits": 2, "loss": "stablemax", "tokens_per_step": 60}
# Kernels that another network calls, or another optimiser.
_LOOPED = dataclasses.replace(ARCHITECTURES["looped"], puzzle_columns=2, H_cycles=1, L_cycles=1, halt_max_steps=1)
OTHERS = {
    "forward": ("decoder", ["causal_attention_forward", "cached_attention_forward", "add_rms_norm_forward"]),
    "backward": ("decoder", ["causal_attention_backward", "add_rms_norm_backward"]),
    "half of a step": ("muon", ["muon_apply"]),
    "convolution": ("looped", ["conv_silu_forward"]),
}


@pytest.fixture(autouse=True)
def forget_demotions():
    yield
    dispatch.promote_all()
    dispatch.set_mode(None)


@pytest.fixture
def small(make_task, write_json):
    from hrm_offline.data.tasks import to_challenges

    value = to_challenges([make_task("t0", [((2, 2), (2, 2))] * 3, [((2, 2), (2, 2))])])
    return write_json("challenges.json", value), value


def answers(small, tmp_path, name, seconds=300, overrides=OVERRIDES, **changes):
    report = solve_quietly(options_of(small, tmp_path, name, workers=0, overrides=overrides, **changes), seconds)
    assert report["test inputs without a vote"] == 0
    return check(tmp_path / name, small[1])[0], report


@pytest.fixture(scope="module")
def plain_answers():
    """Return a place for the answers of a run in plain PyTorch, which all cases share."""
    return {}


@pytest.mark.parametrize(
    ("op", "launcher", "message"),
    [
        *((op, launcher, "out of resource: shared memory") for op, launcher in LAUNCHERS),
        ("attention", "attention_forward", "ptxas fatal: unresolved symbol"),
    ],
)
def test_a_kernel_that_fails_is_replaced_and_the_answers_stay(
    op, launcher, message, small, tmp_path, monkeypatch, plain_answers
):
    if not plain_answers:
        plain_answers.update(answers(small, tmp_path, "plain")[0])
    # One operation is served by our kernels, as if a GPU had chosen it. Its launcher fails, the others are not asked.
    served = {op, "linear_rms_norm"} if launcher == "rms_norm_backward" else {op}
    served |= {"attention"} if op == "rotate" else set()
    monkeypatch.setattr(dispatch, "_decide", lambda name, *_: dispatch.Decision(name in served, "for the test"))

    def fail(*_):
        raise KernelFault(op, RuntimeError(message))

    for module in ("rms_norm", "linear_rms_norm") if launcher == "rms_norm_backward" else (op,):
        monkeypatch.setattr(importlib.import_module(f"hrm_offline.ops.{module}"), launcher, fail)
    got, report = answers(small, tmp_path, "faulty")
    assert message in report["demoted operations"][op]
    assert any(op in line for line in report["failures"])
    if served == {op}:
        assert got == plain_answers


@pytest.fixture(scope="module")
def plain_answers_of():
    """Return a place for the answers of other networks in plain PyTorch."""
    return {}


@pytest.mark.parametrize("case", OTHERS)
def test_failing_kernels_of_other_networks_are_replaced_too(case, small, tmp_path, monkeypatch, plain_answers_of):
    kind, launchers = OTHERS[case]
    changes = {"overrides": OVERRIDES | {"optimizer": "muon"}}
    if kind == "decoder":
        changes = {"overrides": {"visits": 1, "tokens_per_step": 60, "vote_views": 1}, "preset": "decoder-170k"}
    elif kind == "looped":
        changes = {"artifact": save_random_artifact(tmp_path / "network", _LOOPED)}
    if kind not in plain_answers_of:
        plain_answers_of[kind] = answers(small, tmp_path, "plain", **changes)[0]
    ops = {launcher: launcher.removesuffix("_" + launcher.split("_")[-1]) for launcher in launchers}
    monkeypatch.setattr(dispatch, "_decide", lambda op, *_: dispatch.Decision(op in ops.values(), "for the test"))
    for launcher, op in ops.items():

        def fail(*_, op=op):
            raise KernelFault(op, RuntimeError("out of resource: shared memory"))

        monkeypatch.setattr(importlib.import_module(f"hrm_offline.ops.{op}"), launcher, fail)
    got, report = answers(small, tmp_path, "faulty", **changes)
    assert set(report["demoted operations"]) == set(ops.values())
    assert all("out of resource" in reason for reason in report["demoted operations"].values())
    assert got == plain_answers_of[kind]


class LostOnce(Engine):
    """Loses its GPU at the first step, unless all operations are plain."""

    def adapt(self, job: Adapt):
        for step in super().adapt(job):
            if step == 1 and not self.setup.plain_operations:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            yield step


class OnlyOnCpu(Engine):
    """Fails wherever it starts but on a CPU that was named."""

    def __init__(self, setup, clock, say):
        if setup.options.device != "cpu":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        super().__init__(setup, clock, say)


def test_without_any_gpu_a_cpu_answers(small, tmp_path):
    report = solve_quietly(options_of(small, tmp_path, workers=0, overrides=OVERRIDES), pool=inline(OnlyOnCpu))
    assert report["test inputs without a vote"] == 0
    assert any("a CPU goes on" in line for line in report["failures"])


class LostGpu(Engine):
    """Has a recipe and costs of a GPU, and loses it in the work `lost_in`. A CPU that was named is not lost."""

    lost_in, told = "adapt", []

    @property
    def is_lost(self):
        return self.setup.options.device != "cpu"

    def __init__(self, setup, clock, say):
        super().__init__(setup, clock, say)
        self.told.append(setup.rows_per_step)
        if self.is_lost:
            recipe = dataclasses.replace(self.choice.recipe, predict_tokens=2**18)
            self.choice = dataclasses.replace(
                self.choice, network=dataclasses.replace(self.choice.network, recipe=recipe)
            )
            self.rows_per_step = 999.0

    def adapt(self, job):
        yield from super().adapt(job)
        self.lose("adapt")

    def predict(self, job):
        if job.round > 0:
            self.lose("predict")
        yield from super().predict(job)

    def lose(self, work):
        if self.is_lost and work == self.lost_in:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(("lost_in", "predict_tokens"), [("adapt", 32_768), ("predict", 2**18)])
def test_a_cpu_goes_on_with_its_own_recipe_if_nothing_is_answered_and_with_its_own_costs(
    challenges, tmp_path, monkeypatch, lost_in, predict_tokens
):
    def of_tasks(*given):
        made.append(make(*given))
        return made[-1]

    made, make = [], Schedule.of_tasks
    monkeypatch.setattr(Schedule, "of_tasks", of_tasks)
    engine = type("Lost", (LostGpu,), {"lost_in": lost_in, "told": []})
    shorter = {"visits": 1, "tokens_per_step": 60, "search_branches": 0}
    options = options_of(challenges, tmp_path, workers=0, groups=2, preset="decoder-170k", overrides=shorter)
    report = solve_quietly(options, pool=inline(engine))
    assert any("a CPU goes on" in line for line in report["failures"])
    assert report["test inputs without a vote"] == 0
    assert report["adapt"]["predict_tokens"] == predict_tokens
    assert {group.plan.rows_per_step for group in made[-1].groups} == {ROWS_PER_STEP}
    assert engine.told == [None, 999.0, 999.0, 999.0, None if lost_in == "adapt" else ROWS_PER_STEP]


def test_no_visits_leave_the_network_as_it_is_and_predict(small, tmp_path):
    report = solve_quietly(options_of(small, tmp_path, workers=0, overrides={"visits": 0}))
    assert report["test inputs without a vote"] == 0
    assert report["adapted"]["groups"][0]["loss"] is None


def test_a_lost_gpu_starts_again_with_plain_operations(small, tmp_path, monkeypatch):
    from hrm_offline.solve.supervisor import Supervisor

    monkeypatch.setattr(Supervisor, "_is_on_gpu", lambda self, slot: True)
    report = solve_quietly(options_of(small, tmp_path, workers=0, overrides=OVERRIDES), pool=inline(LostOnce))
    assert report["test inputs without a vote"] == 0
    assert any("plain PyTorch" in line for line in report["failures"])
    assert sum("illegal memory access" in line for line in report["failures"]) == 1


def writing(name, value):
    """Return a stand-in for the launcher `name` that writes one value into all that the launcher would write."""
    arguments = getattr(torch.ops.hrm_offline, name).default._schema.arguments
    written = [i for i, argument in enumerate(arguments) if argument.alias_info and argument.alias_info.is_write]

    def launcher(*args):
        for i in written:
            for tensor in args[i] if isinstance(args[i], list) else [args[i]]:
                if tensor is not None:
                    tensor.detach().fill_(value)

    return launcher


def seconds_by(kernel, plain):
    """Return a clock by which our kernels take `kernel` seconds, and plain PyTorch takes `plain`."""
    return lambda call, device: kernel if next(iter(dispatch._forced.values())) else plain


@pytest.fixture
def proven(monkeypatch):
    """Have workers on this CPU prove their operations as on a GPU, with kernels that are faster than plain PyTorch."""
    monkeypatch.setattr(selftest, "can_run", lambda device: True)
    monkeypatch.setattr(selftest, "chip_name", lambda device: "a CPU for the test")
    monkeypatch.setattr(selftest, "_measure", seconds_by(kernel=1.0, plain=2.0))

    def serve(ops):
        monkeypatch.setattr(dispatch, "_decide", lambda name, *_: dispatch.Decision(name in ops, "for the test"))

    return serve


@needs_triton
@pytest.mark.parametrize(
    ("value", "backward"), [(0.5, False), (float("nan"), True)], ids=["wrong forward", "nan backward"]
)
def test_kernels_with_wrong_numbers_serve_no_run(value, backward, small, tmp_path, monkeypatch, plain_answers, proven):
    if not plain_answers:
        plain_answers.update(answers(small, tmp_path, "plain")[0])
    launchers = [(op, name) for op, name in LAUNCHERS if name.endswith("_backward") is backward]
    if backward:
        launchers.append(("linear_rms_norm", "rms_norm_backward"))
    for op, name in launchers:
        monkeypatch.setattr(importlib.import_module(f"hrm_offline.ops.{op}"), name, writing(name, value))
    served = {op for op, _ in launchers}
    proven(served)
    got, report = answers(small, tmp_path, "faulty", 1e5)
    assert set(report["demoted operations"]) == served
    assert all("self-test" in reason for reason in report["demoted operations"].values())
    assert got == plain_answers


@needs_triton
def test_kernels_that_are_slow_serve_no_run(small, tmp_path, monkeypatch, plain_answers, proven):
    if not plain_answers:
        plain_answers.update(answers(small, tmp_path, "plain")[0])
    monkeypatch.setattr(selftest, "_measure", seconds_by(kernel=3.0, plain=2.0))
    slow = {"swiglu", "rms_norm", "stablemax_cross_entropy", "adam_atan2", "sign_sgd"}  # quick in the interpreter
    proven(slow)
    got, report = answers(small, tmp_path, "slow", 1e5)
    verdicts = {verdict["op"]: verdict["candidate"] for verdict in report["self-test"]["verdicts"]}
    assert verdicts == dict.fromkeys(slow, selftest.PLAIN)
    assert report["demoted operations"] == {}  # slower is no fault
    assert got == plain_answers
