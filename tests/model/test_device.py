"""Test which device and number format are chosen."""

import pytest
import torch

from hrm_offline.common.errors import InputError
from hrm_offline.model.device import choose_runtime, dtype_for_capability


def test_dtype_follows_the_compute_capability():
    assert dtype_for_capability((7, 5))[0] is torch.float16  # T4
    assert dtype_for_capability((8, 9))[0] is torch.bfloat16  # L4
    assert dtype_for_capability((9, 0))[0] is torch.bfloat16
    runtime = choose_runtime("cpu")
    assert runtime.dtype is torch.float32
    assert "cpu in float32" in str(runtime)
    assert choose_runtime("cpu", "bfloat16").dtype is torch.bfloat16
    for device, dtype in (("tpu", None), ("cpu", "int3")):
        with pytest.raises(InputError):
            choose_runtime(device, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no GPU"):
        choose_runtime("cuda")
