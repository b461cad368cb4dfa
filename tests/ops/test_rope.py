"""Test rotary position tables."""

import torch

from hrm_offline.ops.rope import rope, rope_table


def test_flattened_rope_on_the_full_canvas_is_the_published_one():
    table = rope_table("rope-1d", (30, 30), 1, 30, 8, 10000.0, torch.device("cpu"))
    angles = torch.outer(torch.arange(901.0), 10000.0 ** -(torch.arange(0, 8, 2) / 8))
    assert torch.allclose(table, torch.cat([angles.cos(), angles.sin()], dim=1), atol=1e-6)


def test_two_dimensional_rope_sees_row_and_column_distances_only():
    """Check that a score between two cells depends on their offset, not on their position."""
    table = rope_table("rope-2d", (9, 9), 0, 30, 16, 100.0, torch.device("cpu"))
    torch.manual_seed(0)
    q, k = (torch.randn(16).expand(1, 81, 1, 16) for _ in range(2))
    q, k = rope(q, table)[0, :, 0], rope(k, table)[0, :, 0]
    score = (q @ k.T).view(9, 9, 9, 9)
    assert torch.allclose(score[0, 0, 2, 3], score[5, 4, 7, 7], atol=1e-5)
    assert not torch.allclose(score[0, 0, 2, 3], score[0, 0, 3, 2], atol=1e-3)
