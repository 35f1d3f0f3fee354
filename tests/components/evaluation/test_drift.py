# SPDX-License-Identifier: Apache-2.0
"""Drift is seen wherever the values lie: in a smooth column, and where most are one value."""

import json
import os
import warnings

import numpy as np
import pytest

from components.backtest.prepare import prepare
from components.backtest.split import LogSplit
from components.config import load_config
from components.evaluation.drift import codes, deciles, drift, shares, stability
from components.registry.metrics import FeatureDrift
from components.training.data import evaluation_batches
from feature_repo.kinds import Embedding, Numeric
from feature_repo.specs import SIMULATOR

CONTEXT = SIMULATOR.with_role("context")
CODES = [f for f in CONTEXT if not isinstance(f.kind, Numeric | Embedding)]
ROWS = 4_000
MOST = float(np.finfo(np.float32).max)


def context(seed: int, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, SIMULATOR.context_width)).astype(np.float32)
    for feature in CODES:
        matrix[:, SIMULATOR.context_slices[feature.name]] = rng.integers(0, 5, (rows, 1))
    return matrix


def moved(train, later, name: str = "post_impressions") -> FeatureDrift:
    """The drift of one feature whose columns are given."""
    matrices = []
    for seed, values in enumerate((train, later)):
        values = np.asarray(values, np.float32)
        matrix = context(seed, len(values))
        matrix[:, SIMULATOR.context_slices[name]] = values[:, None]
        matrices.append(matrix)
    return drift(*matrices, SIMULATOR)[name]


def inflated(mass: float, at: float, rest: np.ndarray, seed: int = 0) -> np.ndarray:
    """Values of which a share is one value, in random order."""
    values = np.array(rest, np.float32)
    values[: round(mass * len(values))] = at
    return np.random.default_rng(seed).permutation(values)


def spread(seed: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).exponential(3.0, rows) + 0.5


def test_two_samples_of_one_distribution_are_stable() -> None:
    drifts = drift(context(0), context(1), SIMULATOR)
    assert max(each.psi for each in drifts.values()) < 0.02
    embeddings = {f.name for f in SIMULATOR.with_role("context") if isinstance(f.kind, Embedding)}
    assert set(drifts) == {f.name for f in SIMULATOR.with_role("context")} - embeddings
    assert {name for name, each in drifts.items() if not each.numeric} == {f.name for f in CODES}


def test_it_finds_the_feature_that_moved_and_the_one_that_went_missing() -> None:
    later = context(1)
    later[:, SIMULATOR.context_slices["post_impressions"]] += 1.5
    later[:2_000, SIMULATOR.context_slices["post_age_hours"]] = np.nan
    drifts = drift(context(0), later, SIMULATOR)
    assert drifts["post_impressions"].psi > 0.25
    assert drifts["post_age_hours"].eval[-1] == 0.5
    assert sum(each.psi > 0.25 for each in drifts.values()) == 2


def test_codes_are_their_own_bins_and_shares_sum_to_one() -> None:
    later = context(1)
    name = CODES[0].name
    later[:, SIMULATOR.context_slices[name]] = 7
    feature = drift(context(0), later, SIMULATOR)[name]
    assert len(feature.train) == 6 + 1
    assert feature.eval[5] == 1.0
    for share in (feature.train, feature.eval):
        assert sum(share) == pytest.approx(1)


def test_a_smooth_column_keeps_its_ten_deciles() -> None:
    values = np.arange(1_000, dtype=np.float32)
    edges = deciles(np.random.default_rng(0).permutation(values))
    np.testing.assert_allclose(edges, [99.9 * i for i in range(1, 10)], rtol=1e-6)
    assert edges.dtype == np.float32
    np.testing.assert_array_equal(shares(values, edges), [0.1] * 10 + [0])
    np.testing.assert_array_equal(shares(values[:1], edges), [1] + [0] * 10)


@pytest.mark.parametrize("at", [0.0, 3.0, 1e3], ids=["minimum", "middle", "maximum"])
@pytest.mark.parametrize("mass", [0.05, 0.12, 0.5, 0.9, 0.95, 0.999])
def test_a_mass_at_one_value_is_a_bin_of_its_own(at: float, mass: float) -> None:
    train = inflated(mass, at, spread(0))
    edges = deciles(train)
    place = int(np.searchsorted(edges, np.float32(at), side="right"))
    np.testing.assert_array_equal(
        np.unique(train[np.searchsorted(edges, train, "right") == place]), at
    )
    assert shares(train, edges)[place] == round(mass * ROWS) / ROWS
    fewer = moved(train, inflated(mass / 2, at, spread(1), seed=1))
    assert fewer.eval[place] == round(mass / 2 * ROWS) / ROWS
    assert fewer.psi > mass / 2 * np.log(2)
    assert moved(train, inflated(mass, at, spread(2), seed=2)).psi < 0.03


def test_zeros_that_become_half_as_many_have_moved() -> None:
    """Nine tenths of a sparse counter sit at its minimum: the deciles alone are one edge there."""
    fewer = moved(inflated(0.95, 0, spread(0)), inflated(0.5, 0, spread(1)))
    assert fewer.psi > 0.25
    assert moved(inflated(0.95, 0, spread(0)), inflated(0.95, 0, spread(1))).psi < 0.02


def test_what_is_beside_the_mass_has_deciles_too() -> None:
    train = inflated(0.95, 0, spread(0))
    later = np.where(train > 0, train * 1_000, 0)
    assert moved(train, later).psi > 0.2
    edges = deciles(train)
    beside = shares(train, edges)[2:-1]
    np.testing.assert_allclose(beside, 0.005, atol=0.001)
    assert len(edges) == 2 + 9


def test_two_masses_are_told_apart() -> None:
    train = np.repeat([0, 1, 7], [500, 300, 200])
    swapped = moved(train, np.repeat([0, 1, 7], [300, 500, 200]))
    assert swapped.psi == pytest.approx(2 * 0.2 * np.log(5 / 3))
    between = moved(train, np.repeat([0, 0.5, 1, 7], [500, 100, 200, 200]))
    assert between.eval == (0, 0.5, 0.1, 0.2, 0, 0.2, 0, 0)


@pytest.mark.parametrize("constant", [0.0, -2.5, 7.0, 1e-30, MOST, -MOST])
def test_a_constant_is_a_bin_and_any_other_value_is_seen(constant: float) -> None:
    train = np.full(ROWS, constant)
    assert moved(train, train).psi == 0
    exact = np.float32(constant)
    for end in (-MOST, MOST):
        if exact != end:
            assert moved(train, np.full(ROWS, np.nextafter(exact, np.float32(end)))).psi > 5
    assert moved(train, np.random.default_rng(0).normal(size=ROWS)).psi > 5
    json.dumps(moved(train, train).plain(), allow_nan=False)


def test_a_column_that_is_missing_in_one_sample_alone_has_moved() -> None:
    missing = np.full(ROWS, np.nan)
    assert moved(missing, missing).psi == 0
    assert moved(missing, spread(0)).psi > 5
    assert moved(spread(0), missing).psi > 1
    assert moved(missing, missing).train == (0, 1)
    half = np.where(np.arange(ROWS) % 2, spread(0), np.nan)
    assert moved(half, half).train[-1] == 0.5
    infinite = np.where(np.arange(ROWS) % 4, spread(0), np.inf)
    assert moved(infinite, infinite).train[-1] == 0.25


def test_a_heavy_tail_keeps_its_bins() -> None:
    train, later = (np.exp(np.random.default_rng(s).normal(0, 12, ROWS)) for s in (0, 1))
    assert moved(train, later).psi < 0.02
    assert moved(train, later * 1e4).psi > 0.1
    assert len(deciles(train.astype(np.float32))) == 9


def test_few_distinct_values_are_bins_of_their_own() -> None:
    train = np.repeat([1, 2, 3, 4], [10, 200, 300, 490])
    edges = deciles(train.astype(np.float32))
    assert [x for x in shares(train.astype(np.float32), edges) if x] == [0.01, 0.2, 0.3, 0.49]
    assert moved(train, np.repeat([1, 2, 3, 4], [10, 300, 200, 490])).psi > 0.07


def test_a_few_rows_of_a_smooth_column_are_no_masses() -> None:
    values = np.arange(12, dtype=np.float32)
    assert len(deciles(values)) == 9
    assert len(deciles(values[:1])) == 1
    twice = np.append(values, np.float32(4))
    assert len(deciles(twice)) == 9 + 2
    assert np.nextafter(np.float32(4), np.float32(5)) in deciles(twice)


def test_the_ends_of_float32_have_bins_without_a_warning() -> None:
    values = np.array([-MOST, -1, 0, 1, MOST] * 20 + list(np.linspace(-MOST, MOST, 50)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edges = deciles(values.astype(np.float32))
        feature = moved(values, values)
    assert np.isfinite(edges).all()
    assert (np.diff(edges.astype(np.float64)) > 0).all()
    assert feature.psi == 0
    assert sum(feature.train) == pytest.approx(1)


def test_values_beyond_those_of_training_are_seen() -> None:
    for train in (spread(0), inflated(0.95, 0, spread(0)), inflated(0.7, 1e3, spread(0))):
        for beyond in (-1e6, 1e6):
            assert moved(train, np.full(ROWS, beyond)).psi > 1


def test_large_codes_are_told_apart() -> None:
    """Beside 2^23 there is no float32 half way between two codes."""
    train = np.repeat(np.float32([2**23, 2**23 + 1]), [30, 10])
    edges = codes((train, train))
    np.testing.assert_array_equal(shares(train, edges), [0.75, 0.25, 0])
    assert codes((train[:0], train[:0])).shape == (0,)
    assert shares(np.float32([np.nan, 3]), codes((train[:0], train[:0]))).tolist() == [0.5, 0.5]


def test_a_feature_that_is_always_missing_or_constant_is_no_error() -> None:
    train, later = context(0), context(1)
    for matrix in (train, later):
        matrix[:, SIMULATOR.context_slices["post_age_hours"]] = np.nan
        matrix[:, SIMULATOR.context_slices["post_impressions"]] = 3
    drifts = drift(train, later, SIMULATOR)
    assert drifts["post_age_hours"].psi == drifts["post_impressions"].psi == 0


@pytest.mark.parametrize(("rows", "later"), [(0, 0), (0, 50), (50, 0)])
def test_no_rows_have_no_index(rows: int, later: int) -> None:
    drifts = drift(context(0, rows), context(1, later), SIMULATOR)
    assert {feature.psi for feature in drifts.values()} == {None}


def test_the_index_is_the_published_formula() -> None:
    train, later = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    want = (0.4 - 0.5) * np.log(0.4 / 0.5) + (0.4 - 0.3) * np.log(0.4 / 0.3)
    assert stability(train, later) == pytest.approx(want)
    empty = (0.0001 - 0.4) * np.log(0.0001 / 0.4) + (0.6 - 1.0) * np.log(0.6)
    assert stability(np.array([0.4, 0.6]), np.array([0.0, 1.0])) == pytest.approx(empty)
    assert stability(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(
        2 * (1 - 0.0001) * np.log(1e4)
    )


def test_a_feature_that_few_rows_have_is_compared_over_those() -> None:
    rare = np.full(50_000, np.nan)
    rare[::200] = 1 + np.arange(250) // 225
    shifted = moved(rare, rare * 1e6)
    index = 0.8999 * np.log(9e3) + 0.0999 * np.log(1e3) + 0.9999 * np.log(1e4)
    assert shifted.psi == pytest.approx(index - 2 * 2 / 250, rel=1e-6)  # three bins by chance
    assert moved(rare, rare).psi == 0
    few = np.where(np.arange(50_000) < 20_000, rare, np.nan)  # 100 rows
    assert moved(few, few * 1e6).psi > 5
    assert moved(few[1:], few * 1e6).psi < 0.1  # 99 rows
    assert moved(few, few[1:] * 1e6).psi < 0.1


def test_chance_is_taken_from_what_few_rows_say() -> None:
    said = []
    for seed in range(20):
        pair = []
        for sample in (0, 1):
            column = np.full(10_000, np.nan)
            column[::100] = spread(2 * seed + sample, 100)
            pair.append(column)
        said.append(moved(*pair).psi)
    assert np.mean(said) < 0.1


@pytest.mark.kuairand
@pytest.mark.skipif(not os.environ.get("FEEDSR_KUAIRAND"), reason="FEEDSR_KUAIRAND is not set")
def test_every_numeric_of_kuairand_notices_a_million(tmp_path) -> None:
    config = load_config("kuairand")
    spec, data = config.spec, os.environ["FEEDSR_KUAIRAND"]
    split = LogSplit(data=data, train_before="2022-05-04", test_through="2022-05-05")
    folder = prepare(split, tmp_path, config).train
    train_RC = np.concatenate([b.context_RC.numpy() for b, _ in evaluation_batches(folder, spec)])
    train_RC = train_RC[:: max(len(train_RC) // 50_000, 1)]
    numerics = [f.name for f in spec.with_role("context") if isinstance(f.kind, Numeric)]
    assert numerics
    for missing in (1e6, np.nan):
        later_RC = train_RC.copy()
        for name in numerics:
            column = train_RC[:, spec.context_slices[name]]
            later_RC[:, spec.context_slices[name]] = np.where(np.isnan(column), missing, 1e6)
        drifts = drift(train_RC, later_RC, spec)
        assert {name: drifts[name].psi for name in numerics if drifts[name].psi < 0.25} == {}
    assert max(each.psi for each in drift(train_RC, train_RC[::-1], spec).values()) == 0
