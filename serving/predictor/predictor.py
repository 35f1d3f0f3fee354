# SPDX-License-Identifier: Apache-2.0
"""The predictor: decoded requests in, probabilities per task out; one model in one thread.

It knows the model and the wire; it never reads a feature store.

Shape suffixes: N candidates of one request, K tasks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kserve import InferRequest, InferResponse

from feature_repo.kinds import UNKNOWN
from feature_repo.spec import FRESHNESS, Freshness, Spec
from model.checkpoint import load_model
from serving import infer, metrics
from serving.errors import Unavailable, bad_input
from serving.history import decode_history
from serving.predictor.batcher import Batcher, BatcherConfig
from serving.predictor.decode import INPUTS, OUTPUT, from_json, from_message
from serving.predictor.scorer import Scorer, ScorerConfig
from serving.protocol.data_plane import ServedModel
from serving.wire import RankRequest


@dataclass(frozen=True, kw_only=True)
class Work:
    """What `predict` gets: the decoded requests of one call and what the reply needs."""

    requests: list[RankRequest]
    deadline: float | None
    message: InferRequest | None


class Predictor(ServedModel):
    """KServe model over one version of the registry.

    Args:
        name: the model's name in the URL.
        model_dir: a version's folder, or a link to one (`registry/current`), resolved when loading.
        max_candidates: a request with more is refused with 400.
        batching: the joiner's limits.
        scoring: where and how the model runs.
    """

    def __init__(
        self,
        name: str,
        model_dir: Path,
        *,
        max_candidates: int = 512,
        batching: BatcherConfig | None = None,
        scoring: ScorerConfig | None = None,
    ) -> None:
        super().__init__(name)
        self.model_dir, self.max_candidates = model_dir, max_candidates
        self.scoring = scoring or ScorerConfig()
        self.batcher: Batcher[RankRequest, npt.NDArray[np.float32]] = Batcher(
            lambda requests: self.scorer(requests), batching, self._observe
        )

    def load(self) -> bool:
        """Loads the model; ValueError says what is wrong with the folder. Ready only after this."""
        folder = self.model_dir.resolve()
        if not (folder / "config.json").is_file():
            raise ValueError(f"{self.model_dir} holds no model; register and promote one first")
        model, record = load_model(folder)
        self.spec: Spec = model.spec
        self.scorer = Scorer(model, _freshness(record, folder), self.scoring)
        self.version = folder.name
        self.scorer([_warm_up(self.spec)])
        metrics.MODEL_VERSION.labels(self.version, self.spec.hash).set(1)
        self.ready = True
        return self.ready

    def stop(self) -> None:
        """Takes no new request; KServe drains the ones in flight."""
        self.ready = False

    def validate(self, payload: Any) -> Any:
        """`preprocess` has decoded and checked the payload already."""
        return payload

    async def preprocess(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> Work:
        """Decodes V2 (Arrow) or V1 (JSON) under one guard; InvalidInput says what is wrong."""
        if not self.ready:
            raise Unavailable(f"model {self.name} takes no request now; try another server")
        with metrics.stage("decode"), bad_input("the request"):
            return self._decode(payload)

    async def predict(self, payload: Work, headers: dict[str, str] | None = None) -> Any:
        """The probabilities `[N, K]` of each request, joined with whoever else is waiting."""
        with metrics.stage("model"), metrics.refusals():
            jobs = (self.batcher.submit(r, payload.deadline) for r in payload.requests)
            return payload, await asyncio.gather(*jobs)

    async def postprocess(
        self, result: Any, headers: dict[str, str] | None = None, *_: Any
    ) -> dict[str, Any] | InferResponse:
        """The V2 tensor, or V1 JSON with one list a task."""
        work, scores = result
        if work.message is None:
            return {"predictions": [self._prediction(p) for p in scores]}
        parameters = {
            "tasks": ",".join(self.spec.task_names),
            "dtype": self.scoring.dtype,
        }
        return infer.response(work.message, OUTPUT, scores[0], self.version, parameters)

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: the two Arrow values."""
        return [{"name": n, "datatype": "BYTES", "shape": [1]} for n in INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata: probabilities by candidate and task."""
        shape = [-1, len(self.spec.tasks)]
        return [{"name": OUTPUT, "datatype": "FP32", "shape": shape}]

    def _decode(self, payload: dict[str, Any] | InferRequest) -> Work:
        if not isinstance(payload, InferRequest):
            requests, deadline = from_json(self.spec, payload, self.max_candidates)
            return Work(requests=requests, deadline=deadline, message=None)
        request, deadline = from_message(self.spec, payload, self.max_candidates)
        metrics.CANDIDATES.observe(request.num_candidates)
        return Work(requests=[request], deadline=deadline, message=payload)

    def _observe(self, size: int, seconds: float) -> None:
        metrics.BATCH_REQUESTS.observe(size)
        metrics.FORWARD_SECONDS.observe(seconds)

    def _prediction(self, probabilities_NK: npt.NDArray[np.float32]) -> dict[str, Any]:
        columns = probabilities_NK.T.tolist()
        named = dict(zip(self.spec.task_names, columns, strict=True))
        return {"model_version": self.version, "probabilities": named}


def _freshness(record: dict[str, Any], folder: Path) -> Freshness:
    """How fresh the histories were in training: serving must cut them the same way."""
    for name in FRESHNESS:
        if record.get("freshness") == name:
            return name
    raise ValueError(
        f"{folder}: the model's record has freshness {record.get('freshness')!r}, "
        f"want one of {', '.join(FRESHNESS)}; train it again"
    )


def _warm_up(spec: Spec) -> RankRequest:
    """One default candidate of a new member; the first forward pays for allocations and builds."""
    record = spec.content.default
    features = {
        f.name: np.full(1, UNKNOWN, np.int32) if f.source == "request" else record[f.name]
        for f in spec.with_role("sequence")
        if f.name != "post_id"
    }
    return RankRequest(
        history=decode_history(None, spec),
        features={**features, "post_id": np.zeros(1, np.int64)},
        context_NC=np.full((1, spec.context_width), np.nan, np.float32),
        time_ms=int(time.time() * 1000),
    )
