"""Test the fused linear layer, residual and RMS norm against its plain reference: outputs and gradients, odd shapes."""

import pytest
from kernels import DTYPES, check, normal

from hrm_offline.ops.linear_rms_norm import linear_rms_norm, linear_rms_norm_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "inner", "width"),
    [
        ((1,), 96, 64),
        ((3, 21), 40, 96),
        ((901,), 32, 32),
        ((7,), 64, 512),
    ],
)
def test_linear_rms_norm(dtype, rows, inner, width):
    x, weight = normal(*rows, inner, dtype=dtype), normal(width, inner, dtype=dtype, scale=inner**-0.5)
    check(
        lambda x, w, r: linear_rms_norm(x, w, r, 1e-5),
        lambda x, w, r: linear_rms_norm_reference(x, w, r, 1e-5),
        [x, weight, normal(*rows, width, dtype=dtype)],
    )
