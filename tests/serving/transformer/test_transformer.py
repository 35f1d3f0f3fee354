# SPDX-License-Identifier: Apache-2.0
"""A real transformer before a real predictor and store: it ranks, degrades, refuses and logs."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kserve import InferRequest
from prometheus_client import REGISTRY

from feature_repo.specs import SIMULATOR as SPEC
from serving.errors import TooLate, Unavailable
from serving.infer import bytes_tensor
from serving.launch import NAME, Pair, Serving, launch, start_transformer, wait_ready
from serving.transformer import store_client
from serving.transformer.features import Fetcher
from serving.transformer.feed_request import FeedRequest
from serving.transformer.request_log import read_log
from serving.transformer.store_client import CacheConfig, StoreClient, Stored
from serving.transformer.transformer import Transformer, TransformerConfig
from serving.transformer.utility import weights_of
from serving.wire import decode_candidates
from tests.serving_builders import Grpc, SmallRun, post

STRANGER = 999_999_999


@pytest.fixture(scope="module")
def url(servers: Pair) -> str:
    return f"{servers.transformer.url}/v1/models/{NAME}:predict"


def body(run: SmallRun, **changes: Any) -> dict[str, Any]:
    usual = {"member_id": run.members[0], "candidates": run.posts[:6], "time_ms": run.end_ms}
    return {"instances": [{**usual, **changes}]}


def ranked(url: str, run: SmallRun, **changes: Any) -> dict[str, Any]:
    status, answer = post(url, body(run, **changes))
    assert status == 200, answer
    return answer["predictions"][0]


def test_a_feed_is_ranked_by_the_weighted_sum(url: str, small_run: SmallRun) -> None:
    answer = ranked(url, small_run)
    assert answer["model_version"] == f"{small_run.day}-test"
    assert answer["flags"] == []
    rows = answer["ranked"]
    assert sorted(r["post_id"] for r in rows) == sorted(small_run.posts[:6])
    utilities = {t.name: t.utility for t in SPEC.tasks}
    for row in rows:
        want = sum(utilities[t] * p for t, p in row["probabilities"].items())
        assert row["score"] == pytest.approx(want, abs=1e-9)
    assert [r["score"] for r in rows] == sorted((r["score"] for r in rows), reverse=True)


def test_weights_of_the_request_change_the_order_not_the_probabilities(
    url: str, small_run: SmallRun
) -> None:
    plain, other = ranked(url, small_run), ranked(url, small_run, weights={"skip": 1000.0})
    by_post = {r["post_id"]: r["probabilities"] for r in plain["ranked"]}
    skips = [r["probabilities"]["skip"] for r in other["ranked"]]
    assert skips == sorted(skips, reverse=True)
    for row in other["ranked"]:
        assert row["probabilities"] == pytest.approx(by_post[row["post_id"]], abs=2e-5)


@pytest.mark.law
def test_law_1_through_the_whole_path(url: str, small_run: SmallRun) -> None:
    whole = {r["post_id"]: r for r in ranked(url, small_run)["ranked"]}
    for posts in (small_run.posts[2:3], small_run.posts[:6][::-1], small_run.posts[1:9]):
        for row in ranked(url, small_run, candidates=posts)["ranked"]:
            if row["post_id"] in whole:
                want = whole[row["post_id"]]["probabilities"]
                assert row["probabilities"] == pytest.approx(want, abs=2e-5)


def test_an_unknown_member_is_ranked_as_a_new_one_and_flagged(
    url: str, small_run: SmallRun
) -> None:
    answer = ranked(url, small_run, member_id=STRANGER)
    assert answer["flags"][0] == "unknown_member"
    assert len(answer["ranked"]) == 6


def test_an_unknown_post_gets_defaults_and_is_flagged(url: str, small_run: SmallRun) -> None:
    rows = ranked(url, small_run, candidates=[STRANGER, small_run.posts[0]])["ranked"]
    flags = {r["post_id"]: r["flags"] for r in rows}
    assert "unknown_post" in flags[STRANGER]
    assert "unknown_post" not in flags[small_run.posts[0]]


def test_a_store_that_was_not_updated_for_too_long_degrades_and_says_so(
    url: str, small_run: SmallRun
) -> None:
    late = small_run.end_ms + 200 * 3_600_000
    answer = ranked(url, small_run, time_ms=late)
    assert "stale:history" in answer["flags"]
    assert all("stale:post_content" in r["flags"] for r in answer["ranked"])
    assert "stale:history" not in ranked(url, small_run)["flags"]


def test_a_request_about_the_past_says_that_its_features_are_newer(
    url: str, small_run: SmallRun
) -> None:
    assert "ahead:history" in ranked(url, small_run, time_ms=small_run.end_ms - 1)["flags"]


def test_several_requests_in_one_call(url: str, small_run: SmallRun) -> None:
    instances = [body(small_run, member_id=m)["instances"][0] for m in small_run.members[:3]]
    status, answer = post(url, {"instances": instances})
    assert status == 200
    assert [p["member_id"] for p in answer["predictions"]] == small_run.members[:3]


BAD = {
    "zero candidates": {"candidates": []},
    "5000 candidates": {"candidates": list(range(5000))},
    "a candidate that is text": {"candidates": ["7"]},
    "a candidate beyond int64": {"candidates": [2**63]},
    "a member that is text": {"member_id": "seven"},
    "no member": {"member_id": None},
    "an unknown field": {"colour": "red"},
    "an unknown request feature": {"request": {"colour": 1}},
    "a request feature that is text": {"request": {"surface": "home"}},
    "an unknown task": {"weights": {"applause": 1.0}},
    "a time before 1970": {"time_ms": -5},
    "a time beyond any calendar": {"time_ms": 2**62},
    "a time after the year 9999": {"time_ms": 253_402_300_800_000},
    "a weight beyond any sum": {"weights": {"click": 1e308, "like": 1e308}},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_400_in_one_sentence(url: str, small_run: SmallRun, name: str) -> None:
    status, answer = post(url, body(small_run, **BAD[name]))
    assert status == 400, answer
    assert answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    "what",
    [b"{", b"", [1], {}, {"instances": []}, {"instances": [3]}, {"instances": [{}] * 33}],
)
def test_a_body_that_is_no_request_is_400(url: str, what: Any) -> None:
    assert post(url, what)[0] == 400


def test_a_weight_that_is_not_finite_is_400(url: str, small_run: SmallRun) -> None:
    text = json.dumps(body(small_run, weights={"click": 1e400})).encode()
    assert post(url, text)[0] == 400


def test_more_requests_than_fit_a_call_are_invalid_over_grpc(
    servers: Pair, small_run: SmallRun
) -> None:
    columns = {
        "member_id": pa.array(range(100_000), pa.int64()),
        "candidates": pa.array([[1]] * 100_000, pa.list_(pa.int64())),
    }
    code, reason = Grpc(servers.transformer.grpc).status(arrow_call(columns))
    assert code == "INVALID_ARGUMENT"
    assert "split the call" in reason


def test_an_unknown_model_is_404(servers: Pair, small_run: SmallRun) -> None:
    assert post(f"{servers.transformer.url}/v1/models/other:predict", body(small_run))[0] == 404


def test_a_deadline_that_passed_is_504(url: str, small_run: SmallRun) -> None:
    status, answer = post(url, {**body(small_run), "deadline_ms": 0})
    assert status == 504
    assert "deadline" in answer["error"]


def arrow_call(columns: dict[str, Any]) -> InferRequest:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    tensor = bytes_tensor("requests", sink.getvalue().to_pybytes())
    return InferRequest(NAME, [tensor], request_id="")


def arrow_columns(run: SmallRun) -> dict[str, Any]:
    return {
        "member_id": pa.array(run.members[:2], pa.int64()),
        "candidates": pa.array([run.posts[:6], run.posts[3:5]], pa.list_(pa.int64())),
        "time_ms": pa.array([run.end_ms, run.end_ms], pa.int64()),
        "surface": pa.array([1, None], pa.int32()),
    }


def test_arrow_over_grpc_answers_as_json_does(servers: Pair, url: str, small_run: SmallRun) -> None:
    reply = Grpc(servers.transformer.grpc).infer(arrow_call(arrow_columns(small_run)))
    table = pa.ipc.open_stream(reply.outputs[0].as_numpy()[0]).read_all()
    assert table.schema.metadata[b"model_version"].decode() == f"{small_run.day}-test"
    assert table["request"].to_pylist() == [0] * 6 + [1] * 2
    first = table.slice(0, 6)
    want = ranked(url, small_run, request={"surface": 1})["ranked"]
    assert first["post_id"].to_pylist() == [r["post_id"] for r in want]
    for task in SPEC.task_names:
        served = [r["probabilities"][task] for r in want]
        assert first[task].to_pylist() == pytest.approx(served, abs=2e-5)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("member_id", pa.array(["a", "b"])),
        ("candidates", pa.array([[], [1]], pa.list_(pa.int64()))),
        ("candidates", pa.array([[1, None], [1]], pa.list_(pa.int64()))),
        ("surface", pa.array([1.5, 2.5])),
        ("colour", pa.array([1, 2], pa.int32())),
    ],
)
def test_bad_arrow_is_invalid_argument(
    servers: Pair, small_run: SmallRun, name: str, column: pa.Array
) -> None:
    call = arrow_call({**arrow_columns(small_run), name: column})
    code, reason = Grpc(servers.transformer.grpc).status(call)
    assert code == "INVALID_ARGUMENT", reason


def test_metrics_tell_stages_cache_and_defaults(
    servers: Pair, url: str, small_run: SmallRun
) -> None:
    import urllib.request

    for _ in range(2):
        ranked(url, small_run, member_id=STRANGER)
    with urllib.request.urlopen(f"{servers.transformer.url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    for stage in ("decode", "features", "predictor", "reply"):
        assert f'feedsr_stage_seconds_count{{stage="{stage}"}}' in text
    assert 'feedsr_cache_reads_total{result="hit",view="post_content"}' in text
    assert 'feedsr_defaults_total{reason="missing",view="history"}' in text


@pytest.fixture
def logging_pair(small_run: SmallRun, tmp_path: Path) -> Iterator[tuple[Pair, Path]]:
    folder = tmp_path / "requests"
    with launch(small_run.serving(log_dir=folder)) as pair:
        yield pair, folder


def test_served_requests_are_logged_and_a_lost_predictor_is_503(
    logging_pair: tuple[Pair, Path], small_run: SmallRun
) -> None:
    pair, folder = logging_pair
    url = f"{pair.transformer.url}/v1/models/{NAME}:predict"
    answers = [ranked(url, small_run, member_id=m) for m in [*small_run.members[:4], STRANGER]]
    pair.predictor.stop()
    status, answer = post(url, body(small_run))
    assert status == 503
    assert "predictor" in answer["error"]
    assert Grpc(pair.transformer.grpc).status(arrow_call(arrow_columns(small_run)))[0] == (
        "UNAVAILABLE"
    )
    pair.transformer.stop()
    [day] = folder.iterdir()
    rows = read_log(day)
    assert [r["member_id"] for r in rows] == [a["member_id"] for a in answers]
    for row, answer in zip(rows, answers, strict=True):
        features, context = decode_candidates(SPEC, row["candidates"], 512)
        assert features["post_id"].tolist() == row["post_ids"] == small_run.posts[:6]
        assert context.shape == (6, SPEC.context_width)
        served = {r["post_id"]: list(r["probabilities"].values()) for r in answer["ranked"]}
        got = np.array(row["probabilities"]).reshape(6, -1)
        for post_id, probabilities in zip(row["post_ids"], got, strict=True):
            assert probabilities == pytest.approx(served[post_id])
    assert rows[0]["history"]
    assert rows[-1]["history"] == b""


def broken_store(run: SmallRun, folder: Path) -> Path:
    """A copy of the run's Feast repository whose online tables are gone."""
    feast = folder / "feast"
    shutil.copytree(run.layout.feast, feast)
    settings = feast / "feature_store.yaml"
    settings.write_text(settings.read_text().replace(str(run.layout.feast), str(feast)))
    with sqlite3.connect(feast / "online_store.db") as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        for (name,) in tables.fetchall():
            connection.execute(f'drop table "{name}"')
    return feast


def test_a_store_that_does_not_answer_is_503(
    servers: Pair, small_run: SmallRun, tmp_path: Path
) -> None:
    serving = dataclasses.replace(
        small_run.serving(log_dir=None), feast_dir=broken_store(small_run, tmp_path)
    )
    server = start_transformer(serving, servers.predictor.grpc, tmp_path)
    try:
        wait_ready([server], 120)
        status, answer = post(f"{server.url}/v1/models/{NAME}:predict", body(small_run))
        assert status == 503
        assert "the online store does not answer" in answer["error"]
        assert "\n" not in answer["error"]
        assert Grpc(server.grpc).status(arrow_call(arrow_columns(small_run)))[0] == "UNAVAILABLE"
    finally:
        server.stop()


def test_values_of_another_spec_are_refused_in_one_sentence(small_run: SmallRun) -> None:
    store = StoreClient(small_run.layout.feast, SPEC, CacheConfig(seconds=0))
    view = SPEC.view("post_popularity")
    smaller = dataclasses.replace(view, features=view.features[:2])
    views = tuple(smaller if v.name == view.name else v for v in SPEC.views)
    other = dataclasses.replace(SPEC, views=views)
    with pytest.raises(Unavailable, match="post_popularity: a stored value has"):
        Fetcher(other, store).fetch(feed_request(small_run))


def defaults(view: str, reason: str) -> float:
    labels = {"view": view, "reason": reason}
    return REGISTRY.get_sample_value("feedsr_defaults_total", labels) or 0.0


def test_a_pair_that_never_met_is_no_loss_and_a_stale_pair_is(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StoreClient(small_run.layout.feast, SPEC)
    asked = dataclasses.replace(feed_request(small_run), post_ids=np.array(small_run.posts))

    def flagged(asked: FeedRequest) -> int:
        flags = Fetcher(SPEC, store).fetch(asked).post_flags
        return sum(name.endswith(":affinity") for names in flags for name in names)

    before = defaults("affinity", "missing")
    assert flagged(dataclasses.replace(asked, member_id=STRANGER)) == 0
    assert defaults("affinity", "missing") == before
    late = small_run.end_ms + 200 * 3_600_000
    monkeypatch.setattr(store, "as_of_ms", lambda view: 0 if view == "affinity" else late)
    before = defaults("affinity", "stale")
    assert flagged(dataclasses.replace(asked, time_ms=late)) > 0
    assert defaults("affinity", "stale") > before


def test_a_materialization_forgets_what_was_cached_before_it(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StoreClient(small_run.layout.feast, SPEC, CacheConfig(seconds=3600))
    key = [(small_run.posts[0],)]
    [fresh] = store.read_cached("post_popularity", key)
    store._cache.put("post_popularity", key[0], Stored(b"old", 1), time.monotonic())
    monkeypatch.setattr(store_client, "REGISTRY_SECONDS", 0.0)
    store.refresh()
    assert store.read_cached("post_popularity", key)[0].value == b"old"
    view = store._views["post_popularity"]
    store._views["post_popularity"] = other = copy.copy(view)
    other.materialization_intervals = []
    store.refresh()
    assert store.read_cached("post_popularity", key) == [fresh]


def test_a_store_of_another_spec_is_refused_at_the_start(small_run: SmallRun) -> None:
    task = dataclasses.replace(SPEC.tasks[0], prior=0.5)
    other = dataclasses.replace(SPEC, tasks=(task, *SPEC.tasks[1:]))
    with pytest.raises(ValueError, match=r"was applied with spec .* serve with the store's spec"):
        StoreClient(small_run.layout.feast, other)


def slow_transformer(run: SmallRun, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> Transformer:
    """A transformer whose store takes half a second for a request."""
    config = TransformerConfig(
        spec_name=SPEC.name, feast_dir=run.layout.feast, predictor_host="", **limits
    )
    transformer = Transformer(NAME, config)
    transformer.load()
    monkeypatch.setattr(transformer._fetcher, "fetch", lambda asked: time.sleep(0.5))
    return transformer


def test_a_store_that_hangs_is_refused_in_time(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = slow_transformer(small_run, monkeypatch, timeout=0.1, max_queue=1)

    async def main() -> list[Any]:
        late = {**body(small_run), "deadline_ms": 50}
        first = asyncio.create_task(transformer.preprocess(body(small_run)))
        await asyncio.sleep(0)
        results = [await asyncio.gather(transformer.preprocess(late), return_exceptions=True)]
        results.append(await asyncio.gather(first, return_exceptions=True))
        results.append(await asyncio.gather(transformer.preprocess(late), return_exceptions=True))
        return [refusal for [refusal] in results]

    full, hung, late = asyncio.run(main())
    assert isinstance(full, Unavailable)
    assert "wait for the online store" in str(full)
    assert isinstance(hung, Unavailable)
    assert "did not answer within 0.1 s" in str(hung)
    assert isinstance(late, TooLate)
    transformer.close()


def feed_request(run: SmallRun) -> FeedRequest:
    return FeedRequest(
        member_id=run.members[0],
        post_ids=np.array(run.posts[:6]),
        request={},
        time_ms=run.end_ms,
        weights_K=weights_of(SPEC, {}),
    )


def test_no_repository_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no Feast repository"):
        StoreClient(tmp_path, SPEC)


def test_a_transformer_without_a_store_says_so_when_it_starts(
    small_run: SmallRun, tmp_path: Path
) -> None:
    serving: Serving = dataclasses.replace(small_run.serving(), feast_dir=tmp_path)
    server = start_transformer(serving, "127.0.0.1:9", tmp_path)
    with pytest.raises(ValueError, match=r"the transformer did not start.*no Feast repository"):
        wait_ready([server], 60)
