# SPDX-License-Identifier: Apache-2.0
"""Asks the predictor over V2 gRPC; whatever goes wrong there becomes 503 or 504 here.

It knows the wire and nothing of features. Shape suffixes: N candidates, K tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from kserve import InferRequest
from kserve.inference_client import InferenceGRPCClient
from kserve.protocol.infer_type import to_http_parameters

from feature_repo.spec import Spec
from serving.errors import TooLate, Unavailable
from serving.infer import bytes_tensor

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A headless service's name stands for several predictors: each call goes to the next one.
    ("grpc.lb_policy_name", "round_robin"),
    # A predictor that was restarted is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The predictor's answer: probabilities `[N, K]`, the version that made them and its dtype."""

    probabilities_NK: npt.NDArray[np.float32]
    model_version: str
    dtype: str


class PredictorClient:
    """One channel to `host` (host:port) for the model `name`.

    It is made inside the event loop that uses it.
    """

    def __init__(self, host: str, name: str, spec: Spec, timeout: float) -> None:
        self.host, self.name, self.spec, self.timeout = host, name, spec, timeout
        self._client = InferenceGRPCClient(host, channel_args=list(OPTIONS), timeout=timeout)

    async def rank(
        self, history: bytes, candidates: bytes, time_ms: int, deadline: float | None
    ) -> Scores:
        """The probabilities of the candidates.

        Args:
            history: the history value.
            candidates: from `serving.wire.encode_candidates`.
            time_ms: when the feed was asked for.
            deadline: on the clock of `time.monotonic`.

        Raises:
            Unavailable: the predictor cannot be reached, is overloaded, or refuses what this
                process made.
            TooLate: the deadline passed.
        """
        parameters: dict[str, Any] = {"request_time_ms": time_ms, "spec_hash": self.spec.hash}
        timeout = self.timeout
        if deadline is not None:
            timeout = min(timeout, deadline - time.monotonic())
            if timeout <= 0:
                raise TooLate("the deadline passed before the model was asked")
            parameters["deadline_ms"] = int(timeout * 1000)
        tensors = [bytes_tensor("history", history), bytes_tensor("candidates", candidates)]
        message = InferRequest(self.name, tensors, request_id="", parameters=parameters)
        try:
            answer = await self._client.infer(message, timeout=timeout)
        except grpc.RpcError as error:
            raise self._refusal(error) from error
        named = to_http_parameters(answer.parameters or {})
        return Scores(
            probabilities_NK=answer.outputs[0].as_numpy(),
            model_version=str(named.get("model_version", "")),
            dtype=str(named.get("dtype", "")),
        )

    def _refusal(self, error: Any) -> Unavailable | TooLate:
        code, reason = error.code(), str(error.details())[:300]
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TooLate("the predictor did not answer before the deadline")
        if code is grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"the predictor at {self.host} is not available: {reason}")
        return Unavailable(f"the predictor at {self.host} answered {code.name}: {reason}")
