"""Test which implementation serves which operation, which arguments are refused, and how an operation's file looks."""

import ast
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from kernels import DEVICE, needs_triton
from places import PACKAGE, REPOSITORY

from hrm_offline.common.errors import InputError
from hrm_offline.ops import dispatch
from hrm_offline.ops.adam_atan2 import adam_atan2_
from hrm_offline.ops.add_rms_norm import add_rms_norm
from hrm_offline.ops.attention import attention
from hrm_offline.ops.cached_attention import cached_attention
from hrm_offline.ops.causal_attention import causal_attention
from hrm_offline.ops.embedding import embedding
from hrm_offline.ops.linear_rms_norm import linear_rms_norm
from hrm_offline.ops.linear_swiglu import linear_swiglu
from hrm_offline.ops.rms_norm import rms_norm
from hrm_offline.ops.sign_sgd import sign_sgd_
from hrm_offline.ops.stablemax_cross_entropy import stablemax_cross_entropy


@pytest.mark.parametrize("op", dispatch.RULES)
def test_an_operation_has_one_name_and_its_file_one_order(op):
    text = (PACKAGE / "ops" / f"{op}.py").read_text()
    order = ["public function", "plain PyTorch twin", "autograd function", "launchers", "kernels"]
    sections = re.findall(r"^# --- (.*) ---$", text, re.MULTILINE)
    assert sections == [name for name in order if name in sections]
    assert {"public function", "plain PyTorch twin", "launchers", "kernels"} <= set(sections)

    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    public = [f.name for f in functions if not f.name.startswith("_") and not f.decorator_list]
    assert public in ([op, f"{op}_reference"], [f"{op}_", f"{op}_reference_"])
    kernels = [f.name for f in functions if f.name.endswith("_kernel")]
    assert kernels
    assert all(name.startswith(f"_{op}_") for name in kernels)
    launchers = [f.name for f in functions if any("launcher" in ast.unparse(d) for d in f.decorator_list)]
    assert launchers
    assert all(name.startswith(f"{op}_") for name in launchers)
    assert (REPOSITORY / "tests" / "ops" / f"test_{op}.py").exists()


def test_what_serves_on_each_chip():
    def served(capability: int, half: torch.dtype) -> set[str]:
        return {op for op in dispatch.RULES if dispatch.decide_for(op, capability, dispatch.dtype_of(op, half)).triton}

    assert served(89, torch.bfloat16) == set(dispatch.RULES)
    matrix = {"attention", "causal_attention", "cached_attention", "linear_rms_norm", "linear_swiglu"}
    assert served(75, torch.float16) == set(dispatch.RULES) - matrix
    assert not dispatch.decide_for("adam_atan2", 90, torch.bfloat16).triton
    assert "7.5 is below 8.0" in dispatch.decide_for("attention", 75, torch.float16).reason
    assert "float32" in dispatch.decide_for("attention", 90, torch.float32).reason
    assert dispatch.decide_for("rms_norm", 90, torch.float32).triton
    assert "no bfloat16" in dispatch.decide_for("rms_norm", 75, torch.bfloat16).reason


def test_a_cpu_takes_plain_pytorch_unless_told_otherwise():
    cpu = torch.device("cpu")
    assert not dispatch.decide("rms_norm", cpu, torch.float32).triton
    assert dispatch.summary(cpu, torch.float32).startswith("PyTorch for attention, ")
    with dispatch.override("reference"):
        assert dispatch.decide("rms_norm", cpu, torch.float32).reason == "HRM_OFFLINE_OPS=reference"


@needs_triton
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: rms_norm(torch.ones(2, 8, device=DEVICE, dtype=torch.float64), 1e-5), "float64"),
        (lambda: attention(torch.ones(1, 4, 3 * 24, device=DEVICE), 1), "head dimension 24"),
        (
            lambda: adam_atan2_(
                *[[torch.ones(3, 2, device=DEVICE).T] for _ in range(4)],
                step=1,
                lr=0.1,
                beta1=0.9,
                beta2=0.9,
                weight_decay=0,
            ),
            "contiguous",
        ),
        (
            lambda: linear_rms_norm(
                *(torch.ones(2, 1024, device=DEVICE), torch.ones(1024, 1024, device=DEVICE)),
                torch.ones(2, 1024, device=DEVICE),
                1e-5,
            ),
            "1024 are wider than 512",
        ),
    ],
)
def test_what_a_demanded_kernel_cannot_do_is_an_error(call, word):
    with dispatch.override("triton"), pytest.raises(InputError, match=word):
        call()
    call()  # and is served by PyTorch where none is demanded


ONES, HALF, INDEX = torch.ones, torch.ones(2, 8, dtype=torch.float16), torch.zeros(2, dtype=torch.int64)
CACHE = torch.zeros(2, 1, 4, 8)
BOUNDS = torch.tensor([0, 4], dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: attention(ONES(1, 4, 50), 2), "50 columns"),
        (lambda: attention(ONES(1, 4, 96), 2, ONES(4, 8)), "cos_sin has shape"),
        (lambda: attention(ONES(1, 4, 96), 2, None, ONES(1)), "lengths"),
        (lambda: attention(ONES(1, 4, 96), 2, None, ONES(2, dtype=torch.int32)), "lengths"),
        (lambda: causal_attention(ONES(4, 50), 2, None, BOUNDS, 4), "50 columns"),
        (lambda: causal_attention(ONES(4, 96), 2, ONES(4, 8), BOUNDS, 4), "cos_sin has shape"),
        (lambda: causal_attention(ONES(4, 96), 2, None, BOUNDS.long(), 4), "bounds are torch.int64"),
        (lambda: causal_attention(ONES(4, 96), 2, None, BOUNDS, 3), "cannot hold 4 tokens"),
        (lambda: cached_attention(ONES(2, 24), 1, ONES(2, 8), CACHE, CACHE, INDEX[:1]), r"lengths int64 \[1\]"),
        (lambda: cached_attention(ONES(2, 24), 1, ONES(2, 8), CACHE.half(), CACHE, INDEX), "keys float16"),
        (lambda: cached_attention(ONES(2, 24), 2, ONES(2, 8), CACHE, CACHE, INDEX), "with 2 heads"),
        (lambda: rms_norm(ONES(2, 8), 1e-5, HALF), "residual float16"),
        (lambda: rms_norm(ONES(2, 8), 1e-5, ONES(8)), r"residual float32 \[8\]"),
        (lambda: add_rms_norm(HALF, ONES(2, 8), ONES(8), 1e-5), "delta float32"),
        (lambda: add_rms_norm(HALF, None, HALF[0], 1e-5), r"weight float16 \[8\]"),
        (lambda: linear_swiglu(HALF, ONES(6, 8)), "x float16"),
        (lambda: linear_swiglu(ONES(2, 8), ONES(6, 4)), r"weight float32 \[6, 4\]"),
        (lambda: linear_rms_norm(ONES(2, 8), ONES(4, 8), HALF, 1e-5), "linear_rms_norm"),
        (lambda: linear_rms_norm(ONES(2, 8), ONES(4, 8), ONES(1, 4), 1e-5), "linear_rms_norm"),
        (lambda: stablemax_cross_entropy(ONES(2, 12), INDEX[:1]), "stablemax_cross_entropy"),
        (lambda: embedding(INDEX[None], ONES(12, 8), ONES(2, 8), 1, None, 1.0, torch.float32), "1 puzzle tokens"),
        (lambda: embedding(INDEX[None], ONES(12, 8), ONES(1, 9), 1, None, 1.0, torch.float32), "1 puzzle tokens"),
        (lambda: embedding(INDEX[None], ONES(12, 8), None, 0, ONES(3, 8), 1.0, torch.float32), "positions"),
        (lambda: sign_sgd_(ONES(9, 8), INDEX, ONES(1, 8), lr=1, weight_decay=0), "sign_sgd"),
        (
            lambda: adam_atan2_(
                [ONES(3)], [ONES(2)], [ONES(3)], [ONES(3)], step=1, lr=1, beta1=0, beta2=0, weight_decay=0
            ),
            r"grad float32 \[2\]",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_the_environment_variable_is_checked_and_the_package_works_without_triton():
    code = textwrap.dedent(
        """
        import os, sys
        sys.modules["triton"] = None
        import torch
        from hrm_offline import build_model
        from hrm_offline.common.errors import InputError
        from hrm_offline.ops import dispatch

        def use():
            summary = dispatch.summary(torch.device("cpu"), torch.float32)
            model, tokens = build_model("hrm-132k"), torch.zeros(1, 9, dtype=torch.int32)
            ids = torch.zeros(1, 2, dtype=torch.long)
            model(*model.initial_states(1, (3, 3)), tokens, model.puzzle_vectors(ids), (3, 3))
            print(summary)

        use()
        for mode in ("fast", "triton"):
            os.environ["HRM_OFFLINE_OPS"] = mode
            dispatch._mode_of_environment.cache_clear()
            try:
                use()
            except InputError as error:
                print(error)
        """
    )
    environment = os.environ | {"HRM_OFFLINE_OPS": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    without, fast, triton = ended.stdout.splitlines()
    assert "Triton is not installed" in without
    assert "expected one of auto, reference, triton" in fast
    assert "HRM_OFFLINE_OPS=triton: attention: Triton is not installed" in triton
