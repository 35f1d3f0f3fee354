# SPDX-License-Identifier: Apache-2.0
"""What every ranker owes the house: context, statistics, memories where it has them, a dtype."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from feature_repo.kinds import Feature, HashedId
from model import DCNv2Config, FeedSRConfig, build_ranker
from model.encoders import NumericBank
from model.ranker import ContextEncoder, Ranker
from tests.builders import TINY, make_context, make_rank_batch, make_train_batch
from tests.model.variants import VARIANTS, timed_rank_batch, variant
from tests.rival_builders import HEAD, RIVALS, noisy

FORGETFUL = (DCNv2Config(head=HEAD), *RIVALS)
forgetful = pytest.mark.parametrize("config", FORGETFUL, ids=lambda config: config.ranker)


@forgetful
def test_a_ranker_without_memories_says_so(config: DCNv2Config) -> None:
    ranker = noisy(config)
    assert not ranker.remembers
    with pytest.raises(NotImplementedError, match=f"{type(ranker).__name__} remembers no history"):
        ranker.rank_after(make_rank_batch(TINY, 1, [3], [2]), [None])


@forgetful
def test_without_blocks_a_dtype_changes_nothing(config: DCNv2Config) -> None:
    ranker, batch = noisy(config), make_rank_batch(TINY, 1, [3], [2])
    want = ranker.rank(batch)
    assert ranker.compute_in(torch.bfloat16) is ranker
    assert torch.equal(ranker.rank(batch), want)


@pytest.mark.parametrize("name", VARIANTS)
def test_feed_sr_remembers_whatever_its_parts(name: str) -> None:
    ranker, batch = build_ranker(variant(name), TINY).eval(), timed_rank_batch(1, [3], [2])
    assert ranker.remembers
    with torch.inference_mode():
        logits, [memory] = ranker.rank_after(batch, [None])
        torch.testing.assert_close(logits, ranker.rank(batch))
    assert memory.shape[:3] == (3, 2, 6)


def test_the_dtype_is_that_of_the_weights() -> None:
    ranker: Ranker = build_ranker(FeedSRConfig(), TINY)
    assert ranker.dtype == torch.float32
    assert ranker.double().dtype == torch.float64


def test_context_columns_are_those_of_the_spec() -> None:
    encoder, context = ContextEncoder(TINY), make_context(TINY, 5, torch.Generator().manual_seed(1))
    columns = encoder.columns(context)
    assert list(columns) == [f.name for f in TINY.with_role("context")]
    assert columns["taste"].shape == (5, 3)
    for name in ("activity", "rate", "industry"):
        torch.testing.assert_close(
            columns[name], context[:, TINY.context_slices[name].start], equal_nan=True
        )
    assert encoder(context).shape == (5, encoder.width)


def test_without_context_features_nothing_is_encoded() -> None:
    features = tuple(f for f in TINY.features if f.role != "context")
    spec = dataclasses.replace(TINY, features=features, views=TINY.views[:1])
    encoder = ContextEncoder(spec)
    assert encoder.width == 0
    assert encoder(torch.zeros(4, 0)).shape == (4, 0)


def test_fit_statistics_reaches_every_bank() -> None:
    ranker = build_ranker(FeedSRConfig(width=8, layers=1, heads=1), TINY)
    batch = make_train_batch(TINY, 0, [200])
    features = {**batch.impressions.features, **batch.impressions.actions}
    ranker.fit_statistics(batch.context_RC, features)
    banks = [m for m in ranker.modules() if isinstance(m, NumericBank)]
    assert sorted(n for b in banks for n in b.names) == [
        "activity", "dwell_ms", "length_s", "rate",
    ]  # fmt: skip
    assert all((bank.mean_F != 0).all() for bank in banks)


def test_fit_statistics_wants_every_numeric_feature() -> None:
    ranker = build_ranker(FeedSRConfig(width=8, layers=1, heads=1), TINY)
    batch = make_train_batch(TINY, 0, [20])
    with pytest.raises(ValueError, match="'dwell_ms'"):
        ranker.fit_statistics(batch.context_RC, batch.impressions.features)


def test_a_hashed_id_in_the_context_is_refused() -> None:
    wrong = Feature(
        name="city_id", role="context", kind=HashedId(table="c", buckets=9, dim=2), source="profile"
    )
    spec = dataclasses.replace(TINY, features=(*TINY.features, wrong))
    with pytest.raises(ValueError, match="'city_id' is a hashed id"):
        ContextEncoder(spec)
