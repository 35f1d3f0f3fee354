# SPDX-License-Identifier: Apache-2.0
"""What a row must hold to be believed: the checks of ingest, one reason per kind of fault.

Every check is vectorised over a table; the first that fails names the row's reason. This module
knows nothing of files, duplicates or sessions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.log.columns import Array, Ints, Mask, column
from components.log.times import in_unit
from feature_repo.kinds import UNKNOWN, Feature
from feature_repo.spec import DAY_MS, Spec
from feature_repo.values import MILLISECONDS, fault, illegal, insane

Fault = tuple[str, Mask]
Reasons = npt.NDArray[np.object_]
"""Why each row is refused; "" where it is not."""
MAX_LATE_DAYS = 7
"""An impression that arrives later than this is refused; duplicates are looked for as far back."""


def impression_reasons(table: pa.Table, spec: Spec, day: int) -> Reasons:
    """Why each impression that arrived on a local day is refused `[N]`; "" where it is not."""
    features = [f for f in spec.features if f.name in spec.impression_schema.names]
    return _first_fault(
        table.num_rows,
        (
            *_nulls(table, spec.impression_schema),
            *_negative(table, ("member_id", "post_id")),
            *_times(table, spec, day),
            ("position is below -1", column(table, "position", "zero") < UNKNOWN),
            ("dwell_ms is negative", column(table, "dwell_ms", "zero") < 0),
            *(_feature(f, column(table, f.name, "zero")) for f in features),
        ),
    )


def post_reasons(table: pa.Table, spec: Spec) -> Reasons:
    """Why each post is refused `[N]`; "" where it is not. An unknown `created_ms` is -1."""
    created = column(table, "created_ms", "zero")
    features = [f for f in spec.content.features if f.name in spec.post_schema.names]
    return _first_fault(
        table.num_rows,
        (
            *_nulls(table, spec.post_schema),
            *_negative(table, ("post_id",)),
            *_time("created_ms", created, known=created != UNKNOWN),
            *(_feature(f, column(table, f.name, "zero")) for f in features),
        ),
    )


def member_reasons(table: pa.Table, spec: Spec) -> Reasons:
    """Why each member is refused `[N]`; "" where it is not."""
    features = [f for v in spec.views if v.kind == "profile" for f in v.features]
    return _first_fault(
        table.num_rows,
        (
            *_nulls(table, spec.member_schema),
            *_negative(table, ("member_id",)),
            *(_feature(f, column(table, f.name, "zero")) for f in features),
        ),
    )


def _first_fault(rows: int, faults: tuple[Fault, ...]) -> Reasons:
    names = np.array(["", *(name for name, _ in faults)], np.object_)
    first = np.zeros(rows, np.int64)
    for number, (_, mask) in enumerate(faults, start=1):
        first[(first == 0) & mask] = number
    return names[first]


def _nulls(table: pa.Table, schema: pa.Schema) -> Iterator[Fault]:
    for field in schema:
        values = table[field.name].combine_chunks()
        if not field.nullable and values.null_count:
            yield f"{field.name} is null", np.asarray(values.is_null())
        if pa.types.is_fixed_size_list(field.type) and values.flatten().null_count:
            yield f"{field.name} has a null in it", _null_inside(values)


def _null_inside(lists: pa.FixedSizeListArray) -> Mask:
    valid = np.asarray(lists.is_valid())
    inside = np.zeros(len(lists), np.bool_)
    inside[valid] = np.asarray(lists.flatten().is_null()).reshape(-1, lists.type.list_size).any(1)
    return inside


def _negative(table: pa.Table, names: tuple[str, ...]) -> Iterator[Fault]:
    for name in names:
        yield f"{name} is negative", column(table, name, "zero") < 0


def _time(name: str, times: Ints, known: Mask | bool = True) -> Iterator[Fault]:
    for unit in MILLISECONDS:
        yield f"{name} is in {unit}, not in milliseconds", in_unit(times, unit)
    yield f"{name} is out of range", insane(times) & known


def _times(table: pa.Table, spec: Spec, day: int) -> Iterator[Fault]:
    event, arrival = column(table, "event_time", "zero"), column(table, "arrival_time", "zero")
    timed = column(table, "timed", "zero")
    start, end = int(spec.day_start(day)), int(spec.day_start(day + 1))
    yield from _time("event_time", event)
    yield from _time("arrival_time", arrival)
    yield "event_time is after arrival_time", event > arrival
    yield "arrival_time is after the day", arrival >= end
    yield "arrival_time is before the day", timed & (arrival < start)
    late = timed & (event < start - MAX_LATE_DAYS * DAY_MS)
    yield f"arrived more than {MAX_LATE_DAYS} days late", late


def _feature(feature: Feature, value: Array) -> Fault:
    return f"{feature.name} {fault(feature.kind)}", illegal(feature.kind, value)
