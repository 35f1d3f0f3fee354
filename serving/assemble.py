# SPDX-License-Identifier: Apache-2.0
"""Feature records in, model inputs out: the one place where a feature's source is read.

Used by the history and sequence builders offline and by the transformer online, so a feature cannot
be assembled in two ways. This module knows nothing of where the records come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.kinds import (
    Categorical,
    Embedding,
    Feature,
    HashedId,
    Kind,
    Numeric,
    default_value,
)
from feature_repo.spec import Spec

HOUR_MS = 3_600_000
Array = npt.NDArray[Any]


def sequence_features(
    spec: Spec,
    post_ids: npt.NDArray[np.int64],
    posts: Array,
    request: Mapping[str, Any],
    time_ms: npt.NDArray[np.int64] | int | None = None,
    views: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """The sequence features of R impressions or candidates.

    Args:
        spec: names them.
        post_ids: int64 `[R]`.
        posts: content records `[R]` (or `[1]`) of `spec.content.dtype`.
        request: values of the request features, each `[R]` or one for all. An absent `hour` is the
            local hour of `time_ms`; any other absent one is its declared default.
        time_ms: when the feed was asked for, `[R]` or one for all.
        views: packed records by view name, where the spec fuses features of views early.

    Returns:
        name -> int64, int32 or float32 `[R]`, or float16 `[R, E]`.

    Raises:
        ValueError: a request value that is not a number, or of another length than R; a feature
            is fused early and `views` is not given.
    """
    rows = len(post_ids)
    columns: dict[str, Array] = {}
    for feature in spec.with_role("sequence"):
        if feature.name == "post_id":
            value: Any = post_ids
        elif feature.source == "request":
            value = _request_value(spec, feature, request, time_ms)
        elif feature.source == "post":
            value = posts[feature.name]
        elif views is None or time_ms is None:
            raise ValueError(
                f"{feature.name} of {feature.source} is fused early: only a backtest's shards have "
                "it; declare it with role 'context'"
            )
        else:
            value = _late_value(spec, feature, views, posts, time_ms)
        columns[feature.name] = _column(feature, value, rows)
    return columns


def context_matrix(
    spec: Spec,
    views: Mapping[str, Array],
    posts: Array,
    time_ms: npt.NDArray[np.int64] | int,
) -> npt.NDArray[np.float32]:
    """The raw context features of R candidates, float32 `[R, C]`, NaN where missing.

    Args:
        spec: names them; columns are `spec.context_slices`.
        views: packed records by view name, each `[R]` or `[1]`; an absent view is its default.
        posts: content records `[R]`; they say when each post was created.
        time_ms: when the feed was asked for, `[R]` or one for all.
    """
    rows = len(posts)
    matrix = np.full((rows, spec.context_width), np.nan, np.float32)
    for feature in spec.with_role("context"):
        if feature.source == "post":
            value = posts[feature.name]
        elif feature.source == "request":
            raise ValueError(
                f"{feature.name} is a context feature of source 'request'; "
                "declare it with role 'sequence'"
            )
        else:
            value = _late_value(spec, feature, views, posts, time_ms)
        matrix[:, spec.context_slices[feature.name]] = value if value.ndim == 2 else value[:, None]
    return matrix


def _late_value(
    spec: Spec, feature: Feature, views: Mapping[str, Array], posts: Array, time_ms: Any
) -> Array:
    """What is known of a row only when it is served: the post's age, or a view's record."""
    if feature.source == "age":
        return post_age_hours(posts["created_ms"], time_ms)
    records = views.get(feature.source)
    return (spec.view(feature.source).default if records is None else records)[feature.name]


def post_age_hours(
    created_ms: npt.NDArray[np.int64], time_ms: npt.NDArray[np.int64] | int
) -> npt.NDArray[np.float64]:
    """Hours since each post was created, at least 0; NaN where that is unknown."""
    age = (np.asarray(time_ms, np.int64) - created_ms) / HOUR_MS
    return np.where(np.asarray(created_ms) < 0, np.nan, np.maximum(age, 0.0))


def local_hour(spec: Spec, time_ms: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int32]:
    """The local hour of the day, 0 to 23."""
    hours = np.asarray(time_ms, np.int64) // HOUR_MS + spec.utc_offset_hours
    return (hours % 24).astype(np.int32)


def _request_value(spec: Spec, feature: Feature, request: Mapping[str, Any], time_ms: Any) -> Any:
    if request.get(feature.name) is not None:
        return request[feature.name]
    if feature.name == "hour" and time_ms is not None:
        return local_hour(spec, time_ms)
    return default_value(feature.kind)


def _column(feature: Feature, value: Any, rows: int) -> Array:
    """The value in the feature's dtype, one row each."""
    shape = (rows, feature.kind.dim) if isinstance(feature.kind, Embedding) else (rows,)
    try:
        array = np.asarray(value).astype(_dtype(feature.kind), copy=False)
        return np.ascontiguousarray(np.broadcast_to(array, shape))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{feature.name}: got {type(value).__name__} of shape {np.shape(value)}, want "
            f"{type(feature.kind).__name__} of shape {shape}; send one number, or one per candidate"
        ) from error


def _dtype(kind: Kind) -> Any:
    if isinstance(kind, HashedId):
        return np.int64
    if isinstance(kind, Categorical):
        return np.int32
    assert isinstance(kind, Numeric | Embedding), kind
    return np.float32 if isinstance(kind, Numeric) else np.float16
