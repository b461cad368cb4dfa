"""Test the sparse sign-SGD step: duplicate rows, untouched rows, and its kernel."""

import pytest
import torch
from kernels import DEVICE, normal

from hrm_offline.ops.dispatch import override
from hrm_offline.ops.sign_sgd import sparse_sign_sgd_


def test_sign_sgd_sums_duplicates_first_and_leaves_other_rows():
    table = torch.ones(4, 2)
    sparse_sign_sgd_(
        table, torch.tensor([1, 3, 1]), torch.tensor([[5.0, 1.0], [1.0, 0.0], [-1.0, -2.0]]), lr=0.1, weight_decay=0.5
    )
    decayed = 1 - 0.1 * 0.5
    expected = [[1, 1], [decayed - 0.1, decayed + 0.1], [1, 1], [decayed - 0.1, decayed]]
    assert torch.allclose(table, torch.tensor(expected))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("ids", "width"), [([3], 64), ([1, 3, 1, 1, 0, 3] + [5] * 70, 33), (list(range(40)), 130)])
def test_sign_sgd_with_duplicate_ids(ids, width):
    table, ids = normal(50, width, dtype=torch.float32), torch.tensor(ids, device=DEVICE)
    grads = normal(len(ids), width, dtype=torch.float32)
    grads[:, 0] = 0
    ours, expected = table.clone(), table.clone()
    with override("triton"):
        sparse_sign_sgd_(ours, ids, grads, lr=0.01, weight_decay=0.1)
    with override("reference"):
        sparse_sign_sgd_(expected, ids, grads, lr=0.01, weight_decay=0.1)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-7)
    untouched = torch.ones(50, dtype=torch.bool, device=DEVICE)
    untouched[ids] = False
    assert torch.equal(ours[untouched], table[untouched])
