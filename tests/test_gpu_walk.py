"""Walk training steps and a prediction of every preset on faked GPUs: see `fake_gpu`.

Tensors of two devices that meet are an error there. A step may not wait for the device, since the GPU would stand still
meanwhile, and a step that waits cannot be recorded as a CUDA graph.
"""

import dataclasses

import fake_gpu
import pytest
import torch
from fake_cuda import FakeCuda
from fake_gpu import Witness, chip
from kernels import needs_triton

from hrm_offline.config import ModelConfig
from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.data.sets import load_set
from hrm_offline.model.device import dtype_for_capability
from hrm_offline.model.graphs import GraphChoice
from hrm_offline.model.network import build_network, training_batches
from hrm_offline.ops import dispatch
from hrm_offline.predict.plan import PredictionPlan
from hrm_offline.predict.predictor import Predictor
from hrm_offline.presets import PRESETS
from hrm_offline.train.decoder_learner import new_learner
from hrm_offline.train.learner import sum_metrics

pytestmark = [needs_triton, pytest.mark.skipif(bool(fake_gpu.why_not()), reason=str(fake_gpu.why_not()))]

_OUTER_STEPS = 2
# What an L4 launches in a forward pass, and in a training step beside that.
_LAUNCHED_FORWARD = {"encode_views_forward", "embedding_forward", "attention_forward", "rotate_rows"}
_LAUNCHED_FORWARD |= {"linear_rms_norm_forward", "linear_swiglu_forward"}
_LAUNCHED = {name.replace("forward", "backward") for name in _LAUNCHED_FORWARD - {"encode_views_forward"}}
_LAUNCHED = _LAUNCHED - {"linear_rms_norm_backward"} | _LAUNCHED_FORWARD | {"rms_norm_backward"}
_LAUNCHED |= {"sign_sgd_step", "adam_atan2_step"}
_LAUNCHED_PRE_NORM_FORWARD = _LAUNCHED_FORWARD - {"linear_rms_norm_forward"} | {"add_rms_norm_forward"}
_LAUNCHED_PRE_NORM = _LAUNCHED_PRE_NORM_FORWARD | {
    "attention_backward",
    "linear_swiglu_backward",
    "add_rms_norm_backward",
}


@pytest.fixture
def faked(monkeypatch):
    with fake_gpu.faked(monkeypatch):
        yield


def _reduced(model: ModelConfig) -> ModelConfig:
    """Return the model with one layer in each stack and two cycles at most: the others launch the same."""
    counts = {name: min(getattr(model, name), 1) for name in ("H_layers", "L_layers")}
    counts |= {name: min(getattr(model, name), 2) for name in ("H_cycles", "L_cycles")}
    return dataclasses.replace(model, **counts)


class Walk:
    """A reduced preset on a faked GPU."""

    def __init__(self, name: str, capability: int, **changes):
        preset = PRESETS[name]
        self.recipe = dataclasses.replace(preset.adapt, cuda_graphs="no", outer_steps=_OUTER_STEPS, **changes)
        config = _reduced(preset.model).conditioned(self.recipe)
        self.puzzles = PuzzleSet(load_set("synthetic-3-sides-5").tasks, self.recipe, config, 0)
        dtype, _ = dtype_for_capability(divmod(capability, 10))
        with chip(capability), Witness():
            self.model = build_network(config, self.puzzles.num_rows, dtype)

    def train(self, graphs: GraphChoice | None = None) -> Witness:
        """Take two steps, and return the witness of the second. The first allocates moments and tables."""
        learner = new_learner(self.model, self.recipe, 100, 0, graphs=graphs)
        offer = training_batches(ExampleSource(self.puzzles, 0), self.model.device)
        with Witness():
            learner.learn(offer(0))
        with Witness() as witness:
            metrics = sum_metrics(learner.learn(offer(1)))
        assert {metric.device for metric in metrics.values()} == {self.model.device}
        assert all(param.grad.device == self.model.device for param in learner.params)
        return witness

    def predict(self) -> Witness:
        """Predict a batch up to where the grids are copied to the host."""
        predictor = Predictor(self.model, self.puzzles, self.recipe)
        batch = PredictionPlan(self.puzzles, self.recipe).rounds[0][0]
        answers = []
        predictor._read = lambda batch, tokens, confidence: answers.extend([tokens, confidence])
        with Witness() as witness:
            predictor._predict(batch)
        tokens, confidence = answers
        zeros = torch.zeros(len(batch), dtype=torch.int32, device=self.model.device)
        grids = predictor.maker.read(tokens, zeros, torch.stack([zeros, zeros], 1), batch.canvas)
        assert {tensor.device for tensor in (*grids, confidence)} == {self.model.device}
        return witness


def operations(*witnesses: Witness) -> set[str]:
    """Return the operations whose kernels were launched."""
    return {name.rpartition("_")[0] for witness in witnesses for name in witness.launches}


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.model.is_decoder])
def test_no_step_of_a_decoder_waits_for_the_device(name, faked):
    walk = Walk(name, 89)
    trained = walk.train()
    assert not trained.waits
    forward = {"causal_attention_forward", "add_rms_norm_forward", "rotate_rows", "linear_swiglu_forward"}
    assert set(trained.launches) >= forward | {"causal_attention_backward", "add_rms_norm_backward"}
    # Prediction adds a cached attention; `swiglu` is called where a chip has no better kernel.
    used = set(dispatch.ops_of(walk.model.config, walk.recipe))
    assert operations(trained) == used - {"cached_attention", "swiglu"}


def test_no_padded_step_of_a_decoder_waits_for_the_device(faked):
    """Batches are padded where steps may be recorded, so their work must not wait either."""
    assert not Walk("decoder-2m", 89).train(GraphChoice(FakeCuda(), False)).waits


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not preset.model.is_decoder])
def test_no_step_and_no_prediction_waits_for_the_device(name, faked):
    walk = Walk(name, 89)
    trained, predicted = walk.train(), walk.predict()
    assert not trained.waits and not predicted.waits
    is_pre_norm = walk.model.config.pre_norm
    assert set(trained.launches) >= (_LAUNCHED_PRE_NORM if is_pre_norm else _LAUNCHED)
    assert set(predicted.launches) >= (_LAUNCHED_PRE_NORM_FORWARD if is_pre_norm else _LAUNCHED_FORWARD)
    has_convolution = walk.model.config.mlp_convolution
    assert ({"conv_silu_forward", "conv_silu_backward"} <= set(trained.launches)) == has_convolution
    assert operations(trained, predicted) == set(dispatch.ops_of(walk.model.config, walk.recipe)) - {"swiglu"}


def test_no_step_with_muon_waits_for_the_device(faked):
    trained = Walk("hrm-132k", 89, optimizer="muon").train()
    assert not trained.waits
    assert set(trained.launches) >= {"muon_smooth", "muon_apply"} and "adam_atan2_step" not in trained.launches


def test_a_t4_waits_once_per_step_for_the_loss_scale_alone(faked):
    trained = Walk("hrm-132k", 75).train()
    assert trained.waits == {"a number": 1}
    assert "rms_norm_forward" in trained.launches and "attention_forward" not in trained.launches


def test_a_gpu_without_kernels_waits_no_more(faked):
    trained = Walk("hrm-132k", 60).train()
    assert trained.waits == {"a number": 1} and not trained.launches


def test_early_halting_waits_once_for_each_outer_step_but_the_last(faked):
    assert Walk("hrm-132k", 120, early_halting=True).predict().waits == {"a number": _OUTER_STEPS - 1}


def test_the_walk_finds_what_it_is_for(faked):
    """A tensor of another device, a hidden read, and a copy that waits."""
    device = chip(89)
    leaf = torch.ones(3, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="device"):
        leaf + torch.ones(3)
    with pytest.raises(AssertionError, match="tensors on"), Witness():
        torch.ops.hrm_offline.swiglu_forward(torch.ones(2, 2, device=device), torch.ones(2, 1))
    with Witness() as witness:
        leaf[leaf > 0]
        leaf.cpu()
        leaf.detach().copy_(torch.ones(3))
    assert set(witness.waits) == {"places", "copy from cuda to cpu", "copy from cpu to cuda"}
