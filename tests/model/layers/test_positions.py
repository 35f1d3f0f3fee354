# SPDX-License-Identifier: Apache-2.0
"""Where tokens sit: by index, by time, by a table, or nowhere; and where the times come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.training.data import evaluation_batches, window_limit
from feature_repo.specs import SIMULATOR
from model import build_ranker
from model.batch import RankBatch
from model.layers.positions import (
    LearnedPositions,
    Positions,
    Sites,
    candidate_sites,
    context_sites,
    make_positions,
)
from model.layers.rope import LONGEST_MS, SHORTEST_MS, Rotation, unrotated
from serving.predictor.rank_batch import build_rank_batch
from serving.predictor.scorer import Scorer, ScorerConfig
from tests.builders import TINY
from tests.model.test_feed_sr import assert_close, forward, make_ranker, patterns, rank, seeds
from tests.model.variants import (
    VARIANTS,
    timed_rank_batch,
    timed_train_batch,
    variant,
)
from tests.serving_builders import NOW_MS, rank_request
from tests.shard_builders import write_shards

TIMED = make_ranker(TINY, variant("time_rope"))


def shifted(batch: RankBatch, by_ms: int) -> RankBatch:
    assert batch.history.time_M is not None
    assert batch.time_N is not None
    history = dataclasses.replace(batch.history, time_M=batch.history.time_M + by_ms)
    return dataclasses.replace(batch, history=history, time_N=batch.time_N + by_ms)


def turned(x: Tensor, time_ms: int) -> Tensor:
    return Rotation.at_times(torch.tensor([time_ms]), 8, torch.float64)(x[None, None])[0, 0]


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 9), patterns, st.integers(-(10**12), 10**13))
def test_only_elapsed_times_matter(seed: int, length: int, pattern: str, by_ms: int) -> None:
    batch = timed_rank_batch(seed, [length, 3], [3, 2], pattern)  # type: ignore[arg-type]
    assert_close(rank(shifted(batch, by_ms), TIMED), rank(batch, TIMED))


@pytest.mark.law
@given(st.integers(-(10**14), 10**14), st.integers(0, 2 * LONGEST_MS))
def test_a_turn_by_time_is_exact_at_any_distance_from_the_epoch(start: int, elapsed: int) -> None:
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = turned(q, elapsed) @ turned(k, 0)
    torch.testing.assert_close(
        turned(q, start + elapsed) @ turned(k, start), want, rtol=0, atol=1e-12
    )


def test_periods_reach_from_a_second_to_a_year() -> None:
    assert (SHORTEST_MS, LONGEST_MS) == (1_000, 31_536_000_000)
    x = torch.ones(8, dtype=torch.float64)
    same = [torch.isclose(turned(x, t), x).view(2, 4).all(0) for t in (SHORTEST_MS, LONGEST_MS)]
    assert bool(same[0][0])
    assert bool(same[1][3])
    half = turned(x, LONGEST_MS // 2).view(2, 4)[:, 3]
    torch.testing.assert_close(half, -torch.ones(2, dtype=torch.float64))
    assert torch.allclose(turned(x, 10)[3], x[3], atol=1e-5)


def test_times_reach_the_scores() -> None:
    batch = timed_rank_batch(2, [6], [3])
    assert batch.time_N is not None
    later = dataclasses.replace(batch, time_N=batch.time_N + 86_400_000)
    assert not torch.allclose(rank(later, TIMED), rank(batch, TIMED))
    assert batch.history.time_M is not None
    time_M = batch.history.time_M.clone()
    time_M[2] += 5_123
    moved = dataclasses.replace(batch, history=dataclasses.replace(batch.history, time_M=time_M))
    assert not torch.allclose(rank(moved, TIMED), rank(batch, TIMED))


def test_a_batch_without_times_is_refused_where_they_are_wanted() -> None:
    batch = timed_rank_batch(2, [6], [3])
    untold = dataclasses.replace(batch.history, time_M=None)
    for lacking in (
        dataclasses.replace(batch, time_N=None),
        dataclasses.replace(batch, history=untold),
    ):
        with pytest.raises(ValueError, match="want the time of every impression and request"):
            rank(lacking, TIMED)
    train = timed_train_batch(2, [6])
    with pytest.raises(ValueError, match="time_M"):
        forward(dataclasses.replace(train, impressions=untold), TIMED)


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.get("positions") is None])
def test_other_parts_ask_for_no_times(name: str) -> None:
    batch, ranker = timed_rank_batch(2, [6], [3]), make_ranker(TINY, variant(name))
    untold = dataclasses.replace(batch.history, time_M=None)
    assert torch.equal(
        rank(dataclasses.replace(batch, history=untold, time_N=None), ranker), rank(batch, ranker)
    )


@pytest.mark.parametrize("name", ["none", "learned"])
def test_order_reaches_one_layer_by_positions_alone(name: str) -> None:
    """In one layer a candidate sees keys that know no neighbours: only positions tell the order."""
    config = variant(name).model_copy(update={"layers": 1})
    ranker, batch = make_ranker(TINY, config), timed_rank_batch(2, [6], [3])
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    history = dataclasses.replace(
        batch.history,
        features={n: c[order] for n, c in batch.history.features.items()},
        actions={n: c[order] for n, c in batch.history.actions.items()},
    )
    moved = rank(dataclasses.replace(batch, history=history), ranker)
    assert torch.allclose(moved, rank(batch, ranker)) == (name == "none")


def test_no_positions_turn_nothing() -> None:
    sites = Sites(torch.arange(3), None)
    x = torch.randn(3, 4)
    assert Positions().add_to(x, sites) is x
    assert Positions().rotation(sites, torch.float32) is unrotated


def test_positions_beyond_the_table_share_its_last_row() -> None:
    positions = LearnedPositions(4, 3)
    added = positions.add_to(torch.zeros(6, 3), Sites(torch.tensor([0, 1, 2, 3, 4, 900]), None))
    rows = positions.table.weight[[0, 1, 2, 3, 3, 3]]
    assert torch.equal(added, rows)


def test_the_table_holds_a_training_sequence() -> None:
    """Two windows, two tokens an impression."""
    positions = make_positions(variant("learned"), SIMULATOR)
    assert isinstance(positions, LearnedPositions)
    assert positions.table.num_embeddings == 2 * window_limit(SIMULATOR)


def test_serving_fills_the_times() -> None:
    requests = [rank_request(SIMULATOR, rows, n, rows) for rows, n in ((7, 2), (0, 3), (4, 1))]
    requests[1] = dataclasses.replace(requests[1], time_ms=NOW_MS + 5)
    batch = build_rank_batch(SIMULATOR, "immediate", requests, [2, 0, 0])
    events = [r.history.batch.column("event_time").to_numpy() for r in requests]
    assert batch.history.time_M is not None
    assert batch.history.time_M.tolist() == [*events[0][2:], *events[2]]
    assert batch.history.time_M.dtype == torch.int64
    assert batch.time_N is not None
    assert batch.time_N.tolist() == [NOW_MS] * 2 + [NOW_MS + 5] * 3 + [NOW_MS]
    assert batch.to("cpu").time_N is not None


def test_training_fills_the_times(tmp_path: Path) -> None:
    write_shards(tmp_path, SIMULATOR, [5, 30, 1])
    for batch, packed in evaluation_batches(tmp_path, SIMULATOR):
        assert batch.impressions.time_M is not None
        assert torch.equal(batch.impressions.time_M, torch.from_numpy(packed.columns["event_time"]))
        assert batch.impressions.time_M.unique().numel() > 1
        assert batch.to("cpu").impressions.time_M is not None


@pytest.mark.law
@pytest.mark.parametrize(
    "name", ["time_rope", "learned", "silu", "hstu", "hstu published", "cadet"]
)
def test_law_5_a_scorer_remembers_histories_of_every_part(name: str) -> None:
    """Through the history cache: cold, hit, and asked again at a later time."""
    model = build_ranker(variant(name), SIMULATOR).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    remembering = Scorer(model, "day", ScorerConfig(history_cache_bytes=2**20))
    forgetting = Scorer(model, "day", ScorerConfig())
    request = rank_request(SIMULATOR, 40, 5, 3)
    later = dataclasses.replace(request, time_ms=NOW_MS + 3 * 86_400_000)
    for asked in (request, request, later, later):
        (got,), (want,) = remembering([asked]), forgetting([asked])
        np.testing.assert_allclose(got, want, rtol=1e-6)
    (early,), (other,) = forgetting([request]), forgetting([later])
    assert not np.allclose(early, other)


def test_a_new_table_says_next_to_nothing() -> None:
    torch.manual_seed(0)
    weight = LearnedPositions(2000, 50).table.weight.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(weight.mean())) < 0.001


def test_sites_are_those_of_what_was_known() -> None:
    """A post at twice what it knew, its action one further; a candidate after the whole history."""
    batch = timed_rank_batch(1, [4, 0, 1], [2, 1, 0])
    known = torch.tensor([0, 1, 1, 3, 0], dtype=torch.int32)
    history = dataclasses.replace(batch.history, known_M=known, time_M=torch.arange(5) * 7)
    sites = context_sites(history)
    assert sites.position_T.tolist() == [0, 1, 2, 3, 2, 3, 6, 7, 0, 1]
    assert sites.time_T is not None
    assert sites.time_T.tolist() == [0, 0, 7, 7, 14, 14, 21, 21, 28, 28]
    assert known.tolist() == [0, 1, 1, 3, 0]
    sites_N = candidate_sites(batch, torch.tensor([8, 0, 2], dtype=torch.int32))
    assert sites_N.position_T.tolist() == [8, 8, 0]
    assert sites_N.time_T is batch.time_N
    assert context_sites(dataclasses.replace(history, time_M=None)).time_T is None
