# SPDX-License-Identifier: Apache-2.0
"""A V2 message and a V1 body hold the same requests; what is wrong with either is named."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from feature_repo.specs import KUAIRAND
from feature_repo.specs import SIMULATOR as SPEC
from serving.history import History, decode_history
from serving.predictor.decode import from_json, from_message
from serving.wire import RankRequest
from tests.serving_builders import NOW_MS, candidates, history_value, instance, message

HISTORY = history_value(SPEC, 9, 1)
COLUMNS = candidates(SPEC, 5, 2)
LIMIT = 8


def assert_same_history(got: History, want: History) -> None:
    """To the byte, as a missing number equals itself."""
    assert (got.count, got.start, got.member_id) == (want.count, want.start, want.member_id)
    assert got.batch.serialize() == want.batch.serialize()


def assert_same(got: RankRequest, want: RankRequest) -> None:
    assert got.time_ms == want.time_ms
    assert_same_history(got.history, want.history)
    assert got.features.keys() == want.features.keys()
    for name, column in got.features.items():
        assert column.dtype == want.features[name].dtype
        np.testing.assert_array_equal(column, want.features[name])
    np.testing.assert_array_equal(got.context_NC, want.context_NC)


def test_both_protocols_hold_the_same_request() -> None:
    request, deadline = from_message(SPEC, message(SPEC, HISTORY, COLUMNS), LIMIT)
    assert deadline is None
    assert request.time_ms == NOW_MS
    assert_same_history(request.history, decode_history(HISTORY, SPEC))
    np.testing.assert_array_equal(request.features["post_id"], COLUMNS[0]["post_id"])
    np.testing.assert_array_equal(request.context_NC, COLUMNS[1])
    body = {"instances": [instance(SPEC, HISTORY, COLUMNS), instance(SPEC, b"", COLUMNS)]}
    [same, new], deadline = from_json(SPEC, body, LIMIT)
    assert deadline is None
    assert_same(same, request)
    assert new.history.batch.num_rows == 0


def test_a_deadline_is_counted_from_now() -> None:
    start = time.monotonic()
    _, sent = from_message(SPEC, message(SPEC, HISTORY, COLUMNS, deadline_ms=2000), LIMIT)
    body = {"instances": [instance(SPEC, HISTORY, COLUMNS)], "deadline_ms": 2000}
    _, named = from_json(SPEC, body, LIMIT)
    for deadline in (sent, named):
        assert deadline is not None
        assert start + 2 <= deadline <= time.monotonic() + 2


def test_null_is_the_declared_default_where_it_may_be() -> None:
    body = instance(SPEC, HISTORY, COLUMNS)
    body["candidates"]["media"][0] = None
    body["candidates"]["content"][1] = None
    body["context"][2][0] = None
    body["history"] = None
    [request], _ = from_json(SPEC, {"instances": [body]}, LIMIT)
    assert request.features["media"][0] == -1
    assert not request.features["content"][1].any()
    assert np.isnan(request.context_NC[2, 0])
    assert request.history.batch.num_rows == 0


def changed(**parts: Any) -> dict[str, Any]:
    return {**instance(SPEC, HISTORY, COLUMNS), **parts}


FEATURES = changed()["candidates"]
WRONG: list[tuple[Any, str]] = [
    (7, 'an instance wants "candidates"'),
    (changed(candidates=[]), 'an instance wants "candidates"'),
    (changed(colour=1), "the key of an instance 'colour' is unknown"),
    (changed(spec_hash=KUAIRAND.hash), "the request was made with spec"),
    (changed(context=None), "column 'context' is None, want a list"),
    (changed(candidates={**FEATURES, "media": 3}), "column 'media' is 3, want a list"),
    (changed(candidates={**FEATURES, "media": [1]}), "columns have other lengths than one another"),
    (changed(candidates={**FEATURES, "colour": [1] * 5}), "candidates: column 'colour' is unknown"),
    (changed(candidates={**FEATURES, "media": [0.5] * 5}), "'media' is 0.5, want a whole number"),
    (changed(candidates={**FEATURES, "length_s": [1e39] * 5}), "'length_s' is 1e\\+39, want"),
    (changed(candidates={**FEATURES, "content": [[0.0]] * 5}), "every row wants 50 values"),
    (changed(request_time_ms=None), "request_time_ms is None"),
    (changed(history="***"), "is no base64"),
]


@pytest.mark.parametrize(("body", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_what_is_wrong_with_an_instance_is_named(body: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_json(SPEC, {"instances": [body]}, LIMIT)


@pytest.mark.parametrize("count", [0, LIMIT + 1])
def test_a_request_has_one_candidate_or_more_up_to_the_limit(count: int) -> None:
    columns = candidates(SPEC, count, 1)
    for decode in (
        lambda: from_message(SPEC, message(SPEC, HISTORY, columns), LIMIT),
        lambda: from_json(SPEC, {"instances": [instance(SPEC, HISTORY, columns)]}, LIMIT),
    ):
        with pytest.raises(ValueError, match="candidates"):
            decode()


def test_a_message_of_another_spec_or_with_more_than_it_may_say_is_refused() -> None:
    for extra, sentence in (
        ({"spec_hash": KUAIRAND.hash}, "the request was made with spec"),
        ({"colour": 1}, "parameter 'colour' is unknown"),
        ({"deadline_ms": "soon"}, "deadline_ms is 'soon'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            from_message(SPEC, message(SPEC, HISTORY, COLUMNS, **extra), LIMIT)
