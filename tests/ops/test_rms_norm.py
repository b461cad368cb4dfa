"""Test the RMS norm's kernel against its plain reference: outputs and gradients, odd shapes."""

import pytest
from kernels import DTYPES, check, normal

from hrm_offline.ops.rms_norm import rms_norm, rms_norm_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [((1,), 64), ((3, 21), 96), ((901,), 64), ((5,), 512)])
def test_rms_norm(dtype, rows, width):
    x, residual = normal(*rows, width, dtype=dtype), normal(*rows, width, dtype=dtype, scale=3)
    check(lambda x, r: rms_norm(x, 1e-5, r), lambda x, r: rms_norm_reference(x, 1e-5, r), [x, residual])
    check(lambda x: rms_norm(x, 1e-5), lambda x: rms_norm_reference(x, 1e-5), [x])
