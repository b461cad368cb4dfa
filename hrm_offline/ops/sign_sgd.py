"""Sign-SGD on the rows of an embedding table that a batch used."""

from __future__ import annotations

import torch


def sparse_sign_sgd_(table: torch.Tensor, ids: torch.Tensor, grads: torch.Tensor, *, lr: float,
                     weight_decay: float) -> None:
    """table [N, D], ids int64 [R], grads [R, D]: w = w (1 - lr wd) - lr sign(sum of its grads).

    Gradients of the same row are summed first, so a row moves once however often it appears.
    Rows outside `ids` neither move nor decay.
    """
    rows, position = ids.unique(return_inverse=True)
    total = torch.zeros(len(rows), table.shape[1], dtype=grads.dtype, device=grads.device)
    total.index_add_(0, position, grads)
    table[rows] = table[rows] * (1 - lr * weight_decay) - lr * total.sign()
