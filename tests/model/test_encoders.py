# SPDX-License-Identifier: Apache-2.0
"""Encoders are total, share tables by name, hash well, and fit statistics around missing values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.kinds import Categorical, Embedding, Feature, HashedId, Numeric
from model.encoders import (
    CategoricalEncoder,
    DenseEncoder,
    FeatureEncoder,
    NumericBank,
    hash_ids,
    known_codes,
)
from tests.builders import TINY, make_columns


def numeric(name: str, kind: Numeric | None = None) -> Feature:
    return Feature(name=name, role="sequence", kind=kind or Numeric(), source="post")


def splitmix_bucket(value: int, buckets: int) -> int:
    """The same hash in Python's integers, from the paper's text."""
    mask = 2**64 - 1
    x = value & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    return 0 if value == 0 else 1 + (x >> 1) % (buckets - 1)


@settings(max_examples=50)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(2, 2**20))
def test_hash_is_splitmix_in_range(ids: list[int], buckets: int) -> None:
    got = hash_ids(torch.tensor(ids), buckets)
    assert got.tolist() == [splitmix_bucket(i, buckets) for i in ids]


def test_hash_spreads_running_numbers_evenly() -> None:
    counts = torch.bincount(hash_ids(torch.arange(1, 100_001), 101), minlength=101)
    assert counts[0] == 0
    expected = 1000.0
    chi_square = float(((counts[1:] - expected) ** 2 / expected).sum())
    assert chi_square < 149  # 99 degrees of freedom, p = 0.001


def test_codes_outside_and_missing_share_the_unknown_row() -> None:
    assert known_codes(torch.tensor([0, 3, 4, -1, 99], dtype=torch.int32), 4).tolist() == [
        0, 3, 4, 4, 4,
    ]  # fmt: skip
    assert known_codes(torch.tensor([1.0, torch.nan, 7.0]), 4).tolist() == [1, 4, 4]
    encoder = CategoricalEncoder(Categorical(cardinality=4, dim=3))
    known, unknown = encoder(torch.tensor([1, -1]))
    assert not torch.equal(known, unknown)


def test_features_that_name_a_table_share_it() -> None:
    encoder = FeatureEncoder(TINY.with_role("sequence")).eval()
    assert sorted(encoder.tables) == ["actor", "post"]
    columns = make_columns(TINY.with_role("sequence"), 5, torch.Generator().manual_seed(0))
    columns["root_actor_id"] = columns["actor_id"]
    encoded = encoder(columns)
    assert encoded.shape == (5, encoder.width)
    assert torch.equal(encoded[:, 4:8], encoded[:, 8:12])


def test_dropout_falls_on_ids_only_and_in_training_only() -> None:
    encoder = FeatureEncoder(TINY.with_role("sequence"), embedding_dropout=0.5)
    columns = make_columns(TINY.with_role("sequence"), 50, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    first, second = encoder(columns), encoder(columns)
    assert torch.equal(first[:, 12:], second[:, 12:])
    share = (first[:, :12] == 0).float().mean()
    assert 0.4 < share < 0.6
    assert torch.equal(encoder.eval()(columns), encoder(columns))


def test_statistics_leave_missing_values_out() -> None:
    bank = NumericBank([numeric("a"), numeric("b", Numeric(transform="log1p")), numeric("c")])
    value = torch.arange(1.0, 1601.0)
    raw = torch.stack([value, value.exp().clamp_max(1e30), torch.full_like(value, torch.nan)])
    raw[0, ::7], raw[0, ::11] = torch.nan, torch.inf
    bank.fit(raw)
    kept = raw[0][raw[0].isfinite()]
    assert torch.isclose(bank.mean_F[0], kept.mean())
    assert torch.isclose(bank.std_F[0], kept.std(correction=0))
    assert torch.allclose(bank.boundaries_FB[0], torch.quantile(kept, torch.arange(1, 16) / 16))
    assert bank.mean_F[2] == 0
    assert bank.std_F[2] == 1
    assert bank(raw).isfinite().all()


def test_statistics_of_one_value_and_of_none() -> None:
    bank = NumericBank([numeric("constant"), numeric("b")])
    bank.fit(torch.full((2, 50), 3.0))
    bank.fit(torch.zeros(2, 0))
    assert bank.mean_F.tolist() == [3.0, 3.0]
    assert bank(torch.tensor([[3.5], [3.0]]))[0, :2].tolist() == [0.5, 0.0]


def test_bins_hold_equal_shares_and_missing_has_its_own() -> None:
    bank = NumericBank([numeric("a", Numeric(bins=4, dim=2))])
    raw = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)).exp()
    bank.fit(raw)
    embedding = bank(raw)[:, 1:]
    shares = [int((embedding == row).all(-1).sum()) for row in bank.table.weight]
    assert shares == [1000, 1000, 1000, 1000, 0]
    missing = bank(torch.tensor([[torch.nan]]))[0]
    assert missing[0] == 0
    assert torch.equal(missing[1:], bank.table.weight[4])


def test_one_extreme_value_is_clipped() -> None:
    bank = NumericBank([numeric("a")])
    assert bank(torch.tensor([[1e30, -1e30]]))[:, 0].tolist() == [5.0, -5.0]


@pytest.mark.parametrize("absent", [0.0, torch.nan])
def test_a_missing_vector_has_its_own_encoding(absent: float) -> None:
    encoder = DenseEncoder(Embedding(dim=3))
    vectors = torch.tensor([[absent] * 3, [0.1, 0.0, 0.0]]).half()
    missing, known = encoder(vectors)
    weight, bias = encoder.linear.weight, encoder.linear.bias
    torch.testing.assert_close(missing, weight[:, 3] + bias)
    torch.testing.assert_close(known, 3**0.5 * weight[:, 0] + bias, rtol=1e-3, atol=1e-4)


def test_a_vector_counts_by_its_direction() -> None:
    encoder = DenseEncoder(Embedding(dim=50))
    vectors = torch.randn(4, 50)
    expected = encoder(vectors)
    torch.testing.assert_close(encoder(0.1 * vectors), expected, rtol=1e-3, atol=1e-4)
    assert (encoder(-vectors) - expected).abs().max() > 0.1


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_a_value_that_most_rows_have_shares_its_bin_with_no_other(common: float) -> None:
    feature = Feature(name="x", role="context", kind=Numeric(), source="age")
    bank = NumericBank([feature])
    rare = torch.tensor([0.5])
    bank.fit(torch.cat([torch.full((99,), common), rare])[None])
    bins = bank._bins(torch.tensor([[common, 0.5]]))[0]
    assert bins[0] != bins[1]


def test_a_value_is_standardised_by_what_was_fitted() -> None:
    bank = NumericBank([numeric("a", Numeric(bins=4, dim=2))])
    bank.fit(torch.tensor([[1.0, 5.0, torch.nan]]))
    assert (bank.mean_F.item(), bank.std_F.item()) == (3.0, 2.0)
    assert bank(torch.tensor([[4.0, 1.0]]))[:, 0].tolist() == [0.5, -1.0]
    assert bank.boundaries_FB.tolist() == [[2.0, 3.0, 4.0]]


def test_one_known_value_is_its_features_mean_and_a_narrow_spread_stays() -> None:
    bank = NumericBank([numeric("one"), numeric("narrow"), numeric("narrower")])
    small, smaller = 1.5e-6, 0.5e-6
    bank.fit(torch.tensor([[7.0, torch.nan], [small, -small], [smaller, -smaller]]))
    assert bank.mean_F.tolist() == pytest.approx([7.0, 0.0, 0.0], abs=1e-12)
    assert bank.std_F.tolist() == pytest.approx([1.0, small, 1.0])
    assert bank.boundaries_FB[0].tolist() == [7.0] * 15


def test_of_twice_as_many_rows_statistics_take_every_second() -> None:
    bank = NumericBank([numeric("a", Numeric(bins=4, dim=2))])
    rows = torch.tensor([2.0, 8.0]).repeat(1_000_000)
    bank.fit(rows[None, :-1])
    assert bank.mean_F.item() == pytest.approx(5.0, abs=1e-4)
    bank.fit(rows[None])
    assert (bank.mean_F.item(), bank.std_F.item()) == (2.0, 1.0)


def test_few_buckets() -> None:
    ids = torch.tensor([0, 5, -7, 2**62])
    assert hash_ids(ids, 1).tolist() == [0, 0, 0, 0]
    assert hash_ids(ids, 2).tolist() == [0, 1, 1, 1]
    assert set(hash_ids(torch.arange(1, 50), 3).tolist()) == {1, 2}


def test_a_vector_with_one_number_missing_is_missing() -> None:
    encoder = DenseEncoder(Embedding(dim=3))
    vectors = torch.tensor([[0.1, torch.nan, 0.3], [torch.inf, 0.2, 0.3], [0.0] * 3, [0.0, 0, 1]])
    first, second, third, known = encoder(vectors)
    assert torch.equal(first, third)
    assert torch.equal(second, third)
    assert not torch.allclose(known, third)


def test_a_vector_as_short_as_the_epsilon_counts_half() -> None:
    """The mean square is the epsilon: the direction counts by the root of a half."""
    encoder = DenseEncoder(Embedding(dim=2)).double()
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
        encoder.linear.bias.zero_()
    got = encoder(torch.tensor([[1e-3, -1e-3]], dtype=torch.float64))[0]
    assert got.tolist() == pytest.approx([0.5**0.5, 0.0], rel=1e-9)


def test_widths_of_long_vectors_and_starts_of_tables() -> None:
    assert [DenseEncoder(Embedding(dim=n)).width for n in (3, 32, 33, 500)] == [3, 32, 32, 32]
    ids = Feature(
        name="a", role="sequence", kind=HashedId(table="t", buckets=3000, dim=20), source="post"
    )
    torch.manual_seed(0)
    tables = [
        FeatureEncoder([ids]).tables["t"].weight,
        CategoricalEncoder(Categorical(cardinality=3000, dim=20)).table.weight,
        NumericBank([numeric("a", Numeric(bins=2999, dim=20))]).table.weight,
    ]
    for weight in tables:
        assert float(weight.detach().std()) == pytest.approx(0.05, rel=0.02)


def test_nothing_drops_out_where_nobody_asks() -> None:
    ids = Feature(
        name="a", role="sequence", kind=HashedId(table="t", buckets=9, dim=4), source="post"
    )
    encoder = FeatureEncoder([ids]).train()
    encoded = encoder({"a": torch.arange(1, 40)})
    assert torch.equal(encoded, encoder.tables["t"](hash_ids(torch.arange(1, 40), 9)))
