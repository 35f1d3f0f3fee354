# SPDX-License-Identifier: Apache-2.0
"""Feed-SR's laws on the real model: isolation, one math, batch invariance, nothing seen early."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feature_repo.spec import Spec
from feature_repo.specs import SPECS
from model import FeedSRConfig, HeadConfig, build_ranker
from model.batch import Impressions, RankBatch, TrainBatch
from model.feed_sr import FeedSR
from model.ranker import Ranker
from tests.builders import (
    TINY,
    Pattern,
    make_rank_batch,
    make_train_batch,
    offsets_of,
    select_impressions,
    select_request,
)
from tests.model.variants import joined

HEAD = HeadConfig(width=8, hidden=1, cross=1, rank=4)
SMALL = FeedSRConfig(width=8, layers=3, heads=2, mlp_ratio=2.0, head=HEAD)

patterns = st.sampled_from(["causal", "day"])
lengths_of = st.lists(st.integers(0, 9), min_size=1, max_size=4)
counts_of = st.integers(1, 6)
seeds = st.integers(0, 2**16)


def make_ranker(spec: Spec = TINY, config: FeedSRConfig = SMALL, seed: int = 1) -> FeedSR:
    """A float64 model whose every parameter matters: outputs start too small to differ."""
    ranker = build_ranker(config, spec, seed)
    assert isinstance(ranker, FeedSR)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ranker.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise)
    return ranker.double().eval()


RANKER = make_ranker()


def rank(batch: RankBatch, ranker: Ranker = RANKER) -> Tensor:
    with torch.inference_mode():
        return ranker.rank(batch)


def forward(batch: TrainBatch, ranker: Ranker = RANKER) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        output = ranker(batch)
    return output.logits_RK, output.auxiliary_AK


def assert_close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 9), st.integers(2, 6), patterns, st.data())
def test_candidate_isolation(
    seed: int, length: int, count: int, pattern: Pattern, data: st.DataObject
) -> None:
    batch = make_rank_batch(TINY, seed, [length], [count], pattern)
    want = rank(batch)
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    got = rank(select_request(batch, 0, chosen))
    assert_close(got, want[chosen])


@pytest.mark.law
@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(0, 9), st.integers(2, 6))
def test_a_changed_candidate_changes_only_itself(seed: int, length: int, count: int) -> None:
    batch = make_rank_batch(TINY, seed, [length], [count])
    other = make_rank_batch(TINY, seed + 1, [length], [count])
    changed = {n: torch.cat([c[:1], other.candidates[n][1:]]) for n, c in batch.candidates.items()}
    context = torch.cat([batch.context_NC[:1], other.context_NC[1:]])
    mixed = dataclasses.replace(batch, candidates=changed, context_NC=context)
    want, got = rank(batch), rank(mixed)
    assert_close(got[:1], want[:1])
    assert not torch.allclose(got[1:], want[1:])


def request_at(batch: TrainBatch, target: int) -> RankBatch:
    """The request that serving would have seen for one target of a training batch."""
    imp = batch.impressions
    row = int(batch.target_R[target])
    sequence = int(torch.searchsorted(imp.cu_seqlens[1:], row, right=True))
    start, known = int(imp.cu_seqlens[sequence]), int(imp.known_M[row])
    times = None if imp.time_M is None else imp.time_M[start : start + known]
    return RankBatch(
        history=dataclasses.replace(select_impressions(imp, sequence, known), time_M=times),
        candidates={n: c[row : row + 1] for n, c in imp.features.items()},
        context_NC=batch.context_RC[target : target + 1],
        cu_candidates=offsets_of([1]),
        position_N=batch.position_R[target : target + 1],
        time_N=None if imp.time_M is None else imp.time_M[row : row + 1],
    )


def join(requests: list[RankBatch]) -> RankBatch:
    """Several one-request batches as one."""

    def columns(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {n: torch.cat([p[n] for p in parts]) for n in parts[0]}

    histories = [r.history for r in requests]
    history = Impressions(
        features=columns([h.features for h in histories]),
        actions=columns([h.actions for h in histories]),
        known_M=torch.cat([h.known_M for h in histories]),
        cu_seqlens=offsets_of([h.num_impressions for h in histories]),
        time_M=joined([h.time_M for h in histories]),
    )
    return RankBatch(
        history=history,
        candidates=columns([r.candidates for r in requests]),
        context_NC=torch.cat([r.context_NC for r in requests]),
        cu_candidates=offsets_of([len(r.position_N) for r in requests]),
        position_N=torch.cat([r.position_N for r in requests]),
        time_N=joined([r.time_N for r in requests]),
    )


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(seeds, lengths_of, patterns)
def test_one_math(seed: int, lengths: list[int], pattern: Pattern) -> None:
    batch = make_train_batch(TINY, seed, lengths, pattern)
    want, _ = forward(batch)
    requests = [request_at(batch, r) for r in range(len(want))]
    for r, request in enumerate(requests):
        assert_close(rank(request), want[r : r + 1])
    if requests:
        assert_close(rank(join(requests)), want)


@pytest.mark.law
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_one_math_in_low_precision(dtype: torch.dtype, mlp: str) -> None:
    """`rank` and `forward` differ by at most twice what the dtype costs the forward."""
    ranker = make_ranker(config=SMALL.model_copy(update={"mlp": mlp, "layers": 2}))
    batch = make_train_batch(TINY, 3, [40, 25, 1], "day")
    exact, _ = forward(batch, ranker)
    requests = join([request_at(batch, r) for r in range(len(exact))])
    low = ranker.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        got, again = forward(batch, low)[0].double(), rank(requests, low).double()
    cost = (got - exact).abs().max()
    assert 0 < cost < (1e-4 if dtype == torch.float32 else 0.5)
    assert (got - again).abs().max() <= 2 * cost


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=5))
def test_batch_invariance(seed: int, shapes: list[tuple[int, int]]) -> None:
    lengths, counts = [s[0] for s in shapes], [s[1] for s in shapes]
    batch = make_rank_batch(TINY, seed, lengths, counts)
    want = rank(batch)
    for request, count in enumerate(counts):
        start = int(batch.cu_candidates[request])
        alone = rank(select_request(batch, request, range(count)))
        assert_close(alone, want[start : start + count])


def perturb(batch: TrainBatch, row: int, seed: int) -> TrainBatch:
    """The same batch with another post and other actions at one impression."""
    other = make_train_batch(TINY, seed, [batch.impressions.num_impressions]).impressions

    def mixed(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: torch.cat([c[:row], theirs[n][row : row + 1], c[row + 1 :]]) for n, c in mine.items()
        }

    imp = batch.impressions
    changed = dataclasses.replace(
        imp,
        features=mixed(imp.features, other.features),
        actions=mixed(imp.actions, other.actions),
    )
    return dataclasses.replace(batch, impressions=changed)


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 12), patterns, st.data())
def test_nothing_is_seen_before_it_is_known(
    seed: int, length: int, pattern: Pattern, data: st.DataObject
) -> None:
    batch = make_train_batch(TINY, seed, [length], pattern)
    j = data.draw(st.integers(0, length - 1))
    before, after = forward(batch), forward(perturb(batch, j, seed + 1))
    for rows, want, got in zip((batch.target_R, batch.auxiliary_A), before, after, strict=True):
        known = batch.impressions.known_M[rows]
        blind = (known <= j) & (rows != j)
        assert torch.equal(got[blind], want[blind])
        if (~blind).any():
            assert not torch.equal(got[~blind], want[~blind])


@pytest.mark.parametrize("pattern", ["causal", "day"])
def test_a_post_never_sees_its_own_action(pattern: Pattern) -> None:
    batch = make_train_batch(TINY, 5, [6], pattern)
    imp = batch.impressions
    flipped = {n: (1 - c.abs() if c.dtype == torch.int8 else c + 1) for n, c in imp.actions.items()}
    last = {n: torch.cat([c[:5], flipped[n][5:]]) for n, c in imp.actions.items()}
    changed = dataclasses.replace(batch, impressions=dataclasses.replace(imp, actions=last))
    assert torch.equal(forward(changed)[0], forward(batch)[0])


def test_actions_reach_later_scores() -> None:
    batch = make_rank_batch(TINY, 7, [6], [2])
    actions = dict(batch.history.actions)
    actions["click"] = 1 - actions["click"].abs()
    history = dataclasses.replace(batch.history, actions=actions)
    assert not torch.allclose(rank(dataclasses.replace(batch, history=history)), rank(batch))


def test_order_reaches_scores_by_position() -> None:
    """Without RoPE, swapping two impressions that see nothing would change no candidate's score."""
    batch = make_rank_batch(TINY, 7, [6], [2])
    moved = dataclasses.replace(batch.history, known_M=torch.zeros(6, dtype=torch.int32))
    assert not torch.allclose(rank(dataclasses.replace(batch, history=moved)), rank(batch))


def test_offsets_are_for_the_first_positions_only() -> None:
    batch = make_rank_batch(TINY, 2, [3], [4])
    positions = torch.tensor([-1, 0, 59, 60])
    same = {n: c[:1].expand(4, *c.shape[1:]) for n, c in batch.candidates.items()}
    context = batch.context_NC[:1].expand(4, -1)
    batch = dataclasses.replace(batch, candidates=same, context_NC=context, position_N=positions)
    logits = rank(batch)
    offsets = RANKER.offsets.offset_PK
    assert_close(logits[1] - logits[0], offsets[0].detach())
    assert_close(logits[2] - logits[0], offsets[59].detach())
    assert_close(logits[3], logits[0])


@pytest.mark.parametrize("head", ["linear", "mlp", "stacked_dcn", "parallel_dcn", "mmoe"])
def test_a_new_model_predicts_the_priors(head: str) -> None:
    config = SMALL.model_copy(update={"head": HEAD.model_copy(update={"name": head})})
    batch = make_rank_batch(TINY, 2, [5], [50])
    ranker = build_ranker(config, TINY).eval()
    ranker.fit_statistics(batch.context_NC, {**batch.history.features, **batch.history.actions})
    logits = rank(batch, ranker)
    prior = torch.tensor([t.prior for t in TINY.tasks])
    assert torch.allclose(logits.sigmoid().mean(0), prior, rtol=0.25)


@pytest.mark.law
@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_one_math_on_the_shipped_specs(spec: Spec) -> None:
    ranker = build_ranker(FeedSRConfig(), spec).double().eval()
    batch = make_train_batch(spec, 3, [12, 0, 30], "day")
    imp = batch.impressions
    ranker.fit_statistics(batch.context_RC, {**imp.features, **imp.actions})
    want, _ = forward(batch, ranker)
    got = rank(join([request_at(batch, r) for r in range(len(want))]), ranker)
    assert_close(got, want)
