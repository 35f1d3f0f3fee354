# SPDX-License-Identifier: Apache-2.0
"""Who sees whom in a packed batch: the specification's masks, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kernels.shared_context_attention import SeqlenInfo
from kernels.shared_context_attention.reference import candidate_mask, context_mask


def test_reference_masks_say_what_the_readme_says() -> None:
    info = SeqlenInfo(
        cu_seqlens=torch.tensor([0, 6]).int(), prefix=torch.tensor([0, 0, 0, 0, 2, 2]).int()
    )
    seen = context_mask(info, 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert candidate_mask(2, 2, torch.device("cpu")).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 4])}, "cu_seqlens is torch.int64"),
        ({"cu_seqlens": torch.tensor([1, 4]).int()}, "start at 0 and never fall"),
        ({"cu_seqlens": torch.tensor([0, 4, 2]).int()}, "start at 0 and never fall"),
        ({"cu_candidates": torch.tensor([0, 1, 2]).int()}, "cu_candidates has 3 offsets"),
        ({"prefix": torch.zeros(3).int()}, r"want torch.int32 \[4\]"),
        ({"prefix": torch.tensor([0, 0, 2, 3]).int()}, "prefix of token 3 is 3, want 0 to 2"),
        ({"prefix": torch.tensor([0, -1, 0, 0]).int()}, "prefix of token 1 is -1"),
        ({"group": 0}, "group is 0"),
    ],
)
def test_seqlens_that_describe_no_batch_are_refused(change, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        SeqlenInfo(**{"cu_seqlens": torch.tensor([0, 4]).int(), **change})
