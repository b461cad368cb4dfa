"""Test the optimiser, the learning-rate schedule and the moving average of weights."""

import pytest
import torch
from decoders import make_decoder
from networks import ARCHITECTURES

from hrm_offline.config import Recipe
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops.newton_schulz import fast_newton_schulz, newton_schulz
from hrm_offline.train.optim import AdamATan2, Ema, Muon, NorMuon, lr_factor, make_optimizer, orthogonal


def test_adam_atan2_reaches_a_minimum_and_ignores_the_gradients_scale():
    paths = []
    for scale in (1.0, 1e-12):
        x = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
        optimizer = AdamATan2([x], lr=0.05, weight_decay=0.0)
        for _ in range(300):
            optimizer.zero_grad()
            (scale * x.square().sum()).backward()
            optimizer.step()
        paths.append(x.detach().clone())
    assert paths[0].abs().max() < 0.1
    assert torch.allclose(paths[0], paths[1])
    with pytest.raises(ValueError, match="out of range"):
        AdamATan2([x], lr=-1)


def test_learning_rate_warms_up_stays_and_falls():
    recipe = Recipe(warmup_steps=10, constant_fraction=0.5, final_lr_ratio=0.1)
    factors = [lr_factor(recipe, step, 100) for step in (1, 5, 10, 50, 75, 100)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1])
    assert lr_factor(Recipe(warmup_steps=0), 1, 100) == 1.0


def test_ema_forgets_the_start_and_swap_is_undone():
    param = torch.nn.Parameter(torch.tensor([100.0]))
    ema = Ema([param], 0.99)
    with torch.no_grad():
        param.fill_(1.0)
    for step in range(1, 2000):
        ema.update(step)
    ema.swap()
    assert param.item() == pytest.approx(1.0, abs=1e-3)
    ema.swap()
    assert param.item() == 1.0


@pytest.mark.parametrize("shape", [(12, 12), (30, 10), (10, 40)])
def test_orthogonal_keeps_singular_vectors_and_brings_all_values_near_one(shape):
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    in_its_own_basis = u.mT @ orthogonal(matrix) @ v.mT
    values = in_its_own_basis.diagonal(dim1=1, dim2=2)
    assert bool(((values > 0.6) & (values < 1.3)).all())
    assert (in_its_own_basis - torch.diag_embed(values)).abs().max() < 1e-4


@pytest.mark.parametrize("rank", [8, 2])
@pytest.mark.parametrize("shape", [(8, 8), (8, 12), (8, 16), (8, 50)])
def test_the_fast_iteration_gives_what_the_plain_one_does(shape, rank):
    generator = torch.Generator().manual_seed(0)
    rows, cols = shape
    x = torch.randn(3, rows, rank, generator=generator) @ torch.randn(3, rank, cols, generator=generator)
    x = x / x.norm(dim=(1, 2), keepdim=True)
    coefficients = [(3.0, -3.0, 1.0), (2.0, -1.5, 0.5), (1.5, -0.5, 0.0)]  # of its own in each iteration
    exact = newton_schulz(x.double(), coefficients)
    torch.testing.assert_close(fast_newton_schulz(x.double(), coefficients), exact)
    torch.testing.assert_close(fast_newton_schulz(x, coefficients).double(), exact, rtol=1e-3, atol=1e-3)


def test_the_average_may_decay_at_a_constant_rate_from_the_first_step_on():
    param = torch.nn.Parameter(torch.zeros(3))
    ema = Ema([param], 0.75, rises=False)
    for step, value in ((1, 4.0), (2, 8.0)):
        param.data.fill_(value)
        ema.update(step)
    assert torch.equal(ema.average[0], torch.full((3,), 0.75 * 1.0 + 0.25 * 8.0))


def test_normuon_moves_each_row_alike_and_the_whole_as_muon_does():
    """After one step from no momentum the rows of the update have one size, and the update has Muon's norm."""
    matrix = torch.nn.Parameter(torch.zeros(8, 16))
    matrix.grad = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 9)[:, None]
    NorMuon([{"params": [matrix], "matrices": True, "base_lr": 0.1, "weight_decay": 0.0}]).step()
    rows = matrix.detach().norm(dim=1)
    assert rows.std() < 1e-4 * rows.mean()
    assert matrix.norm().item() == pytest.approx(0.1 * orthogonal(matrix.grad[None]).norm().item(), rel=1e-4)


def test_the_parts_of_a_qkv_projection_are_made_orthogonal_one_by_one():
    whole = torch.nn.Parameter(torch.zeros(12, 4))
    whole.grad = torch.randn(12, 4, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [[1.0]] * 8 + [[1e3]] * 4
    )
    NorMuon([{"params": [whole], "matrices": True, "base_lr": 1.0, "weight_decay": 0.0}]).step()
    sizes = [part.norm().item() for part in whole.detach().split(4)]
    assert max(sizes) < 1.5 * min(sizes)  # as one matrix, the third part would be all there is


def test_normuon_moves_all_but_matrices_as_adamw_does():
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2))
    normuon = NorMuon([{"params": [ours], "matrices": False, "base_lr": 0.05, "weight_decay": 0.1}])
    adamw = torch.optim.AdamW([theirs], lr=0.05, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ours.grad = torch.randn(6, generator=generator)
        theirs.grad = ours.grad.clone()
        normuon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_has_all_matrices_and_adam_the_rest_at_one_rate():
    model = RecursiveModel(ARCHITECTURES["looped"], 1)
    optimizer = make_optimizer(model, Recipe(optimizer="muon", lr=0.5, weight_decay=0.25))
    assert isinstance(optimizer, Muon)
    names = {id(param): name for name, param in model.named_parameters()}
    matrices, others = ({names[id(param)] for param in group["params"]} for group in optimizer.param_groups)
    assert others == {"q_head.bias", "layers.0.mlp.dwconv.weight", "layers.0.mlp.dwconv.bias"}
    assert {"embed_tokens.embedding_weight", "lm_head.weight", "q_head.weight"} < matrices
    assert matrices | others == set(names.values())
    assert {(group["base_lr"], group["weight_decay"]) for group in optimizer.param_groups} == {(0.5, 0.25)}


@pytest.mark.parametrize("name", ["adam-atan2", "muon", "normuon"])
def test_a_table_of_embeddings_has_its_own_rate(make_task, name):
    model, _, _ = make_decoder((make_task(),))
    recipe = Recipe(optimizer=name, lr=0.5, matrix_lr=0.5, puzzle_emb_lr=0.125, puzzle_emb_weight_decay=0.25)
    rates = {
        id(param): (group["lr"], group["base_lr"], group["weight_decay"])
        for group in make_optimizer(model, recipe).param_groups
        for param in group["params"]
    }
    assert rates.keys() == {id(param) for param in model.parameters()}
    assert rates.pop(id(model.puzzle_emb.weights)) == (0.125, 0.125, 0.25)
    assert {rate[0] for rate in rates.values()} == {0.5}


@pytest.mark.parametrize(("name", "moments"), [("adam-atan2", 2), ("muon", 1), ("normuon", 1)])
def test_pending_bytes_are_those_that_the_moments_take(name, moments):
    model = RecursiveModel(ARCHITECTURES["pre-norm"], 1)
    optimizer = make_optimizer(model, Recipe(optimizer=name))
    params = list(model.parameters())
    pending = optimizer.pending_bytes()
    matrices = sum(4 * param.numel() for param in params if param.ndim == 2)
    assert moments * matrices <= pending < (moments + 0.5) * matrices
    for param in params[: len(params) // 2]:
        param.grad = torch.zeros_like(param)
    optimizer.take_memory()
    taken = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert optimizer.pending_bytes() == pending - sum(value.nbytes for value in taken) > 0
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.take_memory()
    assert optimizer.pending_bytes() == 0
