# SPDX-License-Identifier: Apache-2.0
"""Who sees whom in a packed batch: the specification's masks, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels.shared_context_attention import SeqlenInfo, Tokens, seqlens
from kernels.shared_context_attention.seqlens import Tile


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


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def tiles_of(tiles: list[Tile]) -> list[tuple[int, int, int, int, str]]:
    return [(t.rows.start, t.rows.stop, t.keys.start, t.keys.stop, t.masked) for t in tiles]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": ints()}, r"cu_seqlens is torch.int32 \[0\], want"),
        ({"cu_seqlens": torch.zeros(2, 1).int()}, r"cu_seqlens is torch.int32 \[2, 1\], want"),
        ({"cu_seqlens": ints(0, *range(9), 3)}, r"starts \[0, 0, 1, 2, 3, 4, 5, 6\], want offsets"),
        ({"cu_candidates": torch.tensor([0, 1])}, "cu_candidates is torch.int64"),
        ({"cu_candidates": ints(1, 2)}, "cu_candidates starts"),
        ({"cu_queries": ints(0, 1, 2)}, r"cu_queries \[0, 1, 2\] does not fit cu_seqlens \[0, 4\]"),
        ({"cu_queries": ints(0, 5)}, "no more queries than tokens"),
        ({"cu_queries": ints(2, 3)}, "cu_queries starts"),
        ({"prefix": torch.zeros(4).long()}, r"prefix is torch.int64 \[4\], want torch.int32 \[4\]"),
        ({"prefix": ints(0, 0, 0)}, r"prefix is torch.int32 \[3\], want torch.int32 \[4\]"),
        (
            {"prefix": ints(1, 0, 0, 0)},
            "prefix of token 0 is 1, want 0 to 0: a token sees no",
        ),
        ({"cu_queries": ints(0, 1), "prefix": ints(3)}, "prefix of token 0 is 3, want 0 to 2"),
        ({"group": -1}, "group is -1, want at least 1"),
    ],
)
def test_each_mistake_is_refused_by_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeqlenInfo(**{"cu_seqlens": ints(0, 4), **change})


def test_the_limits_themselves_are_taken() -> None:
    info = SeqlenInfo(
        cu_seqlens=ints(0, 4, 4),
        cu_candidates=ints(0, 0, 3),
        cu_queries=ints(0, 4, 4),
        prefix=ints(0, 1, 2, 3),
        group=1,
    )
    assert (info.num_tokens, info.num_queries, info.num_candidates) == (4, 4, 3)
    nothing = SeqlenInfo(cu_seqlens=ints(0))
    assert (nothing.sequences, nothing.queries, nothing.requests) == ([], [], [])
    assert SeqlenInfo(cu_seqlens=ints(0, 2, 5)).requests == [slice(0, 0)] * 2


def test_where_the_queries_of_appended_tokens_stand() -> None:
    info = SeqlenInfo(cu_seqlens=ints(0, 7, 7, 12), cu_queries=ints(0, 3, 3, 4), group=3)
    assert info.position_Q.tolist() == [4, 5, 6, 4]
    assert info.position_Q.dtype == torch.int32
    assert info.own_Q.tolist() == [3, 3, 6, 3]
    assert info.prefix_Q.tolist() == [3, 3, 6, 3]
    assert info.queries == [slice(0, 3), slice(3, 3), slice(3, 4)]
    assert tiles_of(info.context_tiles) == [(0, 3, 0, 7, "prefix"), (3, 4, 7, 12, "prefix")]


def test_a_batch_is_cut_into_these_tiles() -> None:
    """Whole causal sequences are one tile each, also among those that see less; none is empty."""
    lengths = [3, 0, 400, 4]
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    prefix = torch.cat([torch.arange(n) // 2 * 2 for n in lengths]).int()
    plain = SeqlenInfo(cu_seqlens=cu, prefix=prefix, cu_candidates=ints(0, 2, 3, 3, 7))
    whole = [(0, 3, 0, 3, "causal"), (3, 403, 3, 403, "causal"), (403, 407, 403, 407, "causal")]
    assert tiles_of(plain.context_tiles) == whole
    assert tiles_of(plain.candidate_tiles) == [(0, 2, 0, 3, "none"), (3, 7, 403, 407, "none")]
    prefix[402] -= 1
    less = SeqlenInfo(cu_seqlens=cu, prefix=prefix)
    cut = [
        (3, 195, 3, 195, "prefix"),
        (195, 387, 3, 387, "prefix"),
        (387, 403, 3, 403, "prefix"),
    ]
    assert tiles_of(less.context_tiles) == [whole[0], *cut, whole[2]]
    assert less.candidate_tiles == []


def test_a_mask_shows_the_prefix_and_the_own_impression() -> None:
    info = SeqlenInfo(cu_seqlens=ints(0, 2, 7), prefix=ints(0, 0, 0, 0, 1, 1, 3), group=2)
    (first, second) = info.context_tiles
    assert info.mask(first, torch.float32) is None
    seen = info.mask(second, torch.float64)
    assert seen is not None
    assert seen.dtype == torch.float64
    assert (seen[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 1, 1, 0, 1],
    ]
    assert bool((seen[seen != 0] == -torch.inf).all())


def test_masks_are_kept_up_to_the_limit_by_tile_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (seqlens.TILE_ROWS, seqlens.MASK_BYTES) == (192, 268_435_456)
    monkeypatch.setattr(seqlens, "TILE_ROWS", 3)
    prefix = torch.zeros(5, dtype=torch.int32)
    size = 4 * (3 * 3 + 2 * 5)
    for limit, kept in ((size, True), (size - 1, False)):
        monkeypatch.setattr(seqlens, "MASK_BYTES", limit)
        info = SeqlenInfo(cu_seqlens=ints(0, 5), prefix=prefix)
        masks = [info.mask(t, d) for t in info.context_tiles for d in (torch.float32, torch.half)]
        again = [info.mask(t, d) for t in info.context_tiles for d in (torch.float32, torch.half)]
        assert [a is b for a, b in zip(masks, again, strict=True)] == [kept] * 4
        kinds = [(list(m.shape), m.dtype) for m in masks if m is not None]
        both = (torch.float32, torch.half)
        assert kinds == [([1, 1, 3, 3], d) for d in both] + [([1, 1, 2, 5], d) for d in both]


def test_tokens_that_are_there() -> None:
    q, k, v = torch.rand(3, 1, 1, 1)
    assert [x is y for x, y in zip(Tokens(q, k, v).present, (q, k, v), strict=True)] == [True] * 3
    assert [x is y for x, y in zip(Tokens(None, k, v).present, (k, v), strict=True)] == [True] * 2


def test_without_candidates_there_are_none() -> None:
    info = SeqlenInfo(cu_seqlens=torch.tensor([0, 4, 6], dtype=torch.int32))
    assert (info.num_tokens, info.num_queries, info.num_candidates) == (6, 6, 0)
    assert info.requests == [slice(0, 0), slice(0, 0)]
