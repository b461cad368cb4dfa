"""Test the optimiser's kernel against its plain reference."""

import pytest
import torch
from kernels import difference, normal

from hrm_offline.ops.adam_atan2 import adam_atan2_
from hrm_offline.ops.dispatch import override

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def test_adam_atan2_updates_all_parameters_as_the_twin_does():
    sizes = [(5, 7), (1,), (4100,), (64, 33)]
    states = {mode: [[], [], []] for mode in ("triton", "reference")}
    for size in sizes:
        param = normal(*size, dtype=torch.float32)
        for params, m, v in states.values():
            params.append(param.clone())
            m.append(torch.zeros_like(param))
            v.append(torch.zeros_like(param))
    for step in range(1, 6):
        # Down to gradients whose square underflows.
        grads = [normal(*size, dtype=torch.float32, scale=10.0 ** (-6 * step)) for size in sizes]
        grads[0][0] = 0
        for mode, (params, m, v) in states.items():
            with override(mode):
                adam_atan2_(params, grads, m, v, step=step, lr=1e-2, beta1=0.9, beta2=0.95, weight_decay=0.1)
        for ours, expected in zip(states["triton"], states["reference"]):
            for a, b in zip(ours, expected):
                assert difference(a, b) < 1e-6
