# SPDX-License-Identifier: Apache-2.0
"""Where Triton's kernels run: on a GPU, or interpreted on the CPU where there is none.

It imports nothing that imports Triton: pytest reads it before Triton is told to interpret.
"""

from __future__ import annotations

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
ON_CPU = pytest.mark.skipif(HAS_GPU, reason="runs on the GPU; covered there")
ON_GPU = pytest.mark.skipif(
    not HAS_GPU,
    reason="needs a GPU; covered by the interpreter, and by the compiler for sm_80 and sm_90",
)


@pytest.fixture(
    params=[
        pytest.param("cpu", marks=ON_CPU),
        pytest.param("cuda", marks=[pytest.mark.gpu, ON_GPU]),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    """The device of the tensors."""
    return request.param
