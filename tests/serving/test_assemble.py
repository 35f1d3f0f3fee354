# SPDX-License-Identifier: Apache-2.0
"""Records in, model inputs out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.studies.config import fused_early
from feature_repo.kinds import Embedding
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.assemble import (
    HOUR_MS,
    context_matrix,
    local_hour,
    post_age_hours,
    sequence_features,
)


def test_sequence_features_have_the_specs_dtypes_and_defaults():
    posts = np.repeat(SIMULATOR.content.default, 3)
    columns = sequence_features(SIMULATOR, np.array([4, 5, 6]), posts, {}, 0)
    assert list(columns) == [f.name for f in SIMULATOR.with_role("sequence")]
    assert columns["post_id"].tolist() == [4, 5, 6]
    assert columns["surface"].tolist() == [-1, -1, -1]
    assert columns["content"].shape == (3, 50)
    assert not columns["content"].any()
    dtypes = {n: c.dtype.name for n, c in columns.items()}
    assert dtypes["actor_id"] == "int64"
    assert dtypes["media"] == dtypes["hour"] == "int32"
    assert dtypes["length_s"] == "float32"
    assert dtypes["content"] == "float16"


def test_the_hour_is_local_unless_the_request_says_it():
    ids, posts = np.array([1, 2]), np.repeat(KUAIRAND.content.default, 2)
    time_ms = np.array([0, 17 * HOUR_MS])
    assert sequence_features(KUAIRAND, ids, posts, {}, time_ms)["hour"].tolist() == [8, 1]
    said = sequence_features(KUAIRAND, ids, posts, {"hour": 5}, time_ms)
    assert said["hour"].tolist() == [5, 5]
    assert sequence_features(KUAIRAND, ids, posts, {})["hour"].tolist() == [-1, -1]
    assert local_hour(KUAIRAND, -1).tolist() == 7


@pytest.mark.parametrize("value", ["home", [1, 2, 3], [[1], [2]], object()])
def test_a_request_value_that_does_not_fit_is_one_sentence(value):
    posts = np.repeat(KUAIRAND.content.default, 2)
    with pytest.raises(ValueError, match="tab: got"):
        sequence_features(KUAIRAND, np.array([1, 2]), posts, {"tab": value}, 0)


def test_what_is_fused_early_comes_from_the_views_or_is_refused():
    spec = fused_early(KUAIRAND, ("post_popularity", "age"))
    posts = np.repeat(spec.content.default, 2)
    posts["created_ms"] = [0, -1]
    popularity = np.repeat(spec.view("post_popularity").default, 2)
    popularity["post_click_rate"] = [0.25, 0.5]
    views = {"post_popularity": popularity}
    columns = sequence_features(spec, np.array([1, 2]), posts, {}, 3 * HOUR_MS, views)
    assert columns["post_click_rate"].tolist() == [0.25, 0.5]
    assert columns["post_age_hours"][0] == 3
    assert np.isnan(columns["post_age_hours"][1])
    with pytest.raises(ValueError, match="post_impressions of post_popularity is fused early"):
        sequence_features(spec, np.array([1, 2]), posts, {}, 0)


def test_context_columns_come_from_their_views():
    spec = SIMULATOR
    posts = np.repeat(spec.content.default, 2)
    posts["created_ms"] = [0, -1]
    profile = spec.view("member_profile").default.copy()
    profile["profile"] = np.arange(16)
    activity = np.repeat(spec.view("member_activity").default, 2)
    activity["member_impressions"] = [7, 8]
    views = {"member_profile": profile, "member_activity": activity}
    matrix = context_matrix(spec, views, posts, 3 * HOUR_MS)
    assert matrix.shape == (2, spec.context_width)
    assert matrix.dtype == np.float32
    slices = spec.context_slices
    assert matrix[:, slices["profile"]].tolist() == [list(range(16))] * 2
    assert matrix[:, slices["member_impressions"]].ravel().tolist() == [7, 8]
    np.testing.assert_array_equal(matrix[:, slices["post_age_hours"]].ravel(), [3, np.nan])
    assert matrix[:, slices["industry"]].ravel().tolist() == [-1, -1]
    assert np.isnan(matrix[:, slices["post_click_rate"]]).all()


def test_every_context_column_is_filled_once():
    spec = SIMULATOR
    for feature in spec.with_role("context"):
        if feature.source == "age":
            continue
        record = spec.view(feature.source).default.copy()
        record[feature.name] = 3
        matrix = context_matrix(spec, {feature.source: record}, spec.content.default, 0)
        width = feature.kind.dim if isinstance(feature.kind, Embedding) else 1
        assert (matrix == 3).sum() == width
        assert (matrix[:, spec.context_slices[feature.name]] == 3).all()


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_no_rows_have_every_column(spec):
    none, posts = np.zeros(0, np.int64), np.zeros(0, spec.content.dtype)
    columns = sequence_features(spec, none, posts, {}, none)
    for feature in spec.with_role("sequence"):
        width = (feature.kind.dim,) if isinstance(feature.kind, Embedding) else ()
        assert columns[feature.name].shape == (0, *width)
    views = {v.name: np.zeros(0, v.dtype) for v in spec.views}
    for given in ({}, views, {"member_profile": spec.view("member_profile").default}):
        matrix = context_matrix(spec, given, posts, none)
        assert matrix.shape == (0, spec.context_width)
        assert matrix.dtype == np.float32
    assert local_hour(spec, none).shape == post_age_hours(none, none).shape == (0,)


def test_a_spec_without_context_features_has_no_columns():
    bare = dataclasses.replace(
        KUAIRAND, features=tuple(f for f in KUAIRAND.features if f.role != "context")
    )
    for rows in (0, 3):
        posts = np.repeat(bare.content.default, rows)
        assert context_matrix(bare, {}, posts, 0).shape == (rows, 0)


def test_the_age_of_a_post_is_in_hours_and_never_below_zero():
    created = np.array([0, 3_600_000, 5_400_000, 7_200_000, 7_200_001, -1, -5])
    ages = post_age_hours(created, 7_200_000)
    np.testing.assert_array_equal(ages, [2.0, 1.0, 0.5, 0.0, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(
        post_age_hours(np.array([0, 0]), np.array([0, 1_800_000])), [0.0, 0.5]
    )


@pytest.mark.parametrize(
    ("hour", "offset", "want"), [(0, 8, 8), (15, 8, 23), (16, 8, 0), (2, -3, 23)]
)
def test_the_local_hour_wraps_at_midnight(hour, offset, want):
    spec = dataclasses.replace(SIMULATOR, utc_offset_hours=offset)
    times = 19_000 * 24 * HOUR_MS + hour * HOUR_MS + np.array([0, HOUR_MS - 1])
    got = local_hour(spec, times)
    assert got.tolist() == [want, want]
    assert got.dtype == np.int32
    assert local_hour(spec, times + HOUR_MS).tolist() == [(want + 1) % 24] * 2


def test_what_a_request_says_is_one_value_for_all_or_one_a_row():
    posts = np.repeat(KUAIRAND.content.default, 3)
    ids = np.array([4, 5, 6])
    for said, want in ((7, [7, 7, 7]), ([1, 2, 3], [1, 2, 3]), (None, [-1, -1, -1])):
        got = sequence_features(KUAIRAND, ids, posts, {"tab": said, "hour": None}, 0)
        assert got["tab"].tolist() == want
        assert got["tab"].dtype == np.int32
        assert got["hour"].tolist() == [8, 8, 8]
    assert sequence_features(KUAIRAND, ids, posts, {"hour": 0}, 0)["hour"].tolist() == [0, 0, 0]
    for bad in ([1, 2], "home", {"x": 1}):
        with pytest.raises(
            ValueError, match=r"^tab: got .*, want Categorical of shape \(3,\); send"
        ):
            sequence_features(KUAIRAND, ids, posts, {"tab": bad}, 0)


def test_columns_are_contiguous_and_posts_may_be_one_for_all():
    post = SIMULATOR.content.default.copy()
    post["media"], post["content"], post["actor_id"] = 3, np.arange(50), 9
    columns = sequence_features(SIMULATOR, np.array([1, 2]), post, {}, 0)
    assert columns["media"].tolist() == [3, 3]
    assert columns["actor_id"].tolist() == [9, 9]
    assert columns["content"].tolist() == [list(range(50))] * 2
    assert all(column.flags.c_contiguous for column in columns.values())


def test_a_context_feature_of_the_request_is_refused():
    early = dataclasses.replace(
        SIMULATOR,
        features=tuple(
            dataclasses.replace(f, role="context") if f.name == "surface" else f
            for f in SIMULATOR.features
        ),
    )
    with pytest.raises(ValueError, match="surface is a context feature of source 'request'"):
        context_matrix(early, {}, early.content.default, 0)


def test_a_context_feature_of_the_post_is_read_from_its_record():
    late = dataclasses.replace(
        SIMULATOR,
        features=tuple(
            dataclasses.replace(f, role="context") if f.name in ("media", "content") else f
            for f in SIMULATOR.features
        ),
    )
    posts = np.repeat(late.content.default, 2)
    posts["media"], posts["content"][1] = [2, 5], 0.5
    matrix = context_matrix(late, {}, posts, 0)
    assert matrix[:, late.context_slices["media"]].ravel().tolist() == [2, 5]
    assert matrix[:, late.context_slices["content"]].tolist() == [[0.0] * 50, [0.5] * 50]
