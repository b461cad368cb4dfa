"""Test the kernel of token, puzzle and position embedding against its plain reference."""

import pytest
import torch
from kernels import DEVICE, DTYPES, TOLERANCE, difference, normal, run

from hrm_offline.ops.dispatch import override
from hrm_offline.ops.embedding import embedding, embedding_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "cells", "width", "numbers", "puzzle_tokens", "positions"),
    [
        (1, 1, 64, 64, 1, False),
        (3, 21, 96, 130, 2, False),
        (2, 901, 32, 0, 0, True),
        (4, 300, 64, 128, 2, True),
    ],
)
def test_embedding(dtype, batch, cells, width, numbers, puzzle_tokens, positions):
    tokens = torch.randint(0, 12, (batch, cells), device=DEVICE, dtype=torch.int32)
    leaves = [normal(12, width, dtype=torch.float32)]
    if numbers:
        leaves.append(normal(batch, numbers, dtype=torch.float32))
    if positions:
        leaves.append(normal(puzzle_tokens + cells, width, dtype=torch.float32))

    def arguments(leaves):
        leaves = list(leaves)
        table, puzzle = leaves.pop(0), leaves.pop(0) if numbers else None
        return tokens, table, puzzle, puzzle_tokens, leaves.pop(0) if positions else None, 7.5

    with override("triton"):
        with torch.no_grad():
            alone = embedding(*arguments(leaves), dtype)
        grad = torch.randn(alone.shape).to(DEVICE, dtype)
        ours = run(lambda *x: embedding(*arguments(x), dtype), leaves, grad)
    assert ours[0].dtype is dtype
    assert torch.equal(ours[0], alone)
    expected = run(lambda *x: embedding_reference(*arguments(x), torch.float64), [x.double() for x in leaves], grad)
    for mine, theirs in zip(ours, expected):
        assert difference(mine, theirs) < TOLERANCE[dtype]


def test_embedding_of_what_is_no_token_is_nan():
    table = normal(12, 16, dtype=torch.float32)
    with override("triton"):
        out = embedding(torch.tensor([[3, 12, -1]], device=DEVICE), table, None, 0, None, 1.0, torch.float32)
    assert out.isnan().all(-1).tolist() == [[False, True, True]]
