# SPDX-License-Identifier: Apache-2.0
"""The split that is portable: on flash attention where there is one, else in public operators."""

from __future__ import annotations

import pytest
import torch

from kernels.shared_context_attention import flash, ops, plain, reference
from kernels.shared_context_attention.portable import portable
from tests.kernels.shared_context_attention.cases import RAGGED, biggest_error, make_case


@pytest.mark.parametrize("prefix", ["none", "random"])
def test_it_is_the_specification(prefix: str) -> None:
    case = make_case(*RAGGED, prefix=prefix)
    assert max(biggest_error(case.run(portable), case.run(reference))) < 1e-12
    exact = case.gradients(reference)
    assert max(biggest_error(case.gradients(portable), exact)) < 1e-11


@pytest.mark.parametrize("present", [True, False], ids=["flash", "no flash"])
def test_who_computes_follows_from_the_flash_operator(
    present: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for module, name in ((ops, "split"), (plain, "public")):
        attend = module.attend

        def noted(*inputs, name=name, attend=attend):  # type: ignore[no-untyped-def]
            called.append(name)
            return attend(*inputs)

        monkeypatch.setattr(module, "attend", noted)
    monkeypatch.setattr(flash, "available", lambda device, dtype: present)
    make_case([3], [1]).to(torch.float32).run(portable)
    assert called == ["split" if present else "public"]
