# SPDX-License-Identifier: Apache-2.0
"""The transformer: a member and candidates in, a ranked feed out.

Features come from Feast, scores from the predictor. It never sees the model.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse

from feature_repo.specs import spec_by_name
from serving import infer, metrics
from serving.errors import TooLate, Unavailable, bad_input
from serving.protocol.data_plane import ServedModel
from serving.transformer import feed_request
from serving.transformer.features import Fetched, Fetcher
from serving.transformer.feed_request import FeedRequest, Ranked
from serving.transformer.predictor_client import PredictorClient, Scores
from serving.transformer.request_log import LogConfig, RequestLog
from serving.transformer.store_client import CacheConfig, StoreClient
from serving.transformer.utility import scores_of
from serving.wire import encode_candidates

INPUT, OUTPUT = "requests", "ranked"


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What a transformer is started with.

    Attributes:
        feast_dir: the rendered Feast repository.
        predictor_host: host:port of the predictor's gRPC.
        max_candidates: a request with more is refused with 400.
        timeout: most seconds the predictor may take, and most seconds the store may.
        max_queue: most calls that wait for the store; the next one is refused with 503.
        max_age_hours: features last brought up to date longer ago than this degrade to their
            defaults.
        log_dir: where served requests are logged; None logs none.
    """

    spec_name: str
    feast_dir: Path
    predictor_host: str
    max_candidates: int = 512
    timeout: float = 10.0
    max_queue: int = 64
    max_age_hours: float = 168.0
    cache: CacheConfig = field(default_factory=CacheConfig)
    log: LogConfig = field(default_factory=LogConfig)
    log_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One request on its way to the predictor."""

    request: FeedRequest
    fetched: Fetched
    candidates: bytes


@dataclass(frozen=True, kw_only=True)
class Call:
    """All requests of one call and what the reply needs."""

    prepared: list[Prepared]
    deadline: float | None
    message: InferRequest | None


class Transformer(ServedModel):
    """KServe model in front of the predictor."""

    def __init__(self, name: str, config: TransformerConfig) -> None:
        super().__init__(name)
        self.config, self.spec = config, spec_by_name(config.spec_name)
        self._client: PredictorClient | None = None
        self._log: RequestLog | None = None
        # One thread: Feast's reads block, its SQLite connection is not for several, nor is the
        # cache.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="feast")
        self._reading = 0

    def load(self) -> bool:
        """Opens the store; ValueError says what is wrong with it. Ready only after this."""
        store = StoreClient(self.config.feast_dir, self.spec, self.config.cache)
        self._fetcher = Fetcher(self.spec, store, self.config.max_age_hours)
        if self.config.log_dir is not None:
            self._log = RequestLog(self.config.log_dir, self.spec, self.config.log)
        self.ready = True
        return self.ready

    def stop(self) -> None:
        """Takes no new request; KServe drains the ones in flight."""
        self.ready = False

    def close(self) -> None:
        """Writes the log and ends the threads; after the server has drained."""
        self._reader.shutdown()
        if self._log:
            self._log.close()

    def validate(self, payload: Any) -> Any:
        """`preprocess` has decoded and checked the payload already."""
        return payload

    async def preprocess(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> Call:
        """Decodes the call and fetches each request's features."""
        if not self.ready:
            raise Unavailable(f"model {self.name} takes no request now; try another server")
        with metrics.stage("decode"), bad_input("the request"):
            requests, deadline = self._decode(payload)
        with metrics.stage("features"), metrics.refusals():
            prepared = await self._fetch(requests, deadline)
        message = payload if isinstance(payload, InferRequest) else None
        return Call(prepared=prepared, deadline=deadline, message=message)

    async def _fetch(self, requests: list[FeedRequest], deadline: float | None) -> list[Prepared]:
        """The features of each request from the reader's thread, which a slow store holds up."""
        if self._reading >= self.config.max_queue:
            raise Unavailable(f"{self._reading} calls wait for the online store; try again later")
        start, timeout = time.monotonic(), self.config.timeout
        loop, prepared = asyncio.get_running_loop(), []
        self._reading += 1
        try:
            async with asyncio.timeout_at(
                loop.time() + (timeout if deadline is None else min(timeout, deadline - start))
            ):
                for request in requests:
                    prepared.append(
                        await loop.run_in_executor(self._reader, self._prepare, request)
                    )
        except TimeoutError as error:
            if deadline is not None and deadline - start < timeout:
                raise TooLate("the deadline passed before the features were read") from error
            raise Unavailable(f"the online store did not answer within {timeout:g} s") from error
        finally:
            self._reading -= 1
        return prepared

    async def predict(self, payload: Call, headers: dict[str, str] | None = None) -> Any:
        """The predictor's probabilities for each request."""
        client = self._predictor()
        with metrics.stage("predictor"), metrics.refusals():
            jobs = [
                client.rank(p.fetched.history, p.candidates, p.request.time_ms, payload.deadline)
                for p in payload.prepared
            ]
            return payload, await asyncio.gather(*jobs)

    async def postprocess(
        self, result: Any, headers: dict[str, str] | None = None, *_: Any
    ) -> dict[str, Any] | InferResponse:
        """Scores, sorts, logs and answers in the protocol of the call."""
        call, scores = result
        with metrics.stage("reply"):
            ranked = [self._rank(p, s) for p, s in zip(call.prepared, scores, strict=True)]
            if call.message is None:
                return feed_request.to_json(self.spec, ranked)
            reply = np.array([feed_request.to_arrow(self.spec, ranked)], dtype=np.object_)
            return infer.response(call.message, OUTPUT, reply, ranked[0].model_version, {})

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: the Arrow requests."""
        return [{"name": INPUT, "datatype": "BYTES", "shape": [1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata: the Arrow answer."""
        return [{"name": OUTPUT, "datatype": "BYTES", "shape": [1]}]

    def _decode(self, payload: Any) -> tuple[list[FeedRequest], float | None]:
        limit = self.config.max_candidates
        if not isinstance(payload, InferRequest):
            requests = feed_request.from_json(self.spec, payload, limit)
            return requests, infer.deadline_of(payload)
        infer.check_message(
            payload, inputs=(INPUT,), outputs=(OUTPUT,), parameters=("deadline_ms",)
        )
        data = infer.bytes_input(payload, INPUT)
        deadline = infer.deadline_of(infer.parameters_of(payload, numbers=("deadline_ms",)))
        return feed_request.from_arrow(self.spec, data, limit), deadline

    def _prepare(self, request: FeedRequest) -> Prepared:
        fetched = self._fetcher.fetch(request)
        candidates = encode_candidates(self.spec, fetched.features, fetched.context_NC)
        metrics.CANDIDATES.observe(len(request.post_ids))
        return Prepared(request=request, fetched=fetched, candidates=candidates)

    def _predictor(self) -> PredictorClient:
        """The channel, made in the server's own event loop."""
        if self._client is None:
            config = self.config
            self._client = PredictorClient(
                config.predictor_host, self.name, self.spec, config.timeout
            )
        return self._client

    def _rank(self, prepared: Prepared, scores: Scores) -> Ranked:
        ranked = Ranked(
            request=prepared.request,
            probabilities_NK=scores.probabilities_NK,
            scores=scores_of(scores.probabilities_NK, prepared.request.weights_K),
            flags=prepared.fetched.flags,
            post_flags=prepared.fetched.post_flags,
            model_version=scores.model_version,
            dtype=scores.dtype,
        )
        if self._log:
            self._log.add(ranked, prepared.fetched, prepared.candidates)
        return ranked
