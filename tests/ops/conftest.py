"""Fixture for tests of kernels."""

import pytest
import torch


@pytest.fixture
def poisoned_memory():
    """Start the memory that PyTorch allocates as NaN, so that an element that a kernel leaves unwritten shows.

    Skips where Triton is not installed.
    """
    pytest.importorskip("triton")
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
