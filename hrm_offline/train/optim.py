"""The network's optimiser, the learning-rate schedule and the averaged weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch

from hrm_offline.config import Recipe
from hrm_offline.ops.adam_atan2 import adam_atan2_


class AdamATan2(torch.optim.Optimizer):
    """Adam with an arc tangent in place of the division, and decoupled weight decay (see `adam_atan2_`).

    Raises `ValueError` for a negative rate or decay, or betas outside [0, 1).
    """

    # PyTorch has its compiler pass over these, and loads the compiler for that: a third of a worker's start.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ):
        if lr < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr {lr}, betas {betas}, weight_decay {weight_decay}: out of range")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def take_memory(self) -> None:
        """Allocate the moments of all parameters that have gradients. May be called again after it failed."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and not self.state[param]:
                    self.state[param].update(step=0, m=torch.zeros_like(param), v=torch.zeros_like(param))

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        self.take_memory()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            # Parameters with the same number of updates share a launch. Some have fewer where they had no gradient.
            by_step: dict[int, list[torch.nn.Parameter]] = {}
            for param in params:
                by_step.setdefault(self.state[param]["step"] + 1, []).append(param)
            for step, alike in by_step.items():
                states = [self.state[param] for param in alike]
                adam_atan2_(
                    alike,
                    [p.grad for p in alike],
                    [s["m"] for s in states],
                    [s["v"] for s in states],
                    step=step,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                )
                for state in states:
                    state["step"] = step
        return loss


def lr_factor(recipe: Recipe, step: int, total: int) -> float:
    """Return the share of the learning rate at `step` of `total`, counted from 1: warm-up, constant, linear fall."""
    if step < recipe.warmup_steps:
        return step / recipe.warmup_steps
    constant_until = recipe.constant_fraction * total
    if step <= constant_until:
        return 1.0
    fallen = min(1.0, (step - constant_until) / max(1.0, total - constant_until))
    return 1.0 - fallen * (1.0 - recipe.final_lr_ratio)


class Ema:
    """The exponential moving average of a network's parameters.

    The decay rises as (1 + step) / (10 + step) to its final value, so that the average soon forgets random weights.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], decay: float):
        self.decay = decay
        self.params = list(params)
        self.average = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimiser step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights with the averaged ones. A second call undoes the first."""
        for average, param in zip(self.average, self.params):
            kept = param.detach().clone()
            param.copy_(average)
            average.copy_(kept)
