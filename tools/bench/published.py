"""Run the training step and the data builder of the published code, to measure them beside ours.

The code comes from a checkout of sapientinc/HRM, and no file of the checkout is copied or changed. Its compiled
extensions are replaced in memory: flash-attn by PyTorch's scaled_dot_product_attention, adam-atan2 by our optimiser.
The published code needs pydantic.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from hrm_offline.common.errors import InputError
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.train.optim import AdamATan2


def training_step(
    checkout: Path,
    config: ModelConfig,
    recipe: Recipe,
    batch: dict[str, torch.Tensor],
    puzzles: int,
    dtype: torch.dtype,
    compiled: bool,
) -> Callable[[], torch.Tensor]:
    """Return a function that takes one published training step on `batch` and returns its loss.

    `batch` holds "inputs" and "labels", int32 [B, T], and "puzzle_identifiers", int32 [B], on the device of the model.
    `puzzles` is the number of puzzle embeddings; `compiled` says whether torch.compile compiles the model.
    Raises `InputError` if the checkout cannot be used.
    """
    model_module, losses, embedding = load(checkout)
    size, tokens = batch["inputs"].shape
    settings = _published_settings(config, size, tokens, puzzles, dtype)
    with torch.device(batch["inputs"].device):
        model = losses.ACTLossHead(model_module.HierarchicalReasoningModel_ACTV1(settings), "stablemax_cross_entropy")
        step_model = torch.compile(model, dynamic=False) if compiled else model
        carry = model.initial_carry(batch)
    optimizers = [
        embedding.CastedSparseEmbeddingSignSGD_Distributed(
            model.model.puzzle_emb.buffers(),
            lr=recipe.puzzle_emb_lr,
            weight_decay=recipe.puzzle_emb_weight_decay,
            world_size=1,
        ),
        AdamATan2(model.parameters(), recipe.lr, (recipe.beta1, recipe.beta2), recipe.weight_decay),
    ]

    def step() -> torch.Tensor:
        nonlocal carry
        carry, loss, _, _, _ = step_model(carry=carry, batch=batch, return_keys=[])
        (loss / size).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return step


def _published_settings(config: ModelConfig, batch_size: int, tokens: int, puzzles: int, dtype: torch.dtype) -> dict:
    """Return our network's settings under the published names."""
    return dict(
        batch_size=batch_size,
        seq_len=tokens,
        num_puzzle_identifiers=puzzles,
        vocab_size=config.vocab_size,
        puzzle_emb_ndim=config.puzzle_emb_ndim,
        H_cycles=config.H_cycles,
        L_cycles=config.L_cycles,
        H_layers=config.H_layers,
        L_layers=config.L_layers,
        hidden_size=config.hidden_size,
        expansion=config.expansion,
        num_heads=config.num_heads,
        pos_encodings="rope",
        rope_theta=config.rope_theta,
        halt_max_steps=config.halt_max_steps,
        halt_exploration_prob=config.halt_exploration_prob,
        forward_dtype=str(dtype).removeprefix("torch."),
        causal=False,
    )


def build_dataset(checkout: Path, data: Path, out: Path, augmentations: int) -> None:
    """Run the published data builder on `data`, a folder of splits with task files, and write its files into `out`.

    Raises `InputError` if the checkout cannot be used.
    """
    script = checkout / "dataset" / "build_arc_dataset.py"
    if not script.exists():
        raise InputError(f"{script}: does not exist, expected a checkout of sapientinc/HRM")
    # argdantic reads the builder's command line, which is not used here, so that package need not be installed.
    arguments = types.ModuleType("argdantic")
    arguments.ArgParser = lambda: types.SimpleNamespace(command=lambda **_: lambda function: function)
    sys.modules["argdantic"] = arguments
    sys.path.insert(0, str(script.parent))
    try:
        builder = importlib.import_module(script.stem)
        builder.convert_dataset(
            builder.DataProcessConfig(dataset_dirs=[str(data)], output_dir=str(out), num_aug=augmentations)
        )
    except ImportError as error:
        raise InputError(f"{script}: cannot be imported ({error})") from None
    finally:
        sys.path.remove(str(script.parent))


def load(checkout: Path) -> tuple[types.ModuleType, ...]:
    """Return the published modules of the model, the losses and the puzzle embedding.

    Raises `InputError` if the checkout cannot be used.
    """
    if not (checkout / "models" / "hrm" / "hrm_act_v1.py").exists():
        raise InputError(f"{checkout}: no models/hrm/hrm_act_v1.py, expected a checkout of sapientinc/HRM")
    attention = types.ModuleType("flash_attn")
    attention.flash_attn_func = _flash_attn_func
    sys.modules.update(flash_attn=attention, flash_attn_interface=attention)
    sys.path.insert(0, str(checkout))
    try:
        return tuple(
            importlib.import_module(name)
            for name in ("models.hrm.hrm_act_v1", "models.losses", "models.sparse_embedding")
        )
    except ImportError as error:
        raise InputError(f"{checkout}: cannot be imported ({error})") from None
    finally:
        sys.path.remove(str(checkout))


def _flash_attn_func(q, k, v, causal=False):
    """Compute attention as flash-attn's function of this name does. All tensors are [B, T, heads, head_dim]."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal)
    return out.transpose(1, 2).contiguous()
