# SPDX-License-Identifier: Apache-2.0
"""Which tensors the Triton kernels are for, and what is said of the others."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from kernels.shared_context_attention import Tokens, dispatch, gpu, shared_context_attention
from tests.kernels.shared_context_attention.gpu.cases import HAS_GPU, NEEDS_GPU, make

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")


def test_info_elsewhere_is_refused() -> None:
    context, _, info = make([4], [1])
    elsewhere = Tokens(*(x.to("meta") for x in context.present))
    with pytest.raises(ValueError, match="SeqlenInfo is on cpu"):
        shared_context_attention(elsewhere, None, info, implementation="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason=NEEDS_GPU)
def test_is_chosen_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    dispatch._choose.cache_clear()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        assert dispatch.choose("cuda", torch.bfloat16, 64) == "triton"
        assert dispatch.choose("cuda", torch.bfloat16, 40) == "plain"
    assert "triton for torch.bfloat16 with head_dim 64 on cuda (Triton 3" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "reason"),
    [
        (torch.float32, 64, (9, 0), "Triton 3"),
        (torch.float64, 64, (9, 0), "for float32, bfloat16 or float16"),
        (torch.float32, 40, (9, 0), "a head_dim of 32, 64, 128"),
        (torch.float32, 64, (7, 5), "compute capability 7.5"),
    ],
)
def test_what_it_is_for(  # type: ignore[no-untyped-def]
    dtype, head_dim, capability, reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    usable, why = gpu.available("cuda", dtype, head_dim)
    assert reason in why
    assert usable == why.startswith("Triton 3")
    assert not gpu.available("cpu", dtype, head_dim)[0]
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert not gpu.available("cuda", dtype, head_dim)[0]


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from kernels.shared_context_attention import dispatch, gpu
print(dispatch.choose("cpu", torch.float32, 8), dispatch.choose("xpu", torch.float32, 64))
torch.version.cuda, torch.cuda.get_device_capability = "13.0", lambda: (9, 0)
print(dispatch.choose("cuda", torch.float32, 64), *gpu.available("cuda", torch.float32, 64))
"""


def test_without_triton() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == "portable plain"
    assert second.startswith("plain False Triton cannot be imported (")
