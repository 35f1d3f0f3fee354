# SPDX-License-Identifier: Apache-2.0
"""What a feed service may send, through both processes: the same answers, the same refusals."""

from __future__ import annotations

import urllib.request
from typing import Any

import pyarrow as pa
import pytest
from kserve import InferRequest

from feature_repo.specs import SIMULATOR as SPEC
from serving.infer import bytes_tensor
from serving.launch import NAME, Pair
from tests.serving_builders import Grpc, SmallRun, post

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def client(servers: Pair) -> Grpc:
    return Grpc(servers.transformer.grpc)


def plain(run: SmallRun, **changes: Any) -> dict[str, Any]:
    usual = {"member_id": run.members[0], "candidates": run.posts[:6], "time_ms": run.end_ms}
    return {**usual, "request": {"surface": 1}, **changes}


def over_json(servers: Pair, *instances: dict[str, Any]) -> list[Answer]:
    url = f"{servers.transformer.url}/v1/models/{NAME}:predict"
    status, answer = post(url, {"instances": list(instances)})
    assert status == 200, answer
    return list(answer["predictions"])


def refusal(servers: Pair, instance: dict[str, Any], **body: Any) -> str:
    url = f"{servers.transformer.url}/v1/models/{NAME}:predict"
    status, answer = post(url, {"instances": [instance], **body})
    assert status == 400, answer
    return str(answer["error"])


def message(table: pa.Table) -> InferRequest:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    tensor = bytes_tensor("requests", sink.getvalue().to_pybytes())
    return InferRequest(NAME, [tensor], request_id="")


def over_arrow(client: Grpc, table: pa.Table) -> pa.Table:
    reply = client.infer(message(table))
    return pa.ipc.open_stream(reply.outputs[0].as_numpy()[0]).read_all()


@pytest.mark.law
def test_a_candidate_named_twice_is_answered_twice_with_one_score(
    servers: Pair, client: Grpc, small_run: SmallRun
) -> None:
    posts = small_run.posts
    named = [*posts[:9], posts[3], posts[0], 999_999_999, *posts[3:5], 999_999_999]
    [answer] = over_json(servers, plain(small_run, candidates=named))
    rows = answer["ranked"]
    assert sorted(row["post_id"] for row in rows) == sorted(named)
    by_post: dict[int, Answer] = {}
    for row in rows:
        assert by_post.setdefault(row["post_id"], row) == row
    assert [r["score"] for r in rows] == sorted((r["score"] for r in rows), reverse=True)
    table = over_arrow(client, pa.Table.from_pylist([plain(small_run, candidates=named)]))
    assert sorted(table["post_id"].to_pylist()) == sorted(named)
    columns = [table[name].to_pylist() for name in ("post_id", "score", "like", "share")]
    assert len(set(zip(*columns, strict=True))) == 10


def test_the_same_request_in_looser_types_has_the_same_answer(
    servers: Pair, client: Grpc, small_run: SmallRun
) -> None:
    asked = plain(small_run, weights={"like": 2})
    loose = {
        "member_id": float(asked["member_id"]),
        "candidates": [float(p) for p in asked["candidates"]],
        "time_ms": float(asked["time_ms"]),
        "request": {"surface": 1.0, "hour": None},
        "weights": {"like": 2.0, "skip": None},
    }
    exact, same = over_json(servers, asked, loose)
    assert [r["post_id"] for r in same["ranked"]] == [r["post_id"] for r in exact["ranked"]]
    columns = {
        "member_id": pa.array([asked["member_id"]], pa.uint64()),
        "candidates": pa.array([asked["candidates"]], pa.large_list(pa.float64())),
        "time_ms": pa.array([asked["time_ms"]], pa.float64()).dictionary_encode(),
        "surface": pa.array([1], pa.uint8()),
        "weights": pa.array([{"like": 2.0, "skip": None}]),
    }
    table = over_arrow(client, pa.table(columns))
    assert table["post_id"].to_pylist() == [r["post_id"] for r in exact["ranked"]]
    scores = [r["score"] for r in exact["ranked"]]
    assert [r["score"] for r in same["ranked"]] == pytest.approx(scores, abs=1e-4)
    assert table["score"].to_pylist() == pytest.approx(scores, abs=1e-4)


def test_a_code_that_ingest_refuses_is_flagged_counted_and_scored_as_unknown(
    servers: Pair, client: Grpc, small_run: SmallRun
) -> None:
    def counted() -> float:
        with urllib.request.urlopen(f"{servers.transformer.url}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        name = 'feedsr_defaults_total{reason="invalid",view="request"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = counted()
    instances = [plain(small_run, request={"surface": code}) for code in (99, -1, -7)]
    beyond, unknown, negative = over_json(servers, *instances)
    assert (beyond["flags"], unknown["flags"]) == (["invalid:surface"], [])
    assert negative["flags"] == ["invalid:surface"]
    want = [r["score"] for r in unknown["ranked"]]
    for answer in (beyond, negative):
        assert [r["score"] for r in answer["ranked"]] == pytest.approx(want, abs=1e-4)
    assert counted() == before + 2
    table = over_arrow(client, pa.Table.from_pylist(instances[:1]))
    assert table.schema.metadata[b"flags"] == b'[["invalid:surface"]]'


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": 1}, "key of an instance 'colour' is unknown; have member_id, candidates,"),
        ({"request": {"colour": 1}}, "request feature 'colour' is unknown; have surface, hour"),
        ({"weights": {"clap": 1}}, "weights: task 'clap' is unknown; have click, skip,"),
        ({"candidates": [{"post_id": 1}]}, "candidates is {'post_id': 1}, want a whole number"),
        ({"time_ms": 1_764_500_000}, "in seconds 2025-11-30; send milliseconds since 1970"),
        ({"member_id": True}, "member_id is True, want a whole number"),
        ({"candidates": [1] * 513}, "513 candidates, this server takes 512; split the request"),
    ],
)
def test_what_is_refused_is_named_in_json_and_in_arrow(
    servers: Pair, client: Grpc, small_run: SmallRun, changes: dict[str, Any], says: str
) -> None:
    asked = plain(small_run, **changes)
    assert says in refusal(servers, asked)
    code, reason = client.status(message(pa.Table.from_pylist([asked])))
    assert code == "INVALID_ARGUMENT"
    names = [part for part in ("colour", "clap", "seconds", "member_id", "513") if part in says]
    assert all(name in reason for name in names), reason
    assert len(reason) < 300


def test_a_body_says_nothing_that_is_not_read(servers: Pair, small_run: SmallRun) -> None:
    assert "'colour' is unknown" in refusal(servers, plain(small_run), colour="red")


def test_five_hundred_and_twelve_candidates_are_taken(servers: Pair, small_run: SmallRun) -> None:
    [answer] = over_json(servers, plain(small_run, candidates=list(range(1, 513))))
    assert len(answer["ranked"]) == 512
    assert set(answer["ranked"][0]["probabilities"]) == set(SPEC.task_names)
