# SPDX-License-Identifier: Apache-2.0
"""Records in, model inputs out."""

from __future__ import annotations

import numpy as np
import pytest

from components.study.config import fused_early
from feature_repo.spec import Embedding
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.assemble import HOUR_MS, context_matrix, local_hour, sequence_features


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
