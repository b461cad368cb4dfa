"""Test the fused linear layer and SwiGLU against its plain reference: outputs and gradients, odd shapes."""

import pytest
from kernels import DTYPES, check, normal

from hrm_offline.ops.linear_swiglu import linear_swiglu, linear_swiglu_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "inner"), [((1,), 64, 48), ((3, 21), 96, 256), ((901,), 32, 32)])
def test_linear_swiglu(dtype, rows, width, inner):
    x, weight = normal(*rows, width, dtype=dtype), normal(2 * inner, width, dtype=dtype, scale=width**-0.5)
    check(linear_swiglu, linear_swiglu_reference, [x, weight])
