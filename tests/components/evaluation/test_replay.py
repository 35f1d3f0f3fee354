# SPDX-License-Identifier: Apache-2.0
"""The offline path by itself: one request scored as serving scores and as training does.

That the offline inputs are serving's, feature by feature, is the parity step's test.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.evaluation.replay import (
    Offline,
    Replayed,
    forward_probabilities,
    rank_probabilities,
    training_batch,
)
from components.features.history_columns import encode_histories
from components.features.window_files import WindowFiles
from components.log.columns import column
from components.log.impressions import ImpressionLog, history_order, read_posts, with_content
from feature_repo.spec import FRESHNESS, Freshness
from feature_repo.specs import KUAIRAND, SIMULATOR
from model.feed_sr import FeedSR
from serving.predictor.rank_batch import SERVING_POSITION, build_rank_batch
from serving.wire import RankRequest
from tests.run_builders import logged_request
from tests.serving_builders import (
    NOW_MS,
    SmallRun,
    candidates,
    history_value,
    noisy_ranker,
    rank_request,
)

BOTH = pytest.mark.parametrize("spec", [SIMULATOR, KUAIRAND], ids=lambda s: s.name)


@pytest.fixture(scope="module")
def ranker() -> FeedSR:
    return noisy_ranker(SIMULATOR)


@pytest.mark.law
@pytest.mark.parametrize("freshness", FRESHNESS)
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_ranking_and_the_training_forward_give_one_probability(
    ranker: FeedSR, freshness: Freshness, rows: int
) -> None:
    request = rank_request(SIMULATOR, rows, 5, seed=3)
    ranked_NK = rank_probabilities(ranker, freshness, request)
    assert ranked_NK.shape == (5, len(SIMULATOR.tasks))
    assert len(np.unique(ranked_NK.round(6), axis=0)) == 5, "candidates are told apart"
    trained_NK = forward_probabilities(ranker, freshness, request, [0, 3])
    np.testing.assert_allclose(trained_NK, ranked_NK[[0, 3]], atol=1e-6)


def test_a_probability_depends_on_the_history_and_on_the_context(ranker: FeedSR) -> None:
    request = rank_request(SIMULATOR, 37, 2, seed=3)
    new = RankRequest(
        history=rank_request(SIMULATOR, 0, 2, seed=3).history,
        features=request.features,
        context_NC=request.context_NC,
        time_ms=request.time_ms,
    )
    mine = rank_probabilities(ranker, "day", request)
    assert np.abs(mine - rank_probabilities(ranker, "day", new)).max() > 1e-4
    request.context_NC[:] = np.nan
    assert np.abs(mine - rank_probabilities(ranker, "day", request)).max() > 1e-4


@BOTH
def test_each_candidate_is_the_last_impression_of_a_sequence_of_its_own(spec) -> None:  # type: ignore[no-untyped-def]
    rows, chosen = 9, [2, 0]
    request = rank_request(spec, rows, 4, seed=1)
    batch = build_rank_batch(spec, "immediate", [request])
    known = batch.history.num_impressions
    train = training_batch(spec, batch, chosen)
    impressions = train.impressions
    assert impressions.cu_seqlens.tolist() == [0, known + 1, 2 * (known + 1)]
    assert train.target_R.tolist() == [known, 2 * known + 1]
    for name, values in impressions.features.items():
        mine = values.reshape(2, known + 1, *values.shape[1:])
        for place, candidate in enumerate(chosen):
            assert equal(mine[place, :known], batch.history.features[name])
            assert equal(mine[place, known], batch.candidates[name][candidate])
    assert impressions.time_M is not None
    assert impressions.time_M[train.target_R].tolist() == [request.time_ms] * 2
    assert impressions.known_M[train.target_R].tolist() == [known] * 2
    assert equal(train.context_RC, batch.context_NC[chosen])
    assert train.position_R.tolist() == [SERVING_POSITION] * 2


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal bit for bit, but that NaN is NaN."""
    return bool(((first == second) | ((first != first) & (second != second))).all())


@BOTH
def test_the_actions_on_a_candidate_are_unknown(spec) -> None:  # type: ignore[no-untyped-def]
    batch = build_rank_batch(spec, "immediate", [rank_request(spec, 6, 3, seed=2)])
    train = training_batch(spec, batch, [0, 1, 2])
    known = batch.history.num_impressions
    for name, values in train.impressions.actions.items():
        last = values[train.target_R]
        assert bool(((last == -1) | (last != last)).all()), name
        assert equal(values[:known], batch.history.actions[name])
    assert bool(train.labels_RK.isnan().all())
    assert train.labels_RK.shape == (3, len(spec.tasks))
    assert len(train.auxiliary_A) == len(train.auxiliary_labels_AK) == 0


def test_a_replayed_request_is_one_to_the_model() -> None:
    features, context_NC = candidates(SIMULATOR, 3, 1)
    replayed = Replayed(
        history=history_value(SIMULATOR, 4, 7), features=features, context_NC=context_NC
    )
    request = replayed.request(SIMULATOR, NOW_MS)
    assert (request.history.count, request.num_candidates, request.time_ms) == (4, 3, NOW_MS)
    assert request.features is features
    assert request.context_NC is context_NC


def test_a_history_is_that_of_the_log_by_its_windows_or_without(small_run: SmallRun) -> None:
    """As of each day's end; where the windows are of another day the whole log is read."""
    layout, spec = small_run.layout, small_run.config.spec
    days, offline = layout.impression_days(), Offline(small_run.layout, small_run.config)
    with ImpressionLog(layout, days[-1]) as log:
        whole = history_order(log.query("select * from impressions"))
    members = np.unique(column(whole, "member_id"))[:40]
    path = layout.history_bucket(0)
    kept = path.read_bytes()
    assert WindowFiles(layout, days[-1], small_run.config).fit()
    for day in days:
        end = spec.day_end(day)
        mask = np.isin(column(whole, "member_id"), members) & (column(whole, "arrival_time") < end)
        known = whole.filter(pa.array(mask))
        own, place, counts = np.unique(
            column(known, "member_id"), return_inverse=True, return_counts=True
        )
        counted = known.append_column("count", pa.array(counts[place]))
        expected = dict(encode_histories(with_content(counted, read_posts(layout), spec), spec))
        assert len(expected) == len(own)
        requests = [logged_request(int(member), [1], time_ms=end) for member in members]
        for content in (kept, b"no window"):
            path.write_bytes(content)
            try:
                again = offline.replay(requests, end)
            finally:
                path.write_bytes(kept)
            values = {r.member_id: a.history for r, a in zip(requests, again, strict=True)}
            assert {m: v for m, v in values.items() if v} == expected
