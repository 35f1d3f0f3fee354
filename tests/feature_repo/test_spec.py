# SPDX-License-Identifier: Apache-2.0
"""The spec derives every schema; a declaration that contradicts itself is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.kinds import Categorical, Feature, HashedId
from feature_repo.spec import DAY_MS, Spec, window_start
from feature_repo.specs import KUAIRAND, SIMULATOR, SPECS, spec_by_name


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_every_feature_has_one_place(spec: Spec) -> None:
    for feature in spec.with_role("sequence"):
        assert feature.name in spec.history_schema.names
    width = 0
    for feature in spec.with_role("context"):
        part = spec.context_slices[feature.name]
        assert part.start == width
        width = part.stop
    assert width == spec.context_width
    for task in spec.tasks:
        assert task.name in spec.impression_schema.names


def test_one_line_adds_a_feature_everywhere_and_changes_the_hash() -> None:
    extra = Feature(
        name="weekday", role="sequence", kind=Categorical(cardinality=7), source="request"
    )
    grown = dataclasses.replace(KUAIRAND, features=(*KUAIRAND.features, extra))
    assert "weekday" in grown.impression_schema.names
    assert "weekday" in grown.history_schema.names
    assert grown.hash != KUAIRAND.hash


def test_hashes_of_the_shipped_specs_stay() -> None:
    """Shards and models that were made before are still theirs."""
    assert (KUAIRAND.hash, SIMULATOR.hash) == ("8013b31baf82b39a", "6b0fc89a2ced4a7b")


def test_the_hash_covers_a_change_inside_a_kind() -> None:
    other = dataclasses.replace(KUAIRAND, max_impressions=999)
    assert other.hash != KUAIRAND.hash
    assert dataclasses.replace(KUAIRAND).hash == KUAIRAND.hash


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            Feature(name="hour", role="sequence", kind=Categorical(cardinality=2), source="post"),
            "declared twice",
        ),
        (
            Feature(name="x", role="sequence", kind=Categorical(cardinality=2), source="nowhere"),
            "source 'nowhere'",
        ),
        (
            Feature(
                name="x",
                role="sequence",
                kind=HashedId(table="post", buckets=3, dim=2),
                source="post",
            ),
            "two sizes",
        ),
    ],
)
def test_a_contradiction_is_refused(feature: Feature, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SIMULATOR, features=(*SIMULATOR.features, feature))


def test_an_unknown_spec_lists_the_known() -> None:
    with pytest.raises(ValueError, match="kuairand, simulator"):
        spec_by_name("movies")


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_records_round_trip_and_missing_ones_get_the_default(spec: Spec) -> None:
    for view in spec.views:
        records, missing = view.unpack([None, view.default.tobytes(), b""])
        assert missing.tolist() == [True, False, True]
        assert records.tobytes() == view.default.tobytes() * 3
        with pytest.raises(ValueError, match=f"view {view.name}"):
            view.unpack([b"x"])


@given(
    time_ms=st.integers(0, 4_000_000_000_000),
    freshness=st.sampled_from(["day", "30m", "immediate"]),
)
def test_a_cutoff_is_never_in_the_future(time_ms: int, freshness: str) -> None:
    times = np.array([time_ms], np.int64)
    cutoff = KUAIRAND.cutoff(times, freshness)  # type: ignore[arg-type]
    assert cutoff[0] <= time_ms
    if freshness == "day":
        assert KUAIRAND.day(cutoff)[0] == KUAIRAND.day(times)[0]
        assert time_ms - cutoff[0] < DAY_MS
        assert KUAIRAND.day(cutoff - 1)[0] == KUAIRAND.day(times)[0] - 1


def test_days_are_local() -> None:
    # 2022-05-03T16:00Z is midnight of 4 May at UTC+8.
    midnight = np.array([1_651_593_600_000], np.int64)
    assert Spec.day_name(int(KUAIRAND.day(midnight)[0])) == "2022-05-04"
    assert Spec.day_name(int(KUAIRAND.day(midnight - 1)[0])) == "2022-05-03"
    assert KUAIRAND.day_number("2022-05-04") == KUAIRAND.day(midnight)[0]
    with pytest.raises(ValueError, match="YYYY-MM-DD"):
        KUAIRAND.day_number("4 May")


@given(count=st.integers(0, 100_000), limit=st.integers(1, 2000), block=st.integers(1, 100))
def test_the_window_slides_in_blocks(count: int, limit: int, block: int) -> None:
    start = int(window_start(count, limit, block))
    assert start % block == 0
    assert min(count, limit) <= count - start <= limit + block - 1
    assert start <= int(window_start(count + 1, limit, block))


@pytest.mark.parametrize("days", [-60, -1, 0, 1, 400])
def test_days_are_counted_over_months_and_years(days: int) -> None:
    assert Spec.days_after("2024-02-28", days) == Spec.day_name(19_781 + days)
    assert Spec.day_number("2024-02-28") == 19_781


@pytest.mark.parametrize("day", ["yesterday", "2026-01-32", "", "20260301", "2026-W10-1"])
def test_a_day_is_written_in_one_way(day: str) -> None:
    with pytest.raises(ValueError, match=f"'{day}' is not a day; write it as YYYY-MM-DD"):
        Spec.day_number(day)
