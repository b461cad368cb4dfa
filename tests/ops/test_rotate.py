"""Test the rotation of queries and keys against its plain reference: outputs and gradients, odd shapes."""

import pytest
import torch
from kernels import DEVICE, DTYPES, check, normal

from hrm_offline.ops.dispatch import override
from hrm_offline.ops.rope import rope_cos_sin
from hrm_offline.ops.rotate import rotate, rotate_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "heads", "head_dim"), [(1, 1, 1, 16), (2, 63, 3, 32), (1, 9, 8, 64)])
def test_rotate(dtype, batch, tokens, heads, head_dim):
    cos_sin = rope_cos_sin("rope-1d", (1, tokens), 0, tokens, head_dim, 100.0, DEVICE)
    qkv = normal(batch, tokens, 3 * heads * head_dim, dtype=dtype)
    check(lambda x: rotate(x, heads, cos_sin), lambda x: rotate_reference(x, heads, cos_sin), [qkv])


def test_each_sequence_may_have_its_own_positions():
    tables = [rope_cos_sin("rope-2d", (2, 3), prefix, 3, 16, 100.0, DEVICE)[:6] for prefix in (0, 4)]
    cos_sin, qkv = torch.stack(tables), normal(2, 6, 96, dtype=torch.float32)
    check(lambda x: rotate(x, 2, cos_sin), lambda x: rotate_reference(x, 2, cos_sin), [qkv])


def test_values_stay_as_they_are():
    cos_sin = rope_cos_sin("rope-1d", (1, 5), 0, 5, 16, 100.0, DEVICE)
    qkv = normal(2, 5, 96, dtype=torch.float32)
    with override("triton"):
        rotated = rotate(qkv, 2, cos_sin)
    assert torch.equal(rotated[..., 64:], qkv[..., 64:])


def test_cosines_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="cos_sin"):
        rotate(normal(2, 5, 96, dtype=torch.float32), 2, torch.zeros(4, 16, device=DEVICE))
