"""Test the loss of a whole outer step and its gradients, by kernels and in plain PyTorch."""

import pytest
import torch
from kernels import DEVICE, needs_triton
from networks import ROPE_2D

from hrm_offline.common.tokens import IGNORE
from hrm_offline.config import Recipe
from hrm_offline.model.halting import Sequences, initial_carry, refill_, training_step
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.presets import PRESETS, RECURSIVE_PRESETS
from hrm_offline.train.losses import outer_step_loss


@needs_triton
@pytest.mark.parametrize("canvas", ["full", "tight"])
@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
def test_gradients_of_the_whole_recurrent_step_against_float64(loss, canvas):
    """Compare an outer step with halting, by kernels in float32, with plain PyTorch in float64.

    The loss and every gradient are compared, with that of the puzzle embeddings.
    """
    tokens = torch.randint(0, 12, (3, 25), generator=torch.Generator().manual_seed(1))
    labels = tokens.roll(1, 0)
    labels[0, :9] = IGNORE
    results = {}
    for mode, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        model = RecursiveModel(ROPE_2D, 4).to(DEVICE)
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


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECURSIVE_PRESETS)
def test_a_training_step_of_every_recursive_preset_on_the_gpu(name):
    """Compare kernels with plain PyTorch in the same dtype on the full canvas: losses are near, gradients aligned."""
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
