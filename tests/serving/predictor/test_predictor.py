# SPDX-License-Identifier: Apache-2.0
"""A real predictor process over loopback: the laws through it, and every refusal's status."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_repo.specs import KUAIRAND
from feature_repo.specs import SIMULATOR as SPEC
from serving.launch import NAME, Pair, Server, start_predictor, wait_ready
from serving.predictor.rank_batch import build_rank_batch
from tests.serving_builders import (
    NOW_MS,
    Grpc,
    SmallRun,
    candidates,
    history_value,
    instance,
    message,
    noisy_ranker,
    post,
    rank_request,
    raw_message,
    take,
)

HISTORY = history_value(SPEC, 70, 1)
BOUND = 2e-5
"""Probabilities of one float32 model from two packings: some units in the last place."""


@pytest.fixture(scope="module")
def predictor(servers: Pair) -> Server:
    return servers.predictor


@pytest.fixture(scope="module")
def client(predictor: Server) -> Grpc:
    return Grpc(predictor.grpc)


def scores(client: Grpc, history: bytes, columns: Any) -> np.ndarray:
    return client.infer(message(SPEC, history, columns)).outputs[0].as_numpy()


def predict_url(predictor: Server) -> str:
    return f"{predictor.url}/v1/models/{NAME}:predict"


@pytest.mark.law
def test_law_1_a_score_does_not_depend_on_the_other_candidates(client: Grpc) -> None:
    columns = candidates(SPEC, 12, 3)
    together = scores(client, HISTORY, columns)
    assert np.ptp(together, axis=0).max() > 100 * BOUND
    for rows in ([4], [11, 4], [4, 0, 7, 4], list(range(11, -1, -1))):
        alone = scores(client, HISTORY, take(*columns, rows))
        np.testing.assert_allclose(alone, together[rows], atol=BOUND)


@pytest.mark.law
def test_law_2_the_server_scores_as_the_model_does(client: Grpc, small_run: SmallRun) -> None:
    for rows, seed in ((0, 5), (1, 6), (70, 7)):
        request = rank_request(SPEC, rows, 9, seed)
        batch = build_rank_batch(SPEC, small_run.config.freshness, [request])
        with torch.inference_mode():
            want = noisy_ranker(SPEC).rank(batch).sigmoid().numpy()
        columns = (request.features, request.context_NC)
        got = scores(client, history_value(SPEC, rows, seed), columns)
        np.testing.assert_allclose(got, want, atol=BOUND)


@pytest.mark.law
def test_law_5_a_score_does_not_depend_on_who_shares_the_batch(client: Grpc) -> None:
    calls = [(history_value(SPEC, 9 * i, i), candidates(SPEC, 1 + i, i)) for i in range(10)]
    alone = [scores(client, *call) for call in calls]
    with ThreadPoolExecutor(10) as pool:
        for _ in range(3):
            together = list(pool.map(lambda call: scores(client, *call), calls))
            for want, got in zip(alone, together, strict=True):
                np.testing.assert_allclose(got, want, atol=BOUND)


def test_concurrent_requests_are_joined(client: Grpc, predictor: Server) -> None:
    before = metric(predictor, "feedsr_batch_requests")
    call = message(SPEC, HISTORY, candidates(SPEC, 64, 1))
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(client.infer, call) for _ in range(48)]:
            assert future.result().outputs[0].shape == [64, 6]
    after = metric(predictor, "feedsr_batch_requests")
    requests, batches = (after[n] - before.get(n, 0.0) for n in ("sum", "count"))
    assert requests == 48
    assert batches < 40


def metric(server: Server, name: str) -> dict[str, float]:
    """The sum and count of a histogram on /metrics."""
    import urllib.request

    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith(name)]
    return {key.removeprefix(f"{name}_"): float(value) for key, value in pairs}


def test_v1_and_v2_answer_the_same(client: Grpc, predictor: Server) -> None:
    columns = candidates(SPEC, 5, 8)
    status, answer = post(predict_url(predictor), {"instances": [instance(SPEC, HISTORY, columns)]})
    assert status == 200
    [prediction] = answer["predictions"]
    assert list(prediction["probabilities"]) == list(SPEC.task_names)
    got = np.array(list(prediction["probabilities"].values())).T
    np.testing.assert_allclose(got, scores(client, HISTORY, columns), atol=BOUND)


def test_an_answer_names_tasks_and_version(client: Grpc, small_run: SmallRun) -> None:
    reply = client.infer(message(SPEC, HISTORY, candidates(SPEC, 2, 8)))
    assert reply.parameters["tasks"].string_param.split(",") == list(SPEC.task_names)
    assert reply.parameters["model_version"].string_param == f"{small_run.day}-test"
    assert reply.parameters["dtype"].string_param == "float32"


def test_a_history_seen_before_is_remembered(client: Grpc, predictor: Server) -> None:
    name = "feedsr_history_cache_reads_total"
    value, columns = history_value(SPEC, 33, 4321), candidates(SPEC, 6, 4)
    before = metric(predictor, name)
    first, again = (scores(client, value, columns) for _ in range(2))
    np.testing.assert_allclose(again, first, atol=BOUND)
    counted = {key: number - before.get(key, 0) for key, number in metric(predictor, name).items()}
    for result in ("miss", "hit"):
        assert sum(n for key, n in counted.items() if result in key) == 1


def bad_calls() -> dict[str, Any]:
    good = candidates(SPEC, 3, 1)
    foreign = candidates(KUAIRAND, 3, 1)
    encoded = message(SPEC, HISTORY, good).inputs[1].as_numpy()[0]
    times = {"request_time_ms": NOW_MS}
    calls = {
        "zero candidates": message(SPEC, HISTORY, candidates(SPEC, 0, 1)),
        "5000 candidates": message(SPEC, HISTORY, candidates(SPEC, 5000, 1)),
        "another spec's hash": message(SPEC, HISTORY, good, spec_hash="0123456789abcdef"),
        "another spec's columns": raw_message(
            HISTORY, message(KUAIRAND, b"", foreign).inputs[1].as_numpy()[0], times
        ),
        "another spec's history": message(SPEC, history_value(KUAIRAND, 5, 1), good),
        "truncated candidates": raw_message(HISTORY, encoded[: len(encoded) // 2], times),
        "truncated history": message(SPEC, HISTORY[: len(HISTORY) // 2], good),
        "no Arrow at all": raw_message(HISTORY, b"candidates", times),
        "no time": message(SPEC, HISTORY, good, request_time_ms=None),
        "a time that is text": message(SPEC, HISTORY, good, request_time_ms="noon"),
        "a time before 1970": message(SPEC, HISTORY, good, request_time_ms=-1),
        "a deadline that is text": message(SPEC, HISTORY, good, deadline_ms="soon"),
    }
    one_input = message(SPEC, HISTORY, good)
    one_input.inputs = one_input.inputs[:1]
    return {**calls, "no candidates input": one_input}


@pytest.mark.parametrize("name", bad_calls())
def test_bad_input_over_grpc_is_invalid_argument(client: Grpc, name: str) -> None:
    code, reason = client.status(bad_calls()[name])
    assert code == "INVALID_ARGUMENT", reason
    assert reason
    assert "\n" not in reason


def test_a_tensor_of_another_type_or_shape_is_invalid_argument(client: Grpc) -> None:
    call = message(SPEC, HISTORY, candidates(SPEC, 3, 1))
    call.inputs[0]._datatype = "FP32"
    assert client.status(call)[0] == "INVALID_ARGUMENT"
    call = message(SPEC, HISTORY, candidates(SPEC, 3, 1))
    call.inputs[0]._shape = [2]
    assert client.status(call)[0] == "INVALID_ARGUMENT"
    call = message(SPEC, HISTORY, candidates(SPEC, 3, 1))
    call.inputs[0]._raw_data = call.inputs[0]._raw_data[:-3]
    assert client.status(call)[0] == "INVALID_ARGUMENT"


def bad_bodies() -> dict[str, Any]:
    good = instance(SPEC, HISTORY, candidates(SPEC, 3, 1))

    def changed(**parts: Any) -> dict[str, Any]:
        return {"instances": [{**good, **parts}]}

    columns = good["candidates"]
    return {
        "not JSON": b"{",
        "a list": [1, 2],
        "no instances": {},
        "an empty list": {"instances": []},
        "an instance that is a number": {"instances": [7]},
        "no time": changed(request_time_ms=None),
        "history that is no base64": changed(history="***"),
        "history that is no history": changed(history="aGVsbG8gd29ybGQ="),
        "a missing column": changed(candidates={k: columns[k] for k in columns if k != "media"}),
        "columns of two lengths": changed(candidates={**columns, "media": [1]}),
        "a column of text": changed(candidates={**columns, "media": ["a", "b", "c"]}),
        "a code beyond int32": changed(candidates={**columns, "media": [1, 2, 2**40]}),
        "a code with a fraction": changed(candidates={**columns, "media": [1.5, 2, 3]}),
        "a column too many": changed(candidates={**columns, "colour": [1, 2, 3]}),
        "more requests than fit a call": {"instances": [good] * 33},
        "a body above the limit": {"instances": [{**good, "history": "A" * 9_000_000}]},
        "context of another width": changed(context=[[1.0]] * 3),
        "context of text": changed(context=[["x"] * SPEC.context_width] * 3),
        "no context": changed(context=[]),
        "zero candidates": changed(candidates={k: [] for k in columns}, context=[]),
        "another spec": changed(spec_hash="0123456789abcdef"),
    }


@pytest.mark.parametrize("name", bad_bodies())
def test_bad_input_over_rest_is_400(predictor: Server, name: str) -> None:
    status, answer = post(predict_url(predictor), bad_bodies()[name])
    assert status == 400, answer
    assert answer["error"]
    assert "\n" not in answer["error"]


def test_a_malformed_v2_rest_call_is_never_500(predictor: Server) -> None:
    url = f"{predictor.url}/v2/models/{NAME}/infer"
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": "2"}
    assert post(url, b"{}rest", headers)[0] == 400
    headers["inference-header-content-length"] = "two"
    assert post(url, b"{}rest", headers)[0] == 400
    status, answer = post(url, {"inputs": 3})
    assert status == 400
    assert "inputs" in answer["error"]


def test_an_unknown_model_is_404(client: Grpc, predictor: Server) -> None:
    body = {"instances": [instance(SPEC, HISTORY, candidates(SPEC, 1, 1))]}
    assert post(f"{predictor.url}/v1/models/other:predict", body)[0] == 404
    call = message(SPEC, HISTORY, candidates(SPEC, 1, 1))
    call.model_name = "other"
    assert client.status(call)[0] == "NOT_FOUND"


def test_a_deadline_that_cannot_be_met_is_504(client: Grpc, predictor: Server) -> None:
    call = message(SPEC, HISTORY, candidates(SPEC, 3, 1), deadline_ms=0)
    assert client.status(call)[0] == "DEADLINE_EXCEEDED"
    body = {"instances": [instance(SPEC, HISTORY, candidates(SPEC, 3, 1))], "deadline_ms": 0}
    status, answer = post(predict_url(predictor), body)
    assert status == 504
    assert "deadline" in answer["error"]


def test_a_full_queue_is_503_and_everybody_else_is_served(
    small_run: SmallRun, tmp_path: Path
) -> None:
    flags = ("--max_queue", "1", "--max_batch", "1")
    with_limits = small_run.serving()
    with_limits = type(with_limits)(
        **{**vars(with_limits), "predictor_flags": (*with_limits.predictor_flags, *flags)}
    )
    server = start_predictor(with_limits, tmp_path)
    try:
        wait_ready([server], 120)
        client = Grpc(server.grpc)
        call = message(SPEC, history_value(SPEC, 1000, 3), candidates(SPEC, 512, 1))
        with ThreadPoolExecutor(24) as pool:
            codes = list(pool.map(lambda _: client.status(call)[0], range(24)))
        assert set(codes) == {"OK", "UNAVAILABLE"}
    finally:
        server.stop()


def test_sigterm_answers_what_is_in_flight(small_run: SmallRun, tmp_path: Path) -> None:
    server = start_predictor(small_run.serving(), tmp_path)
    codes: list[str] = []
    try:
        wait_ready([server], 120)
        client = Grpc(server.grpc)
        call = message(SPEC, history_value(SPEC, 1000, 3), candidates(SPEC, 512, 1))
        assert client.status(call)[0] == "OK"
        threads = [
            threading.Thread(target=lambda: codes.append(client.status(call)[0])) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        server.stop()
        for thread in threads:
            thread.join(30)
    finally:
        server.stop()
    assert codes == ["OK"] * 6
    assert server.process.returncode == 0
