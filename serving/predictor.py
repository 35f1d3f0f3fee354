# SPDX-License-Identifier: Apache-2.0
"""The predictor: decoded requests in, probabilities per task out; one model in one thread.

It knows the model and the wire; it never reads a feature store. `python -m serving.predictor
--model_dir DIR`.

Shape suffixes: N candidates of one request, K tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from kserve import InferRequest, InferResponse, Model
from kserve.errors import ModelNotReady

from feature_repo.spec import (
    FRESHNESS,
    UNKNOWN,
    Feature,
    Freshness,
    Spec,
    arrow_type,
    default_value,
)
from model.checkpoint import load_model
from serving import infer, metrics, server
from serving.allocator import keep_freed_memory
from serving.batcher import Batcher, BatcherConfig
from serving.errors import bad_input
from serving.history import decode_history
from serving.scorer import DTYPES, Scorer, ScorerConfig
from serving.wire import (
    CONTEXT,
    RankRequest,
    candidate_schema,
    check_names,
    check_spec_hash,
    columns_of,
    decode_candidates,
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What `predict` gets: the decoded requests of one call and what the reply needs."""

    requests: list[RankRequest]
    deadline: float | None
    message: InferRequest | None


class Predictor(Model):
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
            raise ModelNotReady(self.name)
        with metrics.stage("decode"), bad_input("the request"):
            if isinstance(payload, InferRequest):
                return self._decode(payload)
            return self._decode_json(payload)

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
            "model_version": self.version,
            "dtype": self.scoring.dtype,
        }
        return infer.response(work.message, "probabilities", scores[0], parameters)

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: the two Arrow values."""
        return [{"name": n, "datatype": "BYTES", "shape": [1]} for n in ("history", "candidates")]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata: probabilities by candidate and task."""
        shape = [-1, len(self.spec.tasks)]
        return [{"name": "probabilities", "datatype": "FP32", "shape": shape}]

    def _decode(self, message: InferRequest) -> Work:
        values = infer.parameters_of(message)
        deadline = infer.deadline_of(values)
        check_spec_hash(self.spec, values.get("spec_hash"))
        features, context_NC = decode_candidates(
            self.spec, infer.bytes_input(message, "candidates"), self.max_candidates
        )
        request = RankRequest(
            history=decode_history(infer.bytes_input(message, "history"), self.spec),
            features=features,
            context_NC=context_NC,
            time_ms=infer.whole_number(values, "request_time_ms"),
        )
        metrics.CANDIDATES.observe(request.num_candidates)
        return Work(requests=[request], deadline=deadline, message=message)

    def _decode_json(self, payload: Any) -> Work:
        return Work(
            requests=[self._decode_instance(i) for i in infer.instances_of(payload)],
            deadline=infer.deadline_of(payload),
            message=None,
        )

    def _decode_instance(self, instance: Any) -> RankRequest:
        if not isinstance(instance, dict) or not isinstance(instance.get("candidates"), dict):
            raise ValueError('an instance wants "candidates": {column: [values]}')
        check_spec_hash(self.spec, instance.get("spec_hash"))
        check_names(candidate_schema(self.spec), [*instance["candidates"], CONTEXT])
        rows = [_floats(row) for row in instance.get("context", [])]
        width = self.spec.context_width
        if any(len(row) != width for row in rows):
            raise ValueError(f"every row of context wants {width} values")
        table = {
            f.name: _json_column(f, instance["candidates"][f.name])
            for f in self.spec.with_role("sequence")
        }
        kind = pa.list_(pa.float32(), width)
        table[CONTEXT] = pa.array(rows, kind)
        features, context_NC = columns_of(
            self.spec, pa.RecordBatch.from_pydict(table), self.max_candidates
        )
        return RankRequest(
            history=decode_history(infer.as_bytes(instance.get("history", "")), self.spec),
            features=features,
            context_NC=context_NC,
            time_ms=infer.whole_number(instance, "request_time_ms"),
        )

    def _observe(self, size: int, seconds: float) -> None:
        metrics.BATCH_REQUESTS.observe(size)
        metrics.FORWARD_SECONDS.observe(seconds)

    def _prediction(self, probabilities_NK: npt.NDArray[np.float32]) -> dict[str, Any]:
        columns = probabilities_NK.T.tolist()
        named = dict(zip(self.spec.task_names, columns, strict=True))
        return {"model_version": self.version, "probabilities": named}


def _freshness(record: dict[str, Any], folder: Path) -> Freshness:
    """How fresh the histories were that the model was trained with: serving must cut them the same
    way.
    """
    for name in FRESHNESS:
        if record.get("freshness") == name:
            return name
    raise ValueError(
        f"{folder}: the model's record has freshness {record.get('freshness')!r}, "
        f"want one of {', '.join(FRESHNESS)}; train it again"
    )


def _json_column(feature: Feature, values: Any) -> pa.Array:
    """A column out of JSON, where null stands for the declared default."""
    default, kind = default_value(feature.kind), arrow_type(feature.kind)
    filled = [default if value is None else value for value in values]
    if pa.types.is_integer(kind) and any(isinstance(value, float) for value in filled):
        raise ValueError(f"candidates: column {feature.name!r} has fractions, want whole numbers")
    return pa.array(filled, kind)


def _floats(row: Any) -> list[float]:
    return [float("nan") if value is None else float(value) for value in row]


def _warm_up(spec: Spec) -> RankRequest:
    """One default candidate of a new member: the first forward pays for allocations and
    compilation.
    """
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


def main(argv: Sequence[str] | None = None) -> None:
    """The predictor process; a mistake in its setting ends in one sentence and exit status 2."""
    arguments = _parser().parse_args(argv)
    try:
        keep_freed_memory()
        server.check_ports(arguments.host, arguments.http_port, arguments.grpc_port)
        if arguments.torch_threads:
            torch.set_num_threads(arguments.torch_threads)
        predictor = Predictor(
            arguments.model_name,
            arguments.model_dir,
            max_candidates=arguments.max_candidates,
            batching=BatcherConfig(
                window_ms=arguments.batch_window_ms,
                max_batch=arguments.max_batch,
                max_queue=arguments.max_queue,
            ),
            scoring=ScorerConfig(
                device=arguments.device,
                dtype=arguments.dtype,
                history_cache_bytes=arguments.history_cache_mib * 2**20,
            ),
        )
        predictor.load()
    except ValueError as error:
        print(f"predictor: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    server.run(predictor, arguments)
    predictor.batcher.close()


def _parser() -> argparse.ArgumentParser:
    parser = server.parser(__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model_dir", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--max_candidates", type=int, default=512)
    parser.add_argument("--batch_window_ms", type=float, default=BatcherConfig.window_ms)
    parser.add_argument("--max_batch", type=int, default=BatcherConfig.max_batch)
    parser.add_argument("--max_queue", type=int, default=BatcherConfig.max_queue)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the transformer's blocks; bfloat16 where the processor computes in it",
    )
    parser.add_argument(
        "--history_cache_mib",
        type=int,
        default=512,
        help="MiB for the keys and values of histories seen before; 0 remembers none",
    )
    parser.add_argument("--torch_threads", type=int, default=0, help="0 leaves it to torch")
    return parser


if __name__ == "__main__":
    main()
