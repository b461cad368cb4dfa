"""Test the SwiGLU's kernel against its plain reference: outputs and gradients, odd shapes."""

import pytest
from kernels import DTYPES, check, normal

from hrm_offline.ops.swiglu import swiglu, swiglu_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [((1,), 256), ((3, 21), 40), ((901,), 16)])
def test_swiglu(dtype, rows, width):
    check(swiglu, swiglu_reference, [normal(*rows, 2 * width, dtype=dtype, scale=3)])
