"""Which implementation serves what, what cannot be served, and the fused path inside the model."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import IGNORE
from hrm_offline.config import PRESETS, ModelConfig, Recipe
from hrm_offline.model.halting import Sequences, initial_carry, refill_, training_step
from hrm_offline.model.layers import Block
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch, launch
from hrm_offline.ops.adam_atan2 import adam_atan2_
from hrm_offline.ops.attention import attention
from hrm_offline.ops.embedding import embedding
from hrm_offline.ops.linear_rms_norm import linear_rms_norm
from hrm_offline.ops.linear_swiglu import linear_swiglu
from hrm_offline.ops.rms_norm import rms_norm
from hrm_offline.ops.rope import rope_table
from hrm_offline.ops.sign_sgd import sparse_sign_sgd_
from hrm_offline.ops.stablemax import stablemax_cross_entropy
from hrm_offline.train.losses import outer_step_loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_triton = pytest.mark.skipif(launch.triton is None, reason="Triton is not installed")
SMALL = ModelConfig(
    hidden_size=64,
    num_heads=4,
    H_layers=1,
    L_layers=1,
    H_cycles=1,
    L_cycles=2,
    puzzle_emb_ndim=64,
    positions="rope-2d",
    rope_theta=100.0,
    halt_max_steps=3,
)


def test_what_serves_on_each_chip():
    def served(capability: int, half: torch.dtype) -> set[str]:
        return {
            op
            for op in dispatch.RULES
            if dispatch.decide_for(op, capability, torch.float32 if op in dispatch.FLOAT32_OPS else half).triton
        }

    assert served(89, torch.bfloat16) == set(dispatch.RULES)
    assert served(75, torch.float16) == set(dispatch.RULES) - {"attention", "linear_rms_norm", "linear_swiglu"}
    assert not dispatch.decide_for("adam_atan2", 90, torch.bfloat16).triton
    assert "7.5 is below 8.0" in dispatch.decide_for("attention", 75, torch.float16).reason
    assert "float32" in dispatch.decide_for("attention", 90, torch.float32).reason
    assert dispatch.decide_for("rms_norm", 90, torch.float32).triton
    assert "no bfloat16" in dispatch.decide_for("rms_norm", 75, torch.bfloat16).reason


def test_a_cpu_takes_plain_pytorch_unless_told_otherwise():
    cpu = torch.device("cpu")
    assert not dispatch.decide("rms_norm", cpu, torch.float32).triton
    assert dispatch.summary(cpu, torch.float32).startswith("PyTorch for attention, ")
    with dispatch.override("reference"):
        assert dispatch.decide("rms_norm", cpu, torch.float32).reason == "HRM_OFFLINE_OPS=reference"


@needs_triton
def test_a_triton_that_cannot_run_is_found_out_before_it_is_needed(monkeypatch):
    probe = launch.failure.__wrapped__
    assert probe(DEVICE) is None

    def no_compiler(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(launch, "launch", no_compiler)
    assert probe(DEVICE) == "a Triton kernel failed to run here, RuntimeError: Failed to find C compiler."
    monkeypatch.setattr(launch, "launch", lambda *_: None)
    assert "wrote nothing" in probe(DEVICE)


@needs_triton
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: rms_norm(torch.ones(2, 8, device=DEVICE, dtype=torch.float64), 1e-5), "float64"),
        (lambda: attention(torch.ones(1, 4, 3 * 24, device=DEVICE), 1), "head dimension 24"),
        (
            lambda: adam_atan2_(
                *[[torch.ones(3, 2, device=DEVICE).T] for _ in range(4)],
                step=1,
                lr=0.1,
                beta1=0.9,
                beta2=0.9,
                weight_decay=0,
            ),
            "contiguous",
        ),
        (
            lambda: linear_rms_norm(
                *(torch.ones(2, 1024, device=DEVICE), torch.ones(1024, 1024, device=DEVICE)),
                torch.ones(2, 1024, device=DEVICE),
                1e-5,
            ),
            "1024 are wider than 512",
        ),
    ],
)
def test_what_a_demanded_kernel_cannot_do_is_an_error(call, word):
    with dispatch.override("triton"), pytest.raises(InputError, match=word):
        call()
    call()  # and is served by PyTorch where none is demanded


ONES, HALF, INDEX = torch.ones, torch.ones(2, 8, dtype=torch.float16), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: attention(ONES(1, 4, 50), 2), "50 columns"),
        (lambda: attention(ONES(1, 4, 96), 2, ONES(4, 8)), "rotary table"),
        (lambda: attention(ONES(1, 4, 96), 2, None, ONES(1)), "lengths"),
        (lambda: attention(ONES(1, 4, 96), 2, None, ONES(2, dtype=torch.int32)), "lengths"),
        (lambda: rms_norm(ONES(2, 8), 1e-5, HALF), "residual float16"),
        (lambda: rms_norm(ONES(2, 8), 1e-5, ONES(8)), r"residual float32 \[8\]"),
        (lambda: linear_swiglu(HALF, ONES(6, 8)), "x float16"),
        (lambda: linear_swiglu(ONES(2, 8), ONES(6, 4)), r"weight float32 \[6, 4\]"),
        (lambda: linear_rms_norm(ONES(2, 8), ONES(4, 8), HALF, 1e-5), "linear_rms_norm"),
        (lambda: linear_rms_norm(ONES(2, 8), ONES(4, 8), ONES(1, 4), 1e-5), "linear_rms_norm"),
        (lambda: stablemax_cross_entropy(ONES(2, 12), INDEX[:1]), "stablemax"),
        (lambda: embedding(INDEX[None], ONES(12, 8), ONES(2, 8), 1, None, 1.0, torch.float32), "1 puzzle tokens"),
        (lambda: embedding(INDEX[None], ONES(12, 8), ONES(1, 9), 1, None, 1.0, torch.float32), "1 puzzle tokens"),
        (lambda: embedding(INDEX[None], ONES(12, 8), None, 0, ONES(3, 8), 1.0, torch.float32), "positions"),
        (lambda: sparse_sign_sgd_(ONES(9, 8), INDEX, ONES(1, 8), lr=1, weight_decay=0), "sign_sgd"),
        (
            lambda: adam_atan2_(
                [ONES(3)], [ONES(2)], [ONES(3)], [ONES(3)], step=1, lr=1, beta1=0, beta2=0, weight_decay=0
            ),
            r"grad float32 \[2\]",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_the_environment_variable_is_checked_and_the_package_works_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from hrm_offline import build_model; "
        "from hrm_offline.ops import dispatch; "
        "print(dispatch.summary(torch.device('cpu'), torch.float32)); "
        "model = build_model('hrm-132k'); tokens = torch.zeros(1, 9, dtype=torch.int32); "
        "z = model.initial_states(1, (3, 3)); "
        "model(*z, tokens, model.puzzle_vectors(torch.zeros(1, 2, dtype=torch.long)), (3, 3))"
    )

    def run(mode: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HRM_OFFLINE_OPS": mode}
        )

    without = run("")
    assert without.returncode == 0, without.stderr
    assert "Triton is not installed" in without.stdout
    assert "expected one of auto, reference, triton" in run("fast").stderr
    assert "HRM_OFFLINE_OPS=triton: attention: Triton is not installed" in run("triton").stderr


@needs_triton
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 5e-3)])
def test_the_whole_block(dtype, tolerance):
    """Output, input gradient and weight gradients of a block, ragged, against float64. The roundings
    of bfloat16 add up over a block's backward pass to more than 5e-3, in plain PyTorch too: there
    the kernels must be nearer to float64 than it is."""
    torch.manual_seed(0)
    block = Block(SMALL).to(DEVICE)
    lengths = torch.tensor([17, 5, 26], device=DEVICE)
    x = torch.randn(3, 26, 64).to(DEVICE, dtype)
    grad = torch.randn(3, 26, 64).to(DEVICE, dtype)
    exists = (torch.arange(26, device=DEVICE) < lengths[:, None])[:, :, None]
    table = rope_table(
        "rope-2d", (5, 5), 1, 30, 16, 100.0, DEVICE, torch.float32 if dtype is torch.float32 else torch.float16
    )

    def run(dtype, mode):
        block.zero_grad()
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        with dispatch.override(mode):
            out = block(leaf, table, lengths)
            (out * grad.to(dtype) * exists).sum().backward()
            with torch.no_grad():
                assert torch.equal(block(x.to(dtype), table, lengths), out)
        return [(out * exists).detach(), leaf.grad, *(p.grad.clone() for p in block.parameters())]

    ours, again, plain = run(dtype, "triton"), run(dtype, "triton"), run(dtype, "reference")
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    block.double()
    expected = run(torch.float64, "reference")

    def errors(tensors):
        return torch.stack([(a - b).norm() / b.norm() for a, b in zip(tensors, expected)])

    if dtype is torch.bfloat16:
        assert (errors(ours) < errors(plain)).all()
        assert errors(ours)[0] < tolerance
    else:
        assert (errors(ours) < tolerance).all()


@needs_triton
@pytest.mark.parametrize("canvas", ["full", "tight"])
@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
def test_gradients_of_the_whole_recurrent_step_against_float64(loss, canvas):
    """An outer step with halting and its look-ahead, by the fused path in float32 and by plain
    PyTorch in float64: losses and every gradient, that of the puzzle embeddings included."""
    tokens = torch.randint(0, 12, (3, 25), generator=torch.Generator().manual_seed(1))
    labels = tokens.roll(1, 0)
    labels[0, :9] = IGNORE
    results = {}
    for mode, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        model = RecursiveModel(SMALL, 4).to(DEVICE)
        with torch.no_grad():
            model.puzzle_emb.weights.normal_()
            model.q_head.weight.normal_(std=0.1)
        if dtype is torch.float64:
            model.double()
            model.dtype = dtype
        cells = None if canvas == "full" else torch.tensor([25, 15, 20], dtype=torch.int32, device=DEVICE)
        exists = torch.arange(25, device=DEVICE).expand(3, 25) < (25 if cells is None else cells[:, None])
        batch = Sequences(
            tokens.int().to(DEVICE),
            labels.to(DEVICE).masked_fill(~exists, IGNORE),
            torch.tensor([[1], [2], [1]], device=DEVICE),
            cells,
        )
        with dispatch.override(mode):
            carry = initial_carry(model, batch, (5, 5))
            refill_(model, carry, batch)
            vectors = model.puzzle_vectors(batch.puzzle_identifiers).requires_grad_()
            step = training_step(model, carry, vectors, torch.zeros(3, device=DEVICE), look_ahead=True)
            total, _ = outer_step_loss(step, batch.labels, loss)
            total.backward()
        results[mode] = {
            "loss": total.detach(),
            "logits": step.output.logits.detach()[exists],
            "z_H": step.z_H[:, 0],
            "target": step.continuation.target,
            "puzzle": vectors.grad,
            **{name: p.grad for name, p in model.named_parameters()},
        }
    for name, expected in results["reference"].items():
        difference = (results["triton"][name] - expected).norm() / expected.norm().clamp_min(1e-12)
        assert difference < 1e-5, (name, difference)


@needs_triton
def test_prediction_in_inference_mode_equals_the_training_pass():
    """Tables and lengths first made in inference mode serve training afterwards."""
    torch.manual_seed(0)
    model = RecursiveModel(SMALL, 4).to(DEVICE)
    tokens = torch.randint(0, 12, (2, 9), dtype=torch.int32, device=DEVICE)

    def logits():
        states = model.initial_states(2, (3, 3))
        vectors = model.puzzle_vectors(torch.zeros(2, 1, dtype=torch.long, device=DEVICE))
        for _ in range(2):
            *states, output = model(*states, tokens, vectors, (3, 3))
        return output.logits

    with dispatch.override("triton"):
        with torch.inference_mode():
            predicted = logits()
        trained = logits()
        trained.sum().backward()
    assert torch.equal(predicted, trained)


@needs_triton
def test_inside_torch_compile():
    """A compiled block calls the kernels' operators without a break in its graph, and gets the same numbers."""
    torch.manual_seed(0)
    block = Block(SMALL).to(DEVICE)
    x = torch.randn(2, 26, 64, device=DEVICE)
    table = rope_table("rope-2d", (5, 5), 1, 30, 16, 100.0, DEVICE)
    results = []
    with dispatch.override("triton"):
        for module in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
            block.zero_grad()
            leaf = x.clone().requires_grad_()
            out = module(leaf, table)
            out.square().mul(0.5).sum().backward()
            with torch.no_grad():
                assert torch.equal(module(x, table), out)
            results.append([out, leaf.grad, *(p.grad.clone() for p in block.parameters())])
    for plain, compiled in zip(*results):
        assert torch.equal(plain, compiled)


@needs_triton
def test_what_a_training_step_keeps_for_its_backward_pass():
    """9 x hidden activations a token and block: x, qkv, what attention saw, its norm, and 3 x hidden of
    the SwiGLU, whose gate and up are computed again. The plain path keeps twice that."""
    config = dataclasses.replace(SMALL, hidden_size=256)  # so that the SwiGLU is 3 x hidden wide
    block, x = Block(config).to(DEVICE), torch.randn(2, 26, 256, device=DEVICE)
    assert config.intermediate_size == 3 * 256
    kept = {}
    for mode in ("triton", "reference"):
        storages: dict[int, int] = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with dispatch.override(mode), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = block(x.clone().requires_grad_(), None)
        weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
        kept[mode] = sum(size for at, size in storages.items() if at not in weights) / (2 * 26 * 256 * 4)
        assert out.requires_grad
    assert kept["triton"] == pytest.approx(10, abs=0.2)  # the output of the block, which the next one takes, too
    assert kept["reference"] > 1.9 * kept["triton"]


@pytest.mark.gpu
def test_under_cuda_graph_capture():
    torch.manual_seed(0)
    block = Block(PRESETS["hrm-3m"].model).to(DEVICE)
    x = torch.randn(4, 101, 256, device=DEVICE, dtype=torch.bfloat16)
    table = rope_table("rope-2d", (10, 10), 1, 30, 32, 100.0, DEVICE, torch.float16)
    with torch.no_grad():
        expected = block(x, table)
        static = torch.empty_like(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = block(static, table)
        static.copy_(x)
        graph.replay()
    assert torch.equal(out, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(PRESETS))
def test_a_training_step_of_every_preset_on_the_gpu(name):
    """The fused path against the plain one, same dtype, on the full canvas: losses near, gradients aligned."""
    config = PRESETS[name].model
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    tokens = torch.randint(0, 12, (4, 900))
    losses, gradients = {}, {}
    for mode in ("auto", "reference"):
        torch.manual_seed(0)
        model = RecursiveModel(config, 4, dtype).to(DEVICE)
        batch = Sequences(
            tokens.int().to(DEVICE),
            tokens.roll(1, 0).to(DEVICE),
            torch.zeros(4, config.puzzle_ids, dtype=torch.long, device=DEVICE),
        )
        with dispatch.override(mode):
            carry = initial_carry(model, batch, (30, 30))
            refill_(model, carry, batch)
            vectors = model.puzzle_vectors(batch.puzzle_identifiers).requires_grad_()
            step = training_step(model, carry, vectors, torch.zeros(4, device=DEVICE), look_ahead=False)
            total, _ = outer_step_loss(step, batch.labels, Recipe().loss)
            total.backward()
        losses[mode] = total.item()
        gradients[mode] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert losses["auto"] == pytest.approx(losses["reference"], rel=1e-2)
    assert torch.cosine_similarity(gradients["auto"], gradients["reference"], dim=0) > 0.99
