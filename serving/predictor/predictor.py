# SPDX-License-Identifier: Apache-2.0
"""The predictor: decoded requests in, probabilities per task out; one model in one thread.

It knows the model and the wire; it never reads a feature store. `python -m serving.predictor
--model_dir DIR`.

Shape suffixes: N candidates of one request, K tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import math
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
from kserve import InferRequest, InferResponse

from feature_repo.kinds import UNKNOWN, default_value
from feature_repo.spec import FRESHNESS, Freshness, Spec
from model.checkpoint import load_model
from serving import infer, metrics, server
from serving.errors import Unavailable, bad_input
from serving.excerpt import excerpt
from serving.history import decode_history
from serving.payload import check_known, number, time_of, whole
from serving.predictor.allocator import keep_freed_memory
from serving.predictor.batcher import Batcher, BatcherConfig
from serving.predictor.scorer import DTYPES, Scorer, ScorerConfig
from serving.protocol.data_plane import ServedModel
from serving.wire import (
    CONTEXT,
    RankRequest,
    candidate_schema,
    check_names,
    check_spec_hash,
    columns_of,
    decode_candidates,
)

INPUTS = ("history", "candidates")
OUTPUT = "probabilities"
PARAMETERS = ("request_time_ms", "spec_hash", "deadline_ms")
MAX_FLOAT = float(np.finfo(np.float32).max)
INSTANCE_KEYS = ("history", "candidates", "context", "request_time_ms", "spec_hash")


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

    def _decode(self, message: InferRequest) -> Work:
        infer.check_message(message, inputs=INPUTS, outputs=(OUTPUT,), parameters=PARAMETERS)
        values = infer.parameters_of(message, numbers=("request_time_ms", "deadline_ms"))
        deadline = infer.deadline_of(values)
        check_spec_hash(self.spec, values.get("spec_hash"))
        features, context_NC = decode_candidates(
            self.spec, infer.bytes_input(message, "candidates"), self.max_candidates
        )
        request = RankRequest(
            history=decode_history(infer.bytes_input(message, "history"), self.spec),
            features=features,
            context_NC=context_NC,
            time_ms=time_of("request_time_ms", values.get("request_time_ms")),
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
        check_known("the key of an instance", instance, INSTANCE_KEYS)
        check_spec_hash(self.spec, instance.get("spec_hash"))
        features, context_NC = columns_of(
            self.spec,
            _json_batch(self.spec, instance["candidates"], instance.get("context")),
            self.max_candidates,
        )
        return RankRequest(
            history=decode_history(infer.as_bytes(instance.get("history") or ""), self.spec),
            features=features,
            context_NC=context_NC,
            time_ms=time_of("request_time_ms", instance.get("request_time_ms")),
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


def _json_batch(spec: Spec, columns: dict[str, Any], context: Any) -> pa.RecordBatch:
    """The candidates' record batch out of JSON, where null stands for the declared default."""
    schema = candidate_schema(spec)
    check_names(schema, [*columns, CONTEXT])
    lists = {**columns, CONTEXT: context}
    for name in schema.names:
        if not isinstance(lists.get(name), list):
            raise ValueError(
                f"candidates: column {name!r} is {excerpt(lists.get(name))}, want a list"
            )
    lengths = {name: len(lists[name]) for name in schema.names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"candidates: columns have other lengths than one another: {lengths}")
    defaults = {f.name: default_value(f.kind) for f in spec.with_role("sequence")}
    arrays = [_json_column(field, lists[field.name], defaults.get(field.name)) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _json_column(field: pa.Field, values: list[Any], default: Any) -> pa.Array:
    what, kind = f"candidates: column {field.name!r}", field.type
    if not pa.types.is_fixed_size_list(kind):
        filled = [default if value is None else value for value in values]
        if pa.types.is_integer(kind):
            end = 2 ** (kind.bit_width - 1)
            return pa.array([whole(what, value, -end, end) for value in filled], kind)
        return pa.array([_float(what, value, MAX_FLOAT, True) for value in filled], kind)
    size = kind.list_size
    rows = [[default] * size if row is None and default is not None else row for row in values]
    for row in rows:
        if not isinstance(row, list) or len(row) != size:
            raise ValueError(f"{what}: every row wants {size} values, got {excerpt(row)}")
    limit = float(np.finfo(kind.value_type.to_pandas_dtype()).max)
    missing = field.name == CONTEXT
    return pa.array([[_float(what, v, limit, missing) for v in row] for row in rows], kind)


def _float(what: str, value: Any, limit: float, missing: bool) -> float:
    """A number, or NaN for one that is missing, where one may be."""
    if missing and (value is None or value != value):
        return math.nan
    return number(what, value, limit)


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
        server.check_flags(arguments)
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
