"""The iteration by which Muon and NorMuon make matrices orthogonal (PyTorch only: its work is in matrix products)."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def newton_schulz(x: torch.Tensor, coefficients: Iterable[tuple[float, float, float]]) -> torch.Tensor:
    """Drive the singular values of matrices [L, rows, columns], with rows <= columns, towards 1. Returns new ones.

    The matrices have a Frobenius norm of 1 at most. Each iteration maps a singular value s to a s + b s^3 + c s^5, with
    its own (a, b, c) (Jordan et al. 2024, Muon).
    """
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
