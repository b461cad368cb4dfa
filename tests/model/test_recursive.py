import dataclasses

import pytest
import torch

import hrm_offline
from hrm_offline.common.errors import InputError
from hrm_offline.config import PRESETS, ModelConfig
from hrm_offline.model.halting import Sequences, advance_, initial_carry, refill_, training_step
from hrm_offline.model.layers import truncated_normal
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops.rope import rope, rope_table

TINY = ModelConfig(hidden_size=32, num_heads=2, H_layers=1, L_layers=1, puzzle_emb_ndim=32, halt_max_steps=3)


def sequences(size: int, cells: int, seed: int = 0) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 12, (size, cells), generator=generator)
    return Sequences(tokens.int(), tokens.long(), torch.zeros(size, 1, dtype=torch.long))


def run(model: RecursiveModel, tokens: torch.Tensor, canvas, steps: int = 2):
    vectors = model.puzzle_vectors(torch.zeros(len(tokens), model.config.puzzle_columns, dtype=torch.long))
    z_H, z_L = model.initial_states(len(tokens), canvas)
    for _ in range(steps):
        z_H, z_L, output = model(z_H, z_L, tokens, vectors, canvas)
    return output


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_their_adapters_fit(name):
    model_config, adapt, pretrain = dataclasses.astuple(PRESETS[name])[0], PRESETS[name].adapt, PRESETS[name].pretrain
    assert model_config
    assert PRESETS[name].model.puzzle_columns == adapt.puzzle_columns == pretrain.puzzle_columns
    assert pretrain.preset == name


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
    """Positions of a 4x5 canvas are those of the same cells on the full one."""
    model = RecursiveModel(dataclasses.replace(TINY, positions=positions), 1)
    rows, cols = torch.arange(4).repeat_interleave(5), torch.arange(5).repeat(4)
    if positions == "learned":
        tight, full = model._learned_positions((4, 5)), model._learned_positions((30, 30))
        assert torch.equal(tight[1:], full[1:][rows * 30 + cols])
        return
    tight, full = model._rope_table((4, 5)), model._rope_table((30, 30))
    assert torch.equal(tight[1:], full[1:][rows * 30 + cols])
    assert torch.equal(tight[0], full[0])


def test_flattened_rope_on_the_full_canvas_is_the_published_one():
    table = rope_table("rope-1d", (30, 30), 1, 30, 8, 10000.0, torch.device("cpu"))
    angles = torch.outer(torch.arange(901.0), 10000.0 ** -(torch.arange(0, 8, 2) / 8))
    assert torch.allclose(table, torch.cat([angles.cos(), angles.sin()], dim=1), atol=1e-6)


def test_two_dimensional_rope_sees_row_and_column_distances_only():
    """A score between two cells depends on their offset, not on where they stand."""
    table = rope_table("rope-2d", (9, 9), 0, 30, 16, 100.0, torch.device("cpu"))
    torch.manual_seed(0)
    q, k = (torch.randn(16).expand(1, 81, 1, 16) for _ in range(2))
    q, k = rope(q, table)[0, :, 0], rope(k, table)[0, :, 0]
    score = (q @ k.T).view(9, 9, 9, 9)
    assert torch.allclose(score[0, 0, 2, 3], score[5, 4, 7, 7], atol=1e-5)
    assert not torch.allclose(score[0, 0, 2, 3], score[0, 0, 3, 2], atol=1e-3)


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
    embedded, table = model._embed(batch.inputs, vectors, (3, 3)), model._rope_table((3, 3))
    with torch.no_grad():
        z_L = model.L_level(z_L, z_H + embedded, table)
        z_L = model.L_level(z_L, z_H + embedded, table)
        z_H = model.H_level(z_H, z_L, table)
        z_L = model.L_level(z_L, z_H + embedded, table)
    single(z_H, z_L, batch.inputs, vectors, (3, 3))[2].logits.sum().backward()
    assert torch.allclose(single.L_level.layers[0].mlp.down_proj.weight.grad, one_step, atol=1e-5)


def filled_carry(model, offered):
    carry = initial_carry(model, offered, (3, 3))
    refill_(model, carry, offered)
    return carry


def test_halted_slots_take_the_offered_sequence_and_the_others_go_on():
    torch.manual_seed(0)
    model = RecursiveModel(TINY, 1)
    first, second = sequences(3, 9, seed=1), sequences(3, 9, seed=2)
    carry = filled_carry(model, first)
    assert torch.equal(carry.sequences.inputs, first.inputs)
    carry.halted.copy_(torch.tensor([False, True, False]))
    carry.steps.copy_(torch.tensor([1, 2, 1]))
    carry.z_H += 1
    before = carry.z_H.clone()
    where = [tensor.data_ptr() for tensor in (carry.z_H, carry.sequences.inputs, carry.steps)]
    refill_(model, carry, second)
    assert torch.equal(carry.sequences.inputs[1], second.inputs[1])
    assert torch.equal(carry.sequences.labels[0], first.labels[0])
    assert carry.steps.tolist() == [1, 0, 1]
    assert torch.equal(carry.z_H[1], model.H_init.expand(10, 32))
    assert torch.equal(carry.z_H[0], before[0])
    # In place: a recorded step finds them again.
    assert where == [tensor.data_ptr() for tensor in (carry.z_H, carry.sequences.inputs, carry.steps)]


@pytest.mark.parametrize("halting", ["q-learning", "halt-only"])
def test_halting_obeys_the_head_the_minimum_and_the_last_step(halting):
    model = RecursiveModel(dataclasses.replace(TINY, halting=halting), 1)
    batch = sequences(3, 9)
    carry = filled_carry(model, batch)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([2.0, -2.0]))  # always wants to halt
    min_steps = torch.tensor([0, 3, 2])
    halted = []
    for _ in range(3):
        step = training_step(model, carry, vectors, min_steps, look_ahead=True)
        advance_(carry, step)
        halted.append(carry.halted.tolist())
    assert halted == [[True, False, False], [True, False, True], [True, True, True]]
    assert (step.continuation is None) == (halting == "halt-only")
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([-2.0, 2.0]))  # never does
    carry = filled_carry(model, batch)
    for expected in (False, False, True):
        advance_(carry, training_step(model, carry, vectors, torch.zeros(3), look_ahead=True))
        assert carry.halted.tolist() == [expected] * 3


def test_the_next_steps_own_pass_gives_the_target_that_looking_ahead_gives():
    """With the weights held still, what one step saw by a second pass is what the next one computes anyway."""
    torch.manual_seed(0)
    model = RecursiveModel(dataclasses.replace(TINY, halt_max_steps=8), 1)
    with torch.no_grad():
        model.q_head.weight.normal_(std=0.3)
    batch = sequences(4, 9)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    carry = filled_carry(model, batch)
    looked = training_step(model, carry, vectors, torch.full((4,), 9), look_ahead=True)
    first = training_step(model, carry, vectors, torch.full((4,), 9), look_ahead=False)
    assert not first.continuation.known.any()  # nothing was predicted before the first step
    advance_(carry, first)
    carry.halted[3] = True
    refill_(model, carry, batch)
    second = training_step(model, carry, vectors, torch.full((4,), 9), look_ahead=False).continuation
    assert second.known.tolist() == [True, True, True, False]
    assert torch.allclose(second.target[:3], looked.continuation.target[:3], atol=1e-6)
    assert torch.allclose(second.predicted[:3], looked.continuation.predicted[:3], atol=1e-6)
    second.predicted.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"q_head.weight", "q_head.bias"}


def test_a_last_step_counts_with_the_value_of_halting():
    torch.manual_seed(0)
    model = RecursiveModel(dataclasses.replace(TINY, halt_max_steps=2), 1)
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([-1.0, 3.0]))
    batch = sequences(2, 9)
    vectors = model.puzzle_vectors(batch.puzzle_identifiers)
    carry = filled_carry(model, batch)
    advance_(carry, training_step(model, carry, vectors, torch.zeros(2), look_ahead=False))
    step = training_step(model, carry, vectors, torch.zeros(2), look_ahead=False)
    assert torch.allclose(step.continuation.target, step.output.q_halt.sigmoid())


def test_cells_that_do_not_exist_are_not_seen():
    """A canvas with missing rows computes what the shorter canvas computes."""
    torch.manual_seed(0)
    model = RecursiveModel(TINY, 1)
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


def test_truncated_normal_has_the_stated_deviation():
    torch.manual_seed(0)
    drawn = truncated_normal(200_000, std=0.3)
    assert drawn.std() == pytest.approx(0.3, rel=0.01)
    assert drawn.abs().max() < 0.3 * 2.3


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


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "multiple"),
        ({"positions": "sine"}, "positions"),
        ({"H_layers": 0}, "H_layers"),
        ({"halt_exploration_prob": 1.5}, "halt_exploration_prob"),
        ({"hidden_size": 12, "num_heads": 2, "positions": "rope-2d"}, "rope-2d"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(TINY, **change)
