# SPDX-License-Identifier: Apache-2.0
"""A request in JSON and in Arrow: the same taken, the same refused; and its answer."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.kinds import HashedId, Kind, Numeric
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND
from feature_repo.specs import SIMULATOR as SPEC
from serving.transformer.feed_request import (
    FeedRequest,
    Ranked,
    from_arrow,
    from_json,
    to_arrow,
    to_json,
)
from tests.arrow_builders import stream

LIMIT = 4
TIME_MS = 1_764_500_000_123
PLAIN = {"member_id": 7, "candidates": [30, 10, 20]}


def json_request(**changes: Any) -> FeedRequest:
    [asked] = from_json(SPEC, {"instances": [{**PLAIN, **changes}]}, LIMIT)
    return asked


def arrow_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def arrow_request(**columns: pa.Array) -> FeedRequest:
    """One row; a column that is not given is as in `PLAIN`."""
    plain = {"member_id": pa.array([7]), "candidates": pa.array([[30, 10, 20]])}
    [asked] = from_arrow(SPEC, arrow_bytes(pa.table({**plain, **columns})), LIMIT)
    return asked


def weight(asked: FeedRequest, task: str) -> float:
    return float(asked.weights_K[SPEC.task_names.index(task)])


def same(mine: FeedRequest, other: FeedRequest) -> bool:
    alike = ("member_id", "request", "time_ms", "invalid")
    return (
        all(getattr(mine, name) == getattr(other, name) for name in alike)
        and mine.post_ids.tolist() == other.post_ids.tolist()
        and mine.weights_K.tolist() == other.weights_K.tolist()
    )


def test_a_request_that_says_everything() -> None:
    said = {"request": {"surface": 3, "hour": 0}, "time_ms": TIME_MS, "weights": {"like": -2.5}}
    asked = json_request(**said)
    assert asked.member_id == 7
    assert asked.post_ids.dtype == np.int64
    assert asked.post_ids.tolist() == [30, 10, 20]
    assert (asked.request, asked.invalid) == ({"surface": 3, "hour": 0}, ())
    assert asked.time_ms == TIME_MS
    assert asked.weights_K.tolist() == [1.0, -0.5, 2.0, -2.5, 10.0, 10.0]
    rows = pa.Table.from_pylist([{**PLAIN, **said}])
    assert same(from_arrow(SPEC, arrow_bytes(rows), LIMIT)[0], asked)


def test_what_is_absent_or_null_is_the_default() -> None:
    before = time.time_ns() // 1_000_000
    nothing = [
        json_request(),
        json_request(request=None, time_ms=None, weights=None),
        json_request(request={}, weights={}),
        json_request(request={"surface": None}, weights={"like": None}),
        arrow_request(),
        arrow_request(request=pa.nulls(1), time_ms=pa.nulls(1), weights=pa.nulls(1)),
        arrow_request(time_ms=pa.array([None], pa.float64()), surface=pa.array([None], pa.int8())),
        arrow_request(
            request=pa.array([{"surface": None}], pa.struct({"surface": pa.int64()})),
            weights=pa.array([{"like": None}], pa.struct({"like": pa.float64()})),
        ),
        arrow_request(weights=pa.array([[]], pa.map_(pa.string(), pa.float64()))),
    ]
    after = time.time_ns() // 1_000_000
    for asked in nothing:
        assert (asked.request, asked.invalid) == ({}, ())
        assert asked.weights_K.tolist() == [1.0, -0.5, 2.0, 5.0, 10.0, 10.0]
        assert before <= asked.time_ms <= after


NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
NUMBERS += [pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(38, 0)]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_numbers_of_any_width_are_the_same_request(kind: pa.DataType, encoded: bool) -> None:
    def column(*values: int) -> pa.Array:
        array = pa.array(values, pa.int64()).cast(pa.float64()).cast(kind)
        return array.dictionary_encode() if encoded else array

    posts = pa.ListArray.from_arrays([0, 3], column(30, 10, 20))
    got = arrow_request(member_id=column(7), candidates=posts, surface=column(3))
    assert same(got, json_request(request={"surface": 3}, time_ms=got.time_ms))
    got = arrow_request(request=pa.StructArray.from_arrays([column(3)], ["surface"]))
    assert got.request == {"surface": 3}


@pytest.mark.parametrize("layout", [pa.large_list, pa.list_view, pa.large_list_view, pa.list_])
def test_lists_of_any_layout_are_the_same_request(layout: Any) -> None:
    rows = {
        "member_id": pa.array([7, 8], pa.uint32()),
        "candidates": pa.array([[30, 10, 20], [40]], layout(pa.uint64())),
    }
    first, second = from_arrow(SPEC, arrow_bytes(pa.table(rows)), LIMIT)
    assert (first.member_id, first.post_ids.tolist()) == (7, [30, 10, 20])
    assert (second.member_id, second.post_ids.tolist()) == (8, [40])
    fixed = pa.array([[30, 10, 20]], pa.list_(pa.int64(), 3))
    assert arrow_request(candidates=fixed).post_ids.tolist() == [30, 10, 20]


def test_several_batches_and_a_float_without_a_fraction_are_the_same_request() -> None:
    batch = pa.record_batch({"member_id": [7], "candidates": [[30, 10, 20]]})
    asked = from_arrow(SPEC, stream(batch, batch, metadata={"pandas": "{}"}), LIMIT)
    assert [a.post_ids.tolist() for a in asked] == [[30, 10, 20]] * 2
    floats = json_request(member_id=7.0, candidates=[30.0, 10, 2e1], request={"surface": 3.0})
    assert same(floats, json_request(request={"surface": 3}, time_ms=floats.time_ms))
    assert type(floats.member_id) is int
    assert json_request(member_id=-0.0).member_id == 0
    assert json_request(time_ms=float(TIME_MS)).time_ms == TIME_MS


def test_the_ends_of_64_bits_are_members_and_posts() -> None:
    low, high = -(2**63), 2**63 - 1
    for asked in (
        json_request(member_id=low, candidates=[low, high]),
        arrow_request(member_id=pa.array([low]), candidates=pa.array([[low, high]])),
    ):
        assert (asked.member_id, asked.post_ids.tolist()) == (low, [low, high])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": (
        {"colour": "red"},
        r"key of an instance 'colour' is unknown; have member_id",
    ),
    "two unknown keys": ({"colour": 1, "size": None}, r"'colour', 'size' is unknown; have member_"),
    "a request feature outside": ({"surface": 1}, r"'surface' is unknown; have member_id"),
    "a long key": ({"k" * 900: 1}, r"key of an instance '.{1,59} is unknown; have member_id"),
    "an unknown feature": (
        {"request": {"colour": 1}},
        r"feature 'colour' is unknown; have surface",
    ),
    "an unknown feature, null": (
        {"request": {"tab": None}},
        r"'tab' is unknown; have surface, hour",
    ),
    "an unknown task": ({"weights": {"clap": 1}}, r"task 'clap' is unknown; have click, skip"),
    "an unknown task, null": ({"weights": {"clap": None}}, r"'clap' is unknown; have click, skip"),
    "no member": ({"member_id": None}, r"member_id is missing; a request names"),
    "no candidates": ({"candidates": None}, r"candidates is missing; a request names"),
    "zero candidates": ({"candidates": []}, r"no candidates; send at least one"),
    "a candidate too many": ({"candidates": [1] * 5}, r"5 candidates, this server takes 4; split"),
    "a null candidate": ({"candidates": [1, None]}, r"candidates is None, want a whole number"),
    "a candidate of text": ({"candidates": ["7"]}, r"candidates is '7', want a whole number"),
    "a true candidate": ({"candidates": [1, True]}, r"candidates is True, want a whole number"),
    "a fraction": ({"candidates": [1, 2.5]}, r"candidates is 2.5, want a whole number"),
    "an object": ({"candidates": [{"post_id": 1}]}, r"candidates is {'post_id': 1}, want a whole"),
    "an inexact double": (
        {"candidates": [2.0**53]},
        r"candidates is 9007199254740992.0, want a whole number",
    ),
    "beyond 64 bits": ({"candidates": [1, 2**63]}, r"is 9223372036854775808, want -9223372036854"),
    "candidates of text": ({"candidates": "12"}, r"candidates is '12', want a list of post ids"),
    "candidates by name": ({"candidates": {"1": 2}}, r"candidates is {'1': 2}, want a list"),
    "a member of text": ({"member_id": "7"}, r"member_id is '7', want a whole number"),
    "a long text": ({"member_id": "x" * 900}, r"^member_id is '.{1,59}, want a whole number$"),
    "a true member": ({"member_id": True}, r"member_id is True, want a whole number"),
    "a member that is NaN": ({"member_id": float("nan")}, r"member_id is nan, want a whole number"),
    "a feature of text": ({"request": {"surface": "home"}}, r"surface is 'home', want a whole"),
    "a true feature": ({"request": {"surface": True}}, r"surface is True, want a whole number"),
    "half a feature": ({"request": {"surface": 0.5}}, r"surface is 0.5, want a whole number"),
    "features as a list": ({"request": [1]}, r"request is \[1\], want values by name"),
    "no features": ({"request": []}, r"request is \[\], want values by name"),
    "features of text": ({"request": ""}, r"request is '', want values by name"),
    "weights as a list": ({"weights": [1.0]}, r"weights is \[1.0\], want values by name"),
    "a weight of text": ({"weights": {"like": "1"}}, r"weights: like is '1', want a number"),
    "a true weight": ({"weights": {"like": True}}, r"weights: like is True, want a number"),
    "a weight beyond": ({"weights": {"like": -1.1e30}}, r"like is -1.1e\+30, want -1e\+30 to 1e"),
    "a weight that is NaN": ({"weights": {"like": float("nan")}}, r"like is nan, want -1e\+30"),
    "seconds": ({"time_ms": 1_764_500_000}, r"in seconds 2025-11-30; send milliseconds since 1970"),
    "microseconds": ({"time_ms": TIME_MS * 1000}, r"in microseconds 2025-11-30; send milliseconds"),
    "a time of text": ({"time_ms": "2025-11-30"}, r"time_ms is '2025-11-30', want a whole number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_json_is_one_short_sentence(name: str) -> None:
    changes, says = WRONG[name]
    with pytest.raises(ValueError, match=says) as caught:
        json_request(**changes)
    assert len(str(caught.value)) < 200
    json_request()


JSON_ALONE = {
    "a request feature outside",
    "a true candidate",
    "candidates by name",
    "no features",
}
"""What Arrow has no column for, or takes: a request feature may be a column of its own."""
UNSIGNED = {"beyond 64 bits": pa.list_(pa.uint64())}


@pytest.mark.parametrize("name", [name for name in WRONG if name not in JSON_ALONE])
def test_what_is_wrong_in_json_is_wrong_in_arrow(name: str) -> None:
    columns = {
        key: pa.array([value], UNSIGNED.get(name) if key == "candidates" else None)
        for key, value in {**PLAIN, **WRONG[name][0]}.items()
    }
    with pytest.raises(ValueError, match=r".") as caught:
        from_arrow(SPEC, arrow_bytes(pa.table(columns)), LIMIT)
    assert len(str(caught.value)) < 220
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"colour": pa.array([1])}, r"column 'colour' is unknown; have member_id, candidates, req"),
        ({"__index_level_0__": pa.array([1])}, r"'__index_level_0__' is unknown; have member_id"),
        ({"member_id": pa.array(["7"])}, r"'member_id' is string, want int64: it is no number"),
        ({"member_id": pa.array([True])}, r"'member_id' is bool, want int64"),
        ({"member_id": pa.array([1.5])}, r"'member_id' is double, want int64: Float value 1.5"),
        ({"member_id": pa.array([2.0**24], pa.float32())}, r"float cannot tell whole numbers from"),
        ({"member_id": pa.array([None], pa.int64())}, r"member_id is missing"),
        ({"candidates": pa.array([None], pa.list_(pa.int64()))}, r"candidates is missing"),
        ({"candidates": pa.array([[1, None]])}, r"candidates is None, want a whole number"),
        ({"candidates": pa.array([7])}, r"'candidates' is int64, want list<.*: it is no list"),
        ({"candidates": pa.array([["7"]])}, r"'candidates' is list<.*: it is no number"),
        ({"candidates": pa.array([[]], pa.list_(pa.int64()))}, r"no candidates"),
        (
            {"time_ms": pa.array([TIME_MS], pa.timestamp("ms"))},
            r"'time_ms' is timestamp\[ms\], want",
        ),
        ({"time_ms": pa.array([TIME_MS // 1000])}, r"in seconds 2025-11-30; send milliseconds"),
        ({"surface": pa.array([1.5])}, r"surface is 1.5, want a whole number"),
        ({"surface": pa.array(["home"])}, r"surface is 'home', want a whole number"),
        ({"surface": pa.array([True])}, r"surface is True, want a whole number"),
        ({"request": pa.array([5])}, r"request is 5, want values by name"),
        ({"weights": pa.array(["like"])}, r"weights is 'like', want values by name"),
    ],
)
def test_a_column_that_means_something_else_is_named(
    columns: dict[str, pa.Array], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        arrow_request(**columns)


def test_weights_and_features_may_be_maps() -> None:
    weights = pa.array([[("like", 2.0), ("skip", None)]], pa.map_(pa.string(), pa.float32()))
    request = pa.array([[("surface", 2)]], pa.map_(pa.string(), pa.int32()))
    asked = arrow_request(weights=weights, request=request, hour=pa.array([3]))
    assert (weight(asked, "like"), weight(asked, "skip")) == (2.0, -0.5)
    assert asked.request == {"surface": 2, "hour": 3}
    unknown = pa.array([[("clap", 2.0)]], pa.map_(pa.string(), pa.float32()))
    with pytest.raises(ValueError, match="task 'clap' is unknown"):
        arrow_request(weights=unknown)


def test_what_a_row_says_twice_is_refused() -> None:
    twice = pa.array([[("like", 1.0), ("like", 2.0)]], pa.map_(pa.string(), pa.float64()))
    with pytest.raises(ValueError, match=r"column 'weights' cannot be read: .*like"):
        arrow_request(weights=twice)
    struct = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["surface", "surface"])
    with pytest.raises(ValueError, match="column 'request' cannot be read"):
        arrow_request(request=struct)
    inside = pa.array([{"surface": 1}])
    with pytest.raises(ValueError, match="'surface' is a column and in request; send it once"):
        arrow_request(request=inside, surface=pa.array([1]))
    assert arrow_request(request=inside, surface=pa.nulls(1)).request == {"surface": 1}
    columns = [pa.array([7]), pa.array([[1]]), pa.array([8])]
    table = pa.Table.from_arrays(columns, ["member_id", "candidates", "member_id"])
    with pytest.raises(ValueError, match="column 'member_id' is there twice"):
        from_arrow(SPEC, arrow_bytes(table), LIMIT)


def test_a_stream_of_nothing_or_of_too_much_is_refused() -> None:
    table = pa.table({"member_id": pa.array([7] * 33), "candidates": pa.array([[1]] * 33)})
    assert len(from_arrow(SPEC, arrow_bytes(table.slice(0, 32)), LIMIT)) == 32
    for rows, says in ((33, "33 requests, this server takes 32"), (0, "no row; send at least one")):
        with pytest.raises(ValueError, match=says):
            from_arrow(SPEC, arrow_bytes(table.slice(0, rows)), LIMIT)
    with pytest.raises(ValueError, match="member_id is missing"):
        from_arrow(SPEC, arrow_bytes(table.select(["candidates"]).slice(0, 1)), LIMIT)
    for data in (b"", b"rows", arrow_bytes(table)[:-400]):
        with pytest.raises(ValueError, match="requests are not an Arrow IPC stream"):
            from_arrow(SPEC, data, LIMIT)
    said = table.slice(0, 1).replace_schema_metadata({"weights": '{"like": 1}'})
    with pytest.raises(ValueError, match="requests: metadata 'weights' is unknown; have none"):
        from_arrow(SPEC, arrow_bytes(said), LIMIT)
    assert len(from_json(SPEC, {"instances": [PLAIN] * 32}, LIMIT)) == 32
    for payload in ({"instances": []}, {"instances": [PLAIN] * 33}, {"instances": [7]}, {}, []):
        with pytest.raises(ValueError, match=r"instance|33 requests"):
            from_json(SPEC, payload, LIMIT)


@pytest.mark.parametrize("count", [1, LIMIT - 1, LIMIT])
def test_up_to_the_limit_candidates_are_taken(count: int) -> None:
    posts = list(range(count))
    assert json_request(candidates=posts).post_ids.tolist() == posts
    assert arrow_request(candidates=pa.array([posts])).post_ids.tolist() == posts


@pytest.mark.parametrize(
    ("value", "kept"),
    [(0, True), (3, True), (-1, True), (4, False), (-2, False), (2**31, False), (-(2**63), False)],
)
def test_a_code_that_ingest_refuses_is_the_default_and_named(value: int, kept: bool) -> None:
    """The simulator's `surface` has four values; `hour` beside it stays as it was sent."""
    for asked in (
        json_request(request={"surface": value, "hour": 23}),
        json_request(request={"hour": 23.0, "surface": Decimal(value)}),
        arrow_request(surface=pa.array([value]), hour=pa.array([23])),
    ):
        assert asked.request == {"surface": value if kept else -1, "hour": 23}
        assert asked.invalid == (() if kept else ("surface",))
    both = json_request(request={"surface": 4, "hour": 24})
    assert both.request == {"surface": -1, "hour": -1}
    assert both.invalid == ("surface", "hour")


def with_surface(kind: Kind) -> Spec:
    """The simulator's spec, its `surface` of another kind."""
    features = (replace(f, kind=kind) if f.name == "surface" else f for f in SPEC.features)
    return replace(SPEC, features=tuple(features))


@pytest.mark.parametrize(
    ("kind", "value", "want"),
    [
        (Numeric(), 2**31 - 1, 2**31 - 1),
        (Numeric(), -(2**31), -(2**31)),
        (Numeric(), 2**31, None),
        (Numeric(), -(2**31) - 1, None),
        (HashedId(table="place", buckets=4, dim=2), 2**31 - 1, 2**31 - 1),
        (HashedId(table="place", buckets=4, dim=2), 2**31, None),
        (HashedId(table="place", buckets=4, dim=2), -1, -1),
        (HashedId(table="place", buckets=4, dim=2), -2, 0),
        (HashedId(table="place", buckets=4, dim=2), -(2**40), 0),
    ],
)
def test_a_feature_of_another_kind_is_an_int32(kind: Kind, value: int, want: int | None) -> None:
    body = {"instances": [{**PLAIN, "request": {"surface": value}}]}
    if want is None:
        with pytest.raises(
            ValueError, match=rf"surface is {value}, want -2147483648 to 2147483647"
        ):
            from_json(with_surface(kind), body, LIMIT)
    else:
        [asked] = from_json(with_surface(kind), body, LIMIT)
        assert asked.request == {"surface": want}
        assert asked.invalid == (() if want == value else ("surface",))


def test_a_code_that_its_dictionary_does_not_have_is_refused() -> None:
    """Whoever reads it unchecked reads behind the dictionary's end."""
    beyond = pa.DictionaryArray.from_arrays(pa.array([2]), pa.array([7, 8]), safe=False)
    for columns in ({"member_id": beyond}, {"surface": beyond}):
        with pytest.raises(ValueError, match="requests are not an Arrow IPC stream"):
            arrow_request(**columns)


def test_features_are_those_of_the_spec() -> None:
    [asked] = from_json(KUAIRAND, {"instances": [{**PLAIN, "request": {"tab": 15}}]}, LIMIT)
    assert (asked.request, asked.invalid) == ({"tab": 15}, ())
    with pytest.raises(ValueError, match="'surface' is unknown; have tab, hour"):
        from_json(KUAIRAND, {"instances": [{**PLAIN, "request": {"surface": 1}}]}, LIMIT)


def ranked(member: int, posts: list[int], scores: list[float], flags: list[str]) -> Ranked:
    """Probabilities that say which candidate and which task they are of."""
    count = len(posts)
    rows = np.arange(count, dtype=np.float32)[:, None] / 16
    return Ranked(
        request=FeedRequest(
            member_id=member,
            post_ids=np.array(posts, np.int64),
            request={},
            time_ms=TIME_MS,
            weights_K=np.ones(6),
        ),
        probabilities_NK=(rows + np.arange(6, dtype=np.float32) / 128).astype(np.float32),
        scores=np.array(scores, np.float64),
        flags=flags,
        post_flags=[[f"of:{i}"] if i else [] for i in range(count)],
        model_version="v7",
        dtype="float32",
    )


def test_an_answer_is_sorted_and_equal_scores_stay_as_they_were_sent() -> None:
    """A candidate that was named twice is answered twice, at its two places."""
    sent = ranked(5, [11, 22, 33, 22, 44], [0.5, 2.0, 0.5, 2.0, 3.25], ["unknown_member"])
    order = [4, 1, 3, 0, 2]
    [answer] = to_json(SPEC, [sent])["predictions"]
    assert (answer["member_id"], answer["model_version"]) == (5, "v7")
    assert answer["flags"] == ["unknown_member"]
    assert [row["post_id"] for row in answer["ranked"]] == [44, 22, 22, 11, 33]
    assert [row["score"] for row in answer["ranked"]] == [3.25, 2.0, 2.0, 0.5, 0.5]
    assert [row["flags"] for row in answer["ranked"]] == [
        ["of:4"],
        ["of:1"],
        ["of:3"],
        [],
        ["of:2"],
    ]
    for row, i in zip(answer["ranked"], order, strict=True):
        assert list(row["probabilities"]) == [
            "click",
            "skip",
            "long_dwell",
            "like",
            "comment",
            "share",
        ]
        assert list(row["probabilities"].values()) == [i / 16 + k / 128 for k in range(6)]
    other = ranked(6, [55], [-1.0], [])
    table = pa.ipc.open_stream(to_arrow(SPEC, [sent, other])).read_all()
    assert table["request"].to_pylist() == [0, 0, 0, 0, 0, 1]
    assert table["member_id"].to_pylist() == [5, 5, 5, 5, 5, 6]
    assert table["post_id"].to_pylist() == [44, 22, 22, 11, 33, 55]
    assert table["score"].to_pylist() == [3.25, 2.0, 2.0, 0.5, 0.5, -1.0]
    assert table["like"].to_pylist() == [i / 16 + 3 / 128 for i in [*order, 0]]
    assert table["flags"].to_pylist() == [["of:4"], ["of:1"], ["of:3"], [], ["of:2"], []]
    assert table.schema.metadata[b"model_version"] == b"v7"
    assert json.loads(table.schema.metadata[b"flags"]) == [["unknown_member"], []]


ANSWER = pa.schema(
    {"request": pa.int32(), "member_id": pa.int64(), "post_id": pa.int64(), "score": pa.float32()}
    | {name: pa.float32() for name in ("click", "skip", "long_dwell", "like", "comment", "share")}
    | {"flags": pa.list_(pa.string())}
)


@pytest.mark.parametrize("counts", [(), (0,), (0, 2), (2, 0), (3,)])
def test_an_answer_to_nothing_has_the_same_columns(counts: tuple[int, ...]) -> None:
    answers = [ranked(m, [9] * n, [0.0] * n, []) for m, n in enumerate(counts)]
    table = pa.ipc.open_stream(to_arrow(SPEC, answers)).read_all()
    assert table.schema.equals(ANSWER)
    assert table["request"].to_pylist() == [i for i, n in enumerate(counts) for _ in range(n)]
    assert json.loads(table.schema.metadata[b"flags"]) == [[] for _ in counts]
    predictions = to_json(SPEC, answers)["predictions"]
    assert [len(p["ranked"]) for p in predictions] == list(counts)
