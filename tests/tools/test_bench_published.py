"""Test what the benchmark does with a checkout of the published implementation."""

import pytest
import torch

from hrm_offline.common.errors import InputError
from tools.bench import published


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a checkout"):
        published.load(tmp_path)
    with pytest.raises(InputError, match="expected a checkout"):
        published.build_dataset(tmp_path, tmp_path, tmp_path, augmentations=1)


def test_its_attention_call_is_answered_with_attention():
    """Compare with attention written out. Flash attention's layout is [B, T, heads, head_dim]."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 4, 8, dtype=torch.float64)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5
    expected = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
    assert torch.allclose(published._flash_attn_func(q, k, v), expected)
