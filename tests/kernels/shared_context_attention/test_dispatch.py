# SPDX-License-Identifier: Apache-2.0
"""Who computes is chosen by device, dtype and width of a head, and is said once for each kind."""

from __future__ import annotations

import logging

import pytest
import torch

from kernels.shared_context_attention import dispatch, gpu, native
from tests.kernels.shared_context_attention.cases import make_case


def test_says_once_who_computes(caplog: pytest.LogCaptureFixture) -> None:
    dispatch._choose.cache_clear()
    case = make_case([3], [1])
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        case.run()
        case.run()
    (record,) = caplog.records
    assert record.message.startswith(
        "shared_context_attention: portable for torch.float64 with head_dim 8 on cpu ("
    )


@pytest.mark.parametrize(
    ("device", "usable", "chosen"),
    [
        ("cpu", True, "native"),
        ("cpu", False, "portable"),
        ("cuda", True, "triton"),
        ("cuda", False, "plain"),
        ("xpu", False, "plain"),
    ],
)
def test_the_fastest_that_can_compute_is_chosen(
    device: str, usable: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel in (native, gpu):
        monkeypatch.setattr(kernel, "available", lambda *kind: (usable, "as the test says"))
    assert dispatch._choose.__wrapped__(device, torch.float32, 64) == chosen
