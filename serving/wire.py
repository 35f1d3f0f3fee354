# SPDX-License-Identifier: Apache-2.0
"""What goes from the transformer to the predictor: Arrow bytes, derived from the feature spec.

Candidates travel as one Arrow IPC stream of one record batch (the spec's sequence features and the
context matrix), the history as the value the store holds. This module knows bytes and arrays; it
knows neither KServe nor the model.

Shape suffixes: N candidates, C context columns, E embedding width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.kinds import arrow_field
from feature_repo.spec import Spec
from serving.excerpt import excerpt
from serving.history import History, nulls_in
from serving.payload import as_kind, check_known, check_metadata, vectors

CONTEXT = "context"


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """One request, decoded.

    Attributes:
        history: the member's history value.
        features: sequence features of the candidates by name, `[N]` or `[N, E]`.
        context_NC: float32, NaN where missing.
        time_ms: when the feed was asked for.
    """

    history: History
    features: dict[str, npt.NDArray[Any]]
    context_NC: npt.NDArray[np.float32]
    time_ms: int

    @property
    def num_candidates(self) -> int:
        """N."""
        return len(self.context_NC)

    def distinct(self) -> tuple[RankRequest, npt.NDArray[np.int64]]:
        """The request with each candidate once, and int64 `[N]`, which of them each one is.

        They stand as they first come. The same candidate is the same bytes in every column. A
        forward may round two equal rows differently by where they lie, so each is scored once.
        """
        count, posts = self.num_candidates, self.features["post_id"]
        if len(set(posts.tolist())) == count:
            return self, np.arange(count)
        columns = [*self.features.values(), self.context_NC]
        rows = [b"".join(column[i].tobytes() for column in columns) for i in range(count)]
        places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
        place_N = np.array([places[row] for row in rows], np.int64)
        first = np.unique(place_N, return_index=True)[1]
        features = {name: column[first] for name, column in self.features.items()}
        once = dataclasses.replace(self, features=features, context_NC=self.context_NC[first])
        return once, place_N


def candidate_schema(spec: Spec) -> pa.Schema:
    """The columns of the candidates' record batch."""
    fields = [arrow_field(f) for f in spec.with_role("sequence")]
    context = pa.list_(pa.float32(), spec.context_width)
    return pa.schema([*fields, pa.field(CONTEXT, context, nullable=False)])


def encode_candidates(
    spec: Spec, features: Mapping[str, npt.NDArray[Any]], context_NC: npt.NDArray[np.float32]
) -> bytes:
    """The candidates as an Arrow IPC stream; ValueError for a missing column or another length."""
    schema = candidate_schema(spec)
    columns = {**features, CONTEXT: context_NC}
    missing = [name for name in schema.names if name not in columns]
    if missing:
        raise ValueError(
            f"candidates: column {missing[0]!r} is missing; the spec {spec.name} wants it"
        )
    arrays = [_to_arrow(columns[field.name], field.type) for field in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue())


def decode_candidates(
    spec: Spec, data: bytes, max_candidates: int
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """Features by name and the context matrix `[N, C]`.

    They are views of `data` where its columns are of the spec's types.

    Raises:
        ValueError: bytes that are no such stream, columns, widths or metadata that are not the
            spec's, values that mean something else (`serving.payload.as_kind`), nulls, no candidate
            or more than `max_candidates`.
    """
    try:
        reader = pa.ipc.open_stream(pa.py_buffer(data))
        batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"candidates are not an Arrow IPC stream of one batch: {error}") from error
    check_metadata("candidates", reader.schema)
    if len(batches) != 1:
        raise ValueError(f"candidates are {len(batches)} record batches; send them in one")
    return columns_of(spec, batches[0], max_candidates)


def columns_of(
    spec: Spec, batch: pa.RecordBatch, max_candidates: int
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """A candidates' record batch as arrays, or ValueError, as in `decode_candidates`."""
    check_count(batch.num_rows, max_candidates)
    schema = candidate_schema(spec)
    check_names(schema, batch.schema.names)
    arrays = {field.name: to_numpy(_column(field, batch)) for field in schema}
    context_NC = arrays.pop(CONTEXT)
    return arrays, context_NC


def check_count(count: int, max_candidates: int) -> None:
    """ValueError unless `1 <= count <= max_candidates`."""
    if count == 0:
        raise ValueError("the request has no candidates; send at least one")
    if count > max_candidates:
        raise ValueError(
            f"the request has {count} candidates, this server takes {max_candidates}; "
            "split the request"
        )


def check_names(schema: pa.Schema, names: Iterable[str]) -> None:
    """ValueError if a column is none of the spec's."""
    check_known("candidates: column", names, schema.names)


def _column(field: pa.Field, batch: pa.RecordBatch) -> pa.Array:
    """The batch's one column for a field, in its type; ValueError for another meaning or a null."""
    what = f"candidates: column {field.name!r}"
    if batch.schema.names.count(field.name) != 1:
        raise ValueError(f"{what} is missing or there twice")
    column = as_kind(what, batch.column(field.name), field.type)
    if nulls_in(column):
        raise ValueError(f"{what} has nulls; send the declared default")
    return column


def check_spec_hash(spec: Spec, got: str | None) -> None:
    """ValueError unless the sender's spec is the model's."""
    if got is not None and got != spec.hash:
        raise ValueError(
            f"the request was made with spec {excerpt(got)}, the model with {spec.name} "
            f"({spec.hash}); deploy the transformer and the model from the same spec"
        )


def _to_arrow(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A column of type `kind` over the same memory where the dtype agrees already."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(np.ascontiguousarray(values), type=kind)
    flat = np.ascontiguousarray(values, kind.value_type.to_pandas_dtype()).reshape(-1)
    return vectors(pa.array(flat), len(values), kind)


def to_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """The column's memory as `[N]` or `[N, E]`, without a copy."""
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy(zero_copy_only=True)
        return flat.reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=True)
