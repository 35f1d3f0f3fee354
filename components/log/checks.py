# SPDX-License-Identifier: Apache-2.0
"""What a row must hold to be believed: the checks of ingest, one reason per kind of fault.

Every check is vectorised over a table; the first that fails names the row's reason. This module
knows nothing of files, duplicates or sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.log.times import Ints, in_unit
from feature_repo.kinds import UNKNOWN, Feature
from feature_repo.spec import DAY_MS, Spec
from feature_repo.values import MILLISECONDS, fault, illegal, insane

Mask = npt.NDArray[np.bool_]
Fault = tuple[str, Mask]
MAX_LATE_DAYS = 7
"""An event that arrives later than this is refused; duplicates are looked for as far back."""


def values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column `[N]`, or `[N, E]` for embeddings, as numpy; nulls become 0."""
    column = column.combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        if column.null_count:
            zeros = pa.FixedSizeListArray.from_arrays(
                pa.array(np.zeros(size, np.float16), column.type.value_type), size
            )
            column = pc.if_else(column.is_valid(), column, zeros[0])
        return np.asarray(column.flatten()).reshape(-1, size)
    if column.null_count:
        zero = False if pa.types.is_boolean(column.type) else 0
        column = column.fill_null(pa.scalar(zero, column.type))
    return np.asarray(column.to_numpy(zero_copy_only=False))


def impression_reasons(table: pa.Table, spec: Spec, day: int) -> npt.NDArray[np.str_]:
    """Why each impression that arrived on a local day is refused `[N]`; "" where it is not."""
    features = [f for f in spec.features if f.name in spec.event_schema.names]
    return _first_fault(
        table.num_rows,
        (
            *_nulls(table, spec.event_schema),
            *_negative(table, ("member_id", "post_id")),
            *_times(table, spec, day),
            ("position is below -1", values(table["position"]) < UNKNOWN),
            ("dwell_ms is negative", values(table["dwell_ms"]) < 0),
            *(_feature(f, values(table[f.name])) for f in features),
        ),
    )


def post_reasons(table: pa.Table, spec: Spec) -> npt.NDArray[np.str_]:
    """Why each post is refused `[N]`; "" where it is not. An unknown `created_ms` is -1."""
    created = values(table["created_ms"])
    features = [f for f in spec.content.features if f.name in spec.post_schema.names]
    return _first_fault(
        table.num_rows,
        (
            *_nulls(table, spec.post_schema),
            *_negative(table, ("post_id",)),
            *_time("created_ms", created, known=created != UNKNOWN),
            *(_feature(f, values(table[f.name])) for f in features),
        ),
    )


def member_reasons(table: pa.Table, spec: Spec) -> npt.NDArray[np.str_]:
    """Why each member is refused `[N]`; "" where it is not."""
    features = [f for v in spec.views if v.kind == "profile" for f in v.features]
    return _first_fault(
        table.num_rows,
        (
            *_nulls(table, spec.member_schema),
            *_negative(table, ("member_id",)),
            *(_feature(f, values(table[f.name])) for f in features),
        ),
    )


def _first_fault(rows: int, faults: tuple[Fault, ...]) -> npt.NDArray[np.str_]:
    names = np.array(["", *(name for name, _ in faults)])
    first = np.zeros(rows, np.int64)
    for number, (_, mask) in enumerate(faults, start=1):
        first[(first == 0) & mask] = number
    return names[first]


def _nulls(table: pa.Table, schema: pa.Schema) -> Iterator[Fault]:
    for field in schema:
        column = table[field.name]
        if not field.nullable and column.null_count:
            yield f"{field.name} is null", np.asarray(column.is_null())
        if pa.types.is_fixed_size_list(field.type) and column.combine_chunks().flatten().null_count:
            yield f"{field.name} has a null in it", _null_inside(column.combine_chunks())


def _null_inside(column: pa.FixedSizeListArray) -> Mask:
    valid = np.asarray(column.is_valid())
    inside = np.zeros(len(column), np.bool_)
    inside[valid] = np.asarray(column.flatten().is_null()).reshape(-1, column.type.list_size).any(1)
    return inside


def _negative(table: pa.Table, names: tuple[str, ...]) -> Iterator[Fault]:
    for name in names:
        yield f"{name} is negative", values(table[name]) < 0


def _time(name: str, times: Ints, known: Mask | bool = True) -> Iterator[Fault]:
    for unit in MILLISECONDS:
        yield f"{name} is in {unit}, not in milliseconds", in_unit(times, unit)
    yield f"{name} is out of range", insane(times) & known


def _times(table: pa.Table, spec: Spec, day: int) -> Iterator[Fault]:
    event, arrival = values(table["event_time"]), values(table["arrival_time"])
    timed = values(table["timed"])
    start, end = int(spec.day_start(day)), int(spec.day_start(day + 1))
    yield from _time("event_time", event)
    yield from _time("arrival_time", arrival)
    yield "event_time is after arrival_time", event > arrival
    yield "arrival_time is after the day", arrival >= end
    yield "arrival_time is before the day", timed & (arrival < start)
    late = timed & (event < start - MAX_LATE_DAYS * DAY_MS)
    yield f"arrived more than {MAX_LATE_DAYS} days late", late


def _feature(feature: Feature, value: npt.NDArray[Any]) -> Fault:
    return f"{feature.name} {fault(feature.kind)}", illegal(feature.kind, value)
