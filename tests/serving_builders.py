# SPDX-License-Identifier: Apache-2.0
"""Histories, candidates and calls for the serving tests, the same for the same seed."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from kserve import InferRequest, InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from components.config import DailyConfig, load_config
from components.features.histories import histories
from components.features.offline import features
from components.features.online import materialize
from components.layout.paths import Layout
from components.log.ingest import ingest
from components.log.sources.simulator import simulate
from components.log.sources.simulator_config import SimulatorConfig
from components.loop.serve import serving_of
from feature_repo.spec import DAY_MS, Spec
from model import FeedSRConfig, build_ranker
from model.checkpoint import save_model
from model.feed_sr import FeedSR
from serving.history import decode_history, encode_history
from serving.infer import bytes_tensor
from serving.launch import NAME, Serving
from serving.wire import RankRequest, encode_candidates
from tests.builders import make_columns, make_context

NOW_MS = 20_000 * DAY_MS + 12 * 3_600_000


def history_value(spec: Spec, rows: int, seed: int, now_ms: int = NOW_MS) -> bytes:
    """A member's history value of `rows` impressions in the days before `now_ms`; b"" for none."""
    if rows == 0:
        return b""
    generator = torch.Generator().manual_seed(seed)
    numbers = np.random.default_rng(seed)
    arrival = np.sort(now_ms - numbers.integers(1, 20 * DAY_MS, rows))
    columns: dict[str, Any] = {
        "event_time": arrival - numbers.integers(0, 60_000, rows),
        "arrival_time": arrival,
        "session_id": np.arange(rows) // 5,
        "timed": np.ones(rows, np.bool_),
        "position": numbers.integers(0, 30, rows).astype(np.int16),
    }
    drawn = make_columns((*spec.with_role("sequence"), *spec.with_role("action")), rows, generator)
    columns |= {name: tensor.numpy() for name, tensor in drawn.items()}
    arrays = [arrow(columns[f.name], f.type) for f in spec.history_schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=spec.history_schema)
    return encode_history(batch, member_id=seed, count=rows, spec=spec)


def arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of one or two dimensions."""
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), kind.list_size).cast(
            kind
        )
    return pa.array(values, kind)


def candidates(spec: Spec, count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random sequence features and context of `count` candidates."""
    generator = torch.Generator().manual_seed(seed)
    drawn = make_columns(spec.with_role("sequence"), count, generator)
    features = {name: tensor.numpy() for name, tensor in drawn.items()}
    return features, make_context(spec, count, generator).numpy()


def take(
    features: dict[str, np.ndarray], context: np.ndarray, rows: Any
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Some of the candidates."""
    return {name: column[rows] for name, column in features.items()}, context[rows]


def rank_request(spec: Spec, rows: int, count: int, seed: int) -> RankRequest:
    """A decoded request."""
    features, context = candidates(spec, count, seed)
    history = decode_history(history_value(spec, rows, seed), spec)
    return RankRequest(history=history, features=features, context_NC=context, time_ms=NOW_MS)


def message(
    spec: Spec, history: bytes, columns: tuple[dict[str, np.ndarray], np.ndarray], **extra: Any
) -> InferRequest:
    """A V2 call of the predictor; `extra` are more parameters, None takes one away."""
    parameters = {"request_time_ms": NOW_MS, "spec_hash": spec.hash, **extra}
    return raw_message(history, encode_candidates(spec, *columns), parameters)


def raw_message(history: bytes, encoded: bytes, parameters: dict[str, Any]) -> InferRequest:
    """A V2 call of the predictor out of any bytes."""
    kept = {name: value for name, value in parameters.items() if value is not None}
    tensors = [bytes_tensor("history", history), bytes_tensor("candidates", encoded)]
    return InferRequest(NAME, tensors, request_id="", parameters=kept)


class Grpc:
    """A blocking V2 client of one server."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = GRPCInferenceServiceStub(self.channel)

    def infer(self, call: InferRequest, timeout: float = 30.0) -> InferResponse:
        """The answer; grpc.RpcError otherwise."""
        return InferResponse.from_grpc(self.stub.ModelInfer(call.to_grpc(), timeout=timeout))

    def status(self, call: InferRequest) -> tuple[str, str]:
        """The name of the status the call ends with, and its sentence."""
        try:
            self.infer(call)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())
        return "OK", ""


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """The HTTP status and the JSON of the answer; `body` is bytes or becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def instance(
    spec: Spec, history: bytes, columns: tuple[dict[str, np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """A V1 request of the predictor."""
    features, context = columns
    return {
        "history": base64.b64encode(history).decode(),
        "candidates": {n: plain(column) for n, column in features.items()},
        "context": plain(context),
        "request_time_ms": NOW_MS,
        "spec_hash": spec.hash,
    }


def plain(values: np.ndarray) -> list[Any]:
    """Lists of plain numbers, None for NaN."""
    return [plain(v) if isinstance(v, np.ndarray) else None if v != v else v.item() for v in values]


def noisy_ranker(spec: Spec, seed: int = 1) -> FeedSR:
    """A small float32 model whose every parameter matters; an untrained one sees little."""
    ranker = build_ranker(FeedSRConfig(width=16, layers=2, heads=2), spec, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return ranker.eval()


@dataclass(frozen=True)
class SmallRun:
    """A run with an online store as of the end of `day`, and a promoted (not trained) model.

    Attributes:
        end_ms: the end of `day`, when a request finds the store up to date.
        posts: ids of the newest posts, newest first.
        members: ids of the members with impressions, most active first.
    """

    layout: Layout
    config: DailyConfig
    day: str
    end_ms: int
    posts: list[int]
    members: list[int]

    def serving(self, **changes: Any) -> Serving:
        """What to launch for this run, on one torch thread."""
        whole = serving_of(self.layout, self.config)
        return dataclasses.replace(whole, predictor_flags=("--torch_threads", "1"), **changes)


def build_small_run(root: Path) -> SmallRun:
    """Three simulated days through the real steps; about 60 members and 3,000 impressions."""
    layout, config = Layout.at(root), load_config("demo").model_copy(update={"parity_requests": 6})
    feed = SimulatorConfig(days=3, members=60, actors=20, posts_per_day=40, impressions=3_000)
    simulate(layout, feed)
    days = layout.raw_days()
    for day in days:
        for step in (ingest, features, histories):
            step(layout, day, config)
    materialize(layout, days[-1], config)
    day, spec = days[-1], config.spec
    save_model(layout.model(day, "feed_sr"), noisy_ranker(spec), {"freshness": config.freshness})
    version = layout.registry / "versions" / f"{day}-test"
    shutil.copytree(layout.model(day, "feed_sr"), version)
    (layout.registry / "current").symlink_to(Path("versions") / version.name)
    posts = pq.read_table(layout.posts).sort_by([("created_ms", "descending")])["post_id"]
    log = pa.concat_tables(pq.read_table(layout.impressions_day(d)) for d in days)
    seen = log.group_by("member_id").aggregate([([], "count_all")])
    members = seen.sort_by([("count_all", "descending"), ("member_id", "ascending")])["member_id"]
    return SmallRun(layout, config, day, spec.day_end(day), posts.to_pylist(), members.to_pylist())
