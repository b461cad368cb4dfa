"""Test the optimiser, the learning-rate schedule and the moving average of weights."""

import pytest
import torch

from hrm_offline.config import Recipe
from hrm_offline.train.optim import AdamATan2, Ema, lr_factor


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
