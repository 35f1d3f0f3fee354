# SPDX-License-Identifier: Apache-2.0
"""The transformer: a member and candidates in, a ranked feed out; features from Feast, scores from
the predictor.

It never sees the model. `python -m serving.transformer --feast_dir DIR --spec_name NAME
--predictor_host HOST:PORT`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse

from feature_repo.specs import spec_by_name
from serving import infer, metrics, server
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

    asked: FeedRequest
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
                client.rank(p.fetched.history, p.candidates, p.asked.time_ms, payload.deadline)
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

    def _prepare(self, asked: FeedRequest) -> Prepared:
        fetched = self._fetcher.fetch(asked)
        candidates = encode_candidates(self.spec, fetched.features, fetched.context_NC)
        metrics.CANDIDATES.observe(len(asked.post_ids))
        return Prepared(asked=asked, fetched=fetched, candidates=candidates)

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
            asked=prepared.asked,
            probabilities_NK=scores.probabilities_NK,
            scores=scores_of(scores.probabilities_NK, prepared.asked.weights_K),
            flags=prepared.fetched.flags,
            post_flags=prepared.fetched.post_flags,
            model_version=scores.model_version,
            dtype=scores.dtype,
        )
        if self._log:
            self._log.add(ranked, prepared.fetched, prepared.candidates)
        return ranked


def main(argv: Sequence[str] | None = None) -> None:
    """The transformer process; a mistake in its setting ends in one sentence and exit status 2."""
    arguments = _parser().parse_args(argv)
    try:
        server.check_flags(arguments)
        transformer = Transformer(arguments.model_name, _config(arguments))
        transformer.load()
    except ValueError as error:
        print(f"transformer: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    server.run(transformer, arguments)
    transformer.close()


def _config(arguments: argparse.Namespace) -> TransformerConfig:
    if not arguments.predictor_host:
        raise ValueError("--predictor_host is missing; give the predictor's HOST:GRPC_PORT")
    return TransformerConfig(
        spec_name=arguments.spec_name,
        feast_dir=arguments.feast_dir,
        predictor_host=arguments.predictor_host,
        max_candidates=arguments.max_candidates,
        max_queue=arguments.max_queue,
        timeout=min(arguments.predictor_timeout, arguments.predictor_request_timeout_seconds),
        max_age_hours=arguments.max_age_hours,
        cache=CacheConfig(seconds=arguments.cache_seconds, entries=arguments.cache_entries),
        log=LogConfig(rate=arguments.log_rate),
        log_dir=arguments.log_dir,
    )


def _parser() -> argparse.ArgumentParser:
    parser = server.parser(__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--feast_dir", type=Path, required=True, help="rendered Feast repository")
    parser.add_argument("--spec_name", required=True, help="feature spec, as the model's")
    parser.add_argument("--max_candidates", type=int, default=512)
    parser.add_argument("--predictor_timeout", type=float, default=10.0, help="seconds")
    parser.add_argument("--max_queue", type=int, default=TransformerConfig.max_queue)
    parser.add_argument("--max_age_hours", type=float, default=TransformerConfig.max_age_hours)
    parser.add_argument("--cache_seconds", type=float, default=CacheConfig.seconds)
    parser.add_argument("--cache_entries", type=int, default=CacheConfig.entries)
    parser.add_argument("--log_dir", type=Path, help="folder of the request log; absent: none")
    parser.add_argument("--log_rate", type=float, default=LogConfig.rate, help="share logged")
    return parser
