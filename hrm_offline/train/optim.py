"""Move the network, schedule its learning rate, and average its weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import torch

from hrm_offline.config import Recipe
from hrm_offline.model.network import Network
from hrm_offline.ops.adam_atan2 import adam_atan2_
from hrm_offline.ops.muon import muon_
from hrm_offline.ops.newton_schulz import fast_newton_schulz

T = TypeVar("T")


class _WithMoments(torch.optim.Optimizer):
    """Keeps the number of updates and the moments of each parameter: `state[param]` has `step` and the moments by name.

    A parameter gets its state when it first has a gradient.
    """

    # PyTorch has its compiler pass over these, and loads the compiler for that: a third of a worker's start.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def moment_shapes(self, param: torch.nn.Parameter) -> dict[str, torch.Size]:
        """Return the shapes of the moments of a parameter by name: `m`, the mean of gradients, `v` of their squares."""
        return {"m": param.shape, "v": param.shape}

    def pending_bytes(self) -> int:
        """Return the bytes of the moments that are yet to be allocated, where all parameters get gradients."""
        pending = [param for group in self.param_groups for param in group["params"] if not self.state.get(param)]
        return sum(
            param.element_size() * shape.numel() for param in pending for shape in self.moment_shapes(param).values()
        )

    def take_memory(self) -> None:
        """Allocate the moments of all parameters that have gradients. May be called again after it failed."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and not self.state.get(param):
                    shapes = self.moment_shapes(param)
                    self.state[param] = {"step": 0} | {name: param.new_zeros(shapes[name]) for name in shapes}


class AdamATan2(_WithMoments):
    """Adam with an arc tangent in place of the division, and decoupled weight decay (see `adam_atan2_`).

    Raises `ValueError` for a negative rate or decay, or betas outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ):
        if lr < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr {lr}, betas {betas}, weight_decay {weight_decay}: out of range")
        super().__init__(params, {"lr": lr, "base_lr": lr, "betas": betas, "weight_decay": weight_decay})

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


# Newton-Schulz: a quintic that drives singular values towards 1 (Jordan et al. 2024, Muon).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# NorMuon: the decay of momentum and mean squares, and what is added to a divisor. Its authors' code has the same
# (zichongli5/NorMuon, normuon.py at commit e5aaaf4).
_MOMENTUM = 0.95
_TINY = 1e-10
# Adam: as the Universal Reasoning Model was trained (tests/golden/README.md), and the default of `torch.optim.AdamW`.
_ADAM_EPS = 1e-8


class MatrixOptimizer(_WithMoments):
    """Moves matrices in one way, which a subclass has, and all other parameters by Adam with decoupled weight decay.

    Groups have "matrices" True or False, "base_lr" and "weight_decay". The state of a parameter is `step`, `m` (the
    momentum) and, but for Muon's matrices, `v` (mean squares).

    `record(key, compute)` returns what `compute()` returns. A learner may put something in its place that replays the
    work of a key, which reads and writes the same gradients and moments each time.
    """

    betas = (0.9, 0.95)  # of Adam

    def __init__(self, groups: list[dict]):
        super().__init__([group | {"lr": group["base_lr"]} for group in groups], {})
        self._matrices = {param for group in groups if group["matrices"] for param in group["params"]}
        self.record: Callable[[Hashable, Callable[[], T]], T] = lambda key, compute: compute()

    def moment_shapes(self, param: torch.nn.Parameter) -> dict[str, torch.Size]:
        return self.matrix_moments(param) if param in self._matrices else super().moment_shapes(param)

    def matrix_moments(self, param: torch.nn.Parameter) -> dict[str, torch.Size]:
        """Return the shapes of the moments of a matrix by name."""
        raise NotImplementedError

    def move_matrices(self, params: list[torch.nn.Parameter], group: dict) -> None:
        """Move matrices of one shape that have gradients."""
        raise NotImplementedError

    def adam_eps(self, step: int) -> float:
        """Return what is added to the root of Adam's mean squares after these were corrected for their bias."""
        return _ADAM_EPS

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        self.take_memory()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            for param in params:
                self.state[param]["step"] += 1
            if not group["matrices"]:
                self._adam(params, group)
                continue
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for param in params:
                by_shape.setdefault(param.shape, []).append(param)
            for alike in by_shape.values():
                self.move_matrices(alike, group)
        return loss

    def _adam(self, params: list[torch.nn.Parameter], group: dict) -> None:
        if not params:
            return
        beta1, beta2 = self.betas
        states, grads = [self.state[param] for param in params], [param.grad for param in params]
        steps = [state["step"] for state in states]
        means, squares = [state["m"] for state in states], [state["v"] for state in states]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - beta2)
        sizes = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, [self.adam_eps(step) for step in steps])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(params, means, sizes, [-group["lr"] / (1 - beta1**step) for step in steps])


class Muon(MatrixOptimizer):
    """Moves matrices by Muon (see `muon_`), as the Universal Reasoning Model was trained for ARC-AGI-2.

    Adam's epsilon meets the root of the mean squares before these are corrected for their bias, as there.
    """

    def __init__(self, groups: list[dict], betas: tuple[float, float]):
        super().__init__(groups)
        self.betas = betas

    def matrix_moments(self, param: torch.nn.Parameter) -> dict[str, torch.Size]:
        return {"m": param.shape}

    def adam_eps(self, step: int) -> float:
        return _ADAM_EPS / (1 - self.betas[1] ** step) ** 0.5

    def move_matrices(self, params: list[torch.nn.Parameter], group: dict) -> None:
        grads, momenta = [param.grad for param in params], [self.state[param]["m"] for param in params]
        muon_(params, grads, momenta, lr=group["lr"], weight_decay=group["weight_decay"])


class NorMuon(MatrixOptimizer):
    """Moves matrices by NorMuon (Li et al. 2025, arXiv 2510.05491).

    NorMuon makes the momentum of a matrix orthogonal, as Muon does, and then divides each row by a running mean of its
    size: `v` is by row for a matrix.
    """

    def matrix_moments(self, param: torch.nn.Parameter) -> dict[str, torch.Size]:
        return {"m": param.shape, "v": param[:, :1].shape}

    def move_matrices(self, params: list[torch.nn.Parameter], group: dict) -> None:
        """Move matrices [rows, cols] of one shape."""
        key = "normuon", params[0].shape, len(params)
        directions = self.record(key, lambda: self._directions(params))
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, directions, alpha=-group["lr"])

    def _directions(self, params: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        """Take the gradients of matrices [rows, cols] into their moments, and return where each is to move.

        The three square parts of a qkv projection count as three.
        """
        rows, cols = params[0].shape
        grads = torch.stack([param.grad for param in params]).float()  # [L, rows, cols]
        momenta = torch.stack([self.state[param]["m"] for param in params]).lerp_(grads, 1 - _MOMENTUM)
        update = grads.lerp(momenta, _MOMENTUM)  # Nesterov's
        parts = 3 if rows == 3 * cols else 1
        update = orthogonal(update.view(-1, rows // parts, cols)).view(-1, rows, cols)
        size = update.norm(dim=(1, 2), keepdim=True)
        squares = torch.stack([self.state[param]["v"] for param in params])
        squares.lerp_(update.square().mean(2, keepdim=True), 1 - _MOMENTUM)
        update /= squares.sqrt() + _TINY
        # The update keeps its norm, and a tall matrix moves further, as in the authors' code.
        update *= max(1.0, rows / cols) ** 0.5 * size / (update.norm(dim=(1, 2), keepdim=True) + _TINY)
        states = [self.state[param] for param in params]
        torch._foreach_copy_([state["m"] for state in states], list(momenta))
        torch._foreach_copy_([state["v"] for state in states], list(squares))
        return list(update.to(params[0].dtype))


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices [L, rows, cols] with singular values near 1 and the singular vectors of those given."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = fast_newton_schulz(x, [_QUINTIC] * _ITERATIONS)
    return x.mT if tall else x


def make_optimizer(network: Network, recipe: Recipe) -> AdamATan2 | MatrixOptimizer:
    """Return the optimiser that the recipe names for a network's parameters.

    With "normuon", matrices are the two-dimensional weights inside layers, and all else but a table of puzzle
    embeddings does not decay. With "muon", matrices are all two-dimensional weights, heads and the table of tokens
    among them, and all else has the same rate and decay. With "adam-atan2" no parameter is moved otherwise than others.
    A table of puzzle embeddings that is a parameter has a rate and a decay of its own.
    """
    is_muon = recipe.optimizer == "muon"
    matrices, embeddings, others = [], [], []
    for name, param in network.named_parameters():
        if name.startswith("puzzle_emb."):
            embeddings.append(param)
        elif param.ndim == 2 and (is_muon or "layers." in name):
            matrices.append(param)
        else:
            others.append(param)
    rate, decay = recipe.puzzle_emb_lr, recipe.puzzle_emb_weight_decay
    tables = [{"params": embeddings, "lr": rate, "base_lr": rate, "weight_decay": decay}] if embeddings else []
    if recipe.optimizer == "adam-atan2":
        groups = [{"params": [*matrices, *others]}, *tables]
        return AdamATan2(groups, recipe.lr, (recipe.beta1, recipe.beta2), recipe.weight_decay)
    lr, decay = (recipe.lr, recipe.weight_decay) if is_muon else (recipe.matrix_lr, 0.0)
    groups = [
        {"params": matrices, "matrices": True, "base_lr": lr, "weight_decay": recipe.weight_decay},
        {"params": others, "matrices": False, "base_lr": recipe.lr, "weight_decay": decay},
        *(table | {"matrices": False} for table in tables),
    ]
    return Muon(groups, (recipe.beta1, recipe.beta2)) if is_muon else NorMuon(groups)


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

    With `rises`, the decay rises as (1 + step) / (10 + step) to its final value, so that the average soon forgets
    random weights. Otherwise it is constant.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], decay: float, rises: bool = True):
        self.decay = decay
        self.rises = rises
        self.params = list(params)
        self.average = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimiser step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.rises else self.decay
        torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights with the averaged ones. A second call undoes the first."""
        for average, param in zip(self.average, self.params):
            kept = param.detach().clone()
            param.copy_(average)
            average.copy_(kept)
