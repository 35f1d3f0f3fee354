# SPDX-License-Identifier: Apache-2.0
"""The plan of a batch: found again by its tensors, alive until the backward, the same made anew."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import (
    SeqlenInfo,
    Tokens,
    ops,
    reference,
    seqlens,
    shared_context_attention,
    shared_context_attention_lse,
)
from kernels.shared_context_attention.seqlens import candidates_plan, context_plan
from tests.kernels.shared_context_attention.cases import offsets

SCALE = 0.3
LENGTHS, COUNTS, QUERIES = [7, 0, 11, 4], [2, 1, 0, 3], [5, 0, 9, 1]
GROUP = 3


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The group of every plan that is made."""
    groups: list[int] = []
    check = SeqlenInfo.__post_init__

    def counted(info: SeqlenInfo) -> None:
        groups.append(info.group)
        check(info)

    monkeypatch.setattr(SeqlenInfo, "__post_init__", counted)
    return groups


def draw(count: int, seed: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, 2, 8, dtype=torch.float64, generator=g).requires_grad_() for _ in "qkv"
    ]


def prefix_of(queries: list[int]) -> Tensor:
    """One impression less than a query's own position would allow, where there is one."""
    positions = [i for n, last in zip(LENGTHS, queries, strict=True) for i in range(n - last, n)]
    return torch.tensor([max(i // GROUP - 1, 0) * GROUP for i in positions], dtype=torch.int32)


def batch(group: int = GROUP, *, prefix: bool = True, appended: bool = False) -> SeqlenInfo:
    """A batch whose every tensor is its own."""
    queries = QUERIES if appended else LENGTHS
    return SeqlenInfo(
        cu_seqlens=offsets(LENGTHS),
        cu_candidates=offsets(COUNTS),
        prefix=prefix_of(queries) if prefix else None,
        group=group,
        cu_queries=offsets(queries) if appended else None,
    )


def weighted(outs: list[Tensor]) -> Tensor:
    """A sum in which each element counts otherwise."""
    return sum(
        ((x * torch.arange(1, x.numel() + 1).view_as(x).cos()).sum() for x in outs),
        torch.zeros(()),
    )


def tokens(appended: bool) -> tuple[Tokens, Tokens, list[Tensor]]:
    q = draw(sum(QUERIES if appended else LENGTHS), 1)[0]
    _, k, v = draw(sum(LENGTHS), 2)
    own = draw(sum(COUNTS), 3)
    return Tokens(q, k, v), Tokens(*own), [q, k, v, *own]


def want(appended: bool, info: SeqlenInfo) -> tuple[Tensor, ...]:
    context, candidates, leaves = tokens(appended)
    outs = [x for x in reference(context, candidates, info, softmax_scale=SCALE) if x is not None]
    return torch.autograd.grad(weighted(outs), leaves)


every_batch = pytest.mark.parametrize(
    ("group", "prefix", "appended"),
    [(3, True, False), (3, True, True), (3, False, True), (2, False, False), (1, False, True)],
)


def info_for(group: int, prefix: bool, appended: bool) -> SeqlenInfo:
    return batch(group, prefix=prefix, appended=appended)


@every_batch
def test_gradients_do_not_ask_that_somebody_keeps_the_plan(
    group: int, prefix: bool, appended: bool, made: list[int]
) -> None:
    info = info_for(group, prefix, appended)
    context, candidates, leaves = tokens(appended)
    outs = shared_context_attention(
        context, candidates, info, softmax_scale=SCALE, implementation="portable"
    )
    gone = weakref.ref(info)
    del info
    gc.collect()
    got = torch.autograd.grad(weighted([x for x in outs if x is not None]), leaves)
    assert made == [group], "the backward takes the forward's plan"
    del outs
    gc.collect()
    assert gone() is None, "nothing keeps the plan beyond the backward"
    exact = want(appended, info_for(group, prefix, appended))
    for mine, other in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@every_batch
def test_a_plan_that_is_made_anew_is_the_same(
    group: int, prefix: bool, appended: bool, made: list[int]
) -> None:
    """The operators alone, given tensors of which nobody has made a plan."""
    info = info_for(group, prefix, appended)
    cu, cu_n, cu_q = info.cu_seqlens, info.cu_candidates, info.cu_queries
    own = info.prefix
    del info
    gc.collect()
    (context, candidates, leaves), count = tokens(appended), len(made)
    q, k, v = context.present
    out, _ = ops.context_attention(q, k, v, cu, cu_q, own, group, SCALE, "portable")
    assert cu_n is not None
    out_n, _ = ops.candidate_attention(*candidates.present, k, v, cu_n, cu, SCALE, "portable")
    got = torch.autograd.grad(weighted([out, out_n]), leaves)
    assert len(made) == count + 4, "one for each operator and each gradient: none was alive"
    exact = want(appended, info_for(group, prefix, appended))
    for mine, other in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


def test_log_sum_exps_take_the_forwards_plan_too(made: list[int]) -> None:
    info, (context, candidates, leaves) = batch(), tokens(False)
    pairs = shared_context_attention_lse(
        context, candidates, info, implementation="portable", softmax_scale=SCALE
    )
    del info
    gc.collect()
    torch.autograd.grad(weighted([x for pair in pairs if pair for x in pair]), leaves)
    assert made == [GROUP]


def test_layers_of_one_batch_share_its_plan(made: list[int]) -> None:
    info, (context, candidates, _) = batch(), tokens(False)
    total = torch.zeros(())
    for _ in range(3):
        outs = shared_context_attention(context, candidates, info, implementation="portable")
        total = total + weighted([x for x in outs if x is not None])
    tiles = info.context_tiles
    del info, outs
    gc.collect()
    total.backward()
    assert made == [GROUP]
    assert tiles


def test_a_plan_is_found_by_every_tensor_it_is_of() -> None:
    info = batch(appended=True)
    cu, cu_q, prefix, cu_n = info.cu_seqlens, info.cu_queries, info.prefix, info.cu_candidates
    assert cu_q is not None
    assert prefix is not None
    assert cu_n is not None
    assert context_plan(cu, cu_q, prefix, GROUP) is info
    assert candidates_plan(cu, cu_n) is info
    others = [
        context_plan(cu.clone(), cu_q, prefix, GROUP),
        context_plan(cu, cu_q.clone(), prefix, GROUP),
        context_plan(cu, cu_q, prefix.clone(), GROUP),
        context_plan(cu, cu_q, None, GROUP),
        context_plan(cu, None, None, GROUP),
        context_plan(cu, cu_q, None, 1),
        candidates_plan(cu.clone(), cu_n),
        candidates_plan(cu, cu_n.clone()),
    ]
    assert info not in others
    kinds = [(o.num_queries, o.prefix is not None, o.group, o.num_candidates) for o in others]
    queries, tokens_, candidates = sum(QUERIES), sum(LENGTHS), sum(COUNTS)
    assert kinds == [
        *[(queries, True, GROUP, 0)] * 3,
        (queries, False, GROUP, 0),
        (tokens_, False, GROUP, 0),
        (queries, False, 1, 0),
        *[(tokens_, False, 2, candidates)] * 2,
    ]


def test_a_dead_plan_is_not_found_by_what_takes_its_place() -> None:
    gc.collect()
    before = len(seqlens._live)
    info = batch()
    assert len(seqlens._live) == before + 2
    del info
    gc.collect()
    assert len(seqlens._live) == before


@pytest.mark.parametrize("asks", ["context", "candidates"])
def test_either_of_the_two_keeps_the_plan(asks: str, made: list[int]) -> None:
    info, (context, candidates, _) = batch(), tokens(False)
    if asks == "context":
        out, _ = shared_context_attention(context, None, info, implementation="portable")
    else:
        cached = Tokens(None, context.k, context.v)
        _, out = shared_context_attention(cached, candidates, info, implementation="portable")
    del info
    gc.collect()
    assert out is not None
    out.sum().backward()
    assert made == [GROUP]
