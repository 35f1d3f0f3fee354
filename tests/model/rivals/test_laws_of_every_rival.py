# SPDX-License-Identifier: Apache-2.0
"""The laws that bind every ranker, on the rivals: isolation, one math, batch invariance, timing.

LiGR breaks candidate isolation by design: its tests are in test_ligr.py, and one math holds for a
request's whole set.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feature_repo.spec import Spec
from feature_repo.specs import SPECS
from model import RankerConfig
from model.batch import RankBatch, TrainBatch
from model.ranker import Ranker
from tests.builders import TINY, Pattern, make_rank_batch, make_train_batch, select_request
from tests.rival_builders import LIGR, LIRANK, RIVALS, join, noisy, request_of, requests_of

RANKERS = {config.ranker: noisy(config) for config in RIVALS}
ISOLATED = [name for name in RANKERS if name != LIGR.ranker]
WITH_HISTORY = [name for name in RANKERS if name != LIRANK.ranker]

names = pytest.mark.parametrize("name", RANKERS)
isolated = pytest.mark.parametrize("name", ISOLATED)
patterns = st.sampled_from(["causal", "day"])
seeds = st.integers(0, 2**16)


def rank(ranker: Ranker, batch: RankBatch) -> Tensor:
    with torch.inference_mode():
        return ranker.rank(batch)


def forward(ranker: Ranker, batch: TrainBatch) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        output = ranker(batch)
    return output.logits_RK, output.auxiliary_AK


def assert_close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.law
@isolated
@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 9), st.integers(2, 6), st.data())
def test_candidate_isolation(
    name: str, seed: int, length: int, count: int, data: st.DataObject
) -> None:
    batch = make_rank_batch(TINY, seed, [length], [count], "day")
    want = rank(RANKERS[name], batch)
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    assert_close(rank(RANKERS[name], select_request(batch, 0, chosen)), want[chosen])


@pytest.mark.law
@isolated
def test_a_changed_candidate_changes_only_itself(name: str) -> None:
    batch, other = (make_rank_batch(TINY, seed, [6], [4]) for seed in (1, 2))
    changed = {n: torch.cat([c[:1], other.candidates[n][1:]]) for n, c in batch.candidates.items()}
    context = torch.cat([batch.context_NC[:1], other.context_NC[1:]])
    mixed = dataclasses.replace(batch, candidates=changed, context_NC=context)
    want, got = rank(RANKERS[name], batch), rank(RANKERS[name], mixed)
    assert_close(got[:1], want[:1])
    assert not torch.isclose(got[1:], want[1:]).any()


@pytest.mark.law
@names
@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(st.integers(0, 9), min_size=1, max_size=4), patterns)
def test_one_math(name: str, seed: int, lengths: list[int], pattern: Pattern) -> None:
    batch = make_train_batch(TINY, seed, lengths, pattern)
    want, _ = forward(RANKERS[name], batch)
    sets = requests_of(batch) if name == LIGR.ranker else [[r] for r in range(len(want))]
    requests = [request_of(batch, targets) for targets in sets]
    for targets, request in zip(sets, requests, strict=True):
        assert_close(rank(RANKERS[name], request), want[targets])
    if requests:
        assert_close(rank(RANKERS[name], join(requests)), want[[r for s in sets for r in s]])


@pytest.mark.law
@names
@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=5))
def test_batch_invariance(name: str, seed: int, shapes: list[tuple[int, int]]) -> None:
    lengths, counts = [s[0] for s in shapes], [s[1] for s in shapes]
    batch = make_rank_batch(TINY, seed, lengths, counts, "day")
    want = rank(RANKERS[name], batch)
    assert want.shape == (sum(counts), len(TINY.tasks))
    for request, count in enumerate(counts):
        start = int(batch.cu_candidates[request])
        alone = rank(RANKERS[name], select_request(batch, request, range(count)))
        assert_close(alone, want[start : start + count])


def perturb(batch: TrainBatch, row: int) -> TrainBatch:
    """The same batch with another post and other actions at one impression."""
    imp = batch.impressions
    other = make_train_batch(TINY, 7**6, [imp.num_impressions]).impressions

    def mixed(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = slice(row, row + 1)
        return {n: torch.cat([c[:row], theirs[n][rows], c[row + 1 :]]) for n, c in mine.items()}

    features = mixed(imp.features, other.features)
    actions = mixed(imp.actions, other.actions)
    changed = dataclasses.replace(imp, features=features, actions=actions)
    return dataclasses.replace(batch, impressions=changed)


@pytest.mark.law
@names
@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 12), patterns, st.data())
def test_nothing_is_seen_before_it_is_known(
    name: str, seed: int, length: int, pattern: Pattern, data: st.DataObject
) -> None:
    batch = make_train_batch(TINY, seed, [length], pattern)
    j = data.draw(st.integers(0, length - 1))
    before, after = (forward(RANKERS[name], b) for b in (batch, perturb(batch, j)))
    known_M = batch.impressions.known_M
    for rows, want, got in zip((batch.target_R, batch.auxiliary_A), before, after, strict=True):
        blind = (known_M[rows] <= j) & (rows != j)
        if name == LIGR.ranker:  # the others of its request see the post, as a candidate
            blind &= known_M[rows] != known_M[j]
        assert torch.equal(got[blind], want[blind])


@pytest.mark.parametrize("name", WITH_HISTORY)
@pytest.mark.parametrize("part", ["features", "actions"])
def test_posts_and_actions_of_the_history_reach_scores(name: str, part: str) -> None:
    batch, other = (make_rank_batch(TINY, seed, [6], [2]) for seed in (7, 8))
    history = dataclasses.replace(batch.history, **{part: getattr(other.history, part)})
    changed = rank(RANKERS[name], dataclasses.replace(batch, history=history))
    assert not torch.isclose(changed, rank(RANKERS[name], batch)).any()


@pytest.mark.parametrize("name", WITH_HISTORY)
def test_a_candidate_never_sees_its_own_action(name: str) -> None:
    batch = make_train_batch(TINY, 5, [6])
    imp = batch.impressions
    flipped = {n: (1 - c.abs() if c.dtype == torch.int8 else c + 1) for n, c in imp.actions.items()}
    last = {n: torch.cat([c[:5], flipped[n][5:]]) for n, c in imp.actions.items()}
    changed = dataclasses.replace(batch, impressions=dataclasses.replace(imp, actions=last))
    for got, want in zip(*(forward(RANKERS[name], b) for b in (changed, batch)), strict=True):
        assert torch.equal(got, want)


@names
def test_offsets_are_for_the_first_positions_only(name: str) -> None:
    batch = make_rank_batch(TINY, 2, [3], [1])
    by_position = {
        p: rank(RANKERS[name], dataclasses.replace(batch, position_N=torch.tensor([p])))[0]
        for p in (-1, 0, 59, 60)
    }
    offsets = dict(RANKERS[name].named_parameters())["offsets.offset_PK"].detach()
    assert_close(by_position[0] - by_position[-1], offsets[0])
    assert_close(by_position[59] - by_position[-1], offsets[59])
    assert_close(by_position[60], by_position[-1])


@pytest.mark.law
@pytest.mark.parametrize("config", RIVALS, ids=lambda config: config.ranker)
@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_one_math_on_the_shipped_specs(spec: Spec, config: RankerConfig) -> None:
    ranker = noisy(type(config).model_validate({}), spec)
    batch = make_train_batch(spec, 3, [12, 0, 30], "day")
    imp = batch.impressions
    ranker.fit_statistics(batch.context_RC, {**imp.features, **imp.actions})
    want, _ = forward(ranker, batch)
    sets = requests_of(batch)
    got = rank(ranker, join([request_of(batch, targets) for targets in sets]))
    assert_close(got, want[[r for s in sets for r in s]])
