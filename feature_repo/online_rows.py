# SPDX-License-Identifier: Apache-2.0
"""Offline rows as Feast's online stores take them, a column at a time.

Feast's own conversion looks at every value for what type it is; the values of a run's views are
bytes, and their keys whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bytes

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""A key, its values by feature, when it became true and when it was written (UTC, without zone)."""


def online_rows(rows: pa.RecordBatch, view: FeatureView) -> list[Row]:
    """Rows of a view's source, as Feast would convert them.

    Raises:
        ValueError: a feature that is not bytes.
    """
    if other := [feature.name for feature in view.features if feature.dtype != Bytes]:
        raise ValueError(f"{view.name} has features that are not bytes: {', '.join(other)}")
    names = [column.name for column in view.entity_columns]
    ids = zip(*(rows[name].to_pylist() for name in names), strict=True)
    keys = [entity_key(names, values) for values in ids]
    features = [feature.name for feature in view.features]
    columns = [_values(rows[name]) for name in features]
    values = [dict(zip(features, row, strict=True)) for row in zip(*columns, strict=True)]
    times = (_times(rows[name]) for name in ("event_timestamp", "created_timestamp"))
    return list(zip(keys, values, *times, strict=True))


def entity_key(names: Sequence[str], ids: Sequence[int]) -> EntityKey:
    """A key of Feast's."""
    return EntityKey(join_keys=names, entity_values=[{"int64_val": number} for number in ids])


def _values(column: pa.Array) -> list[Value]:
    """A column's values; one that is missing is none of Feast's."""
    return [Value() if value is None else Value(bytes_val=value) for value in column.to_pylist()]


def _times(column: pa.Array) -> list[datetime]:
    """UTC without zone; as a file has few times, each is converted once."""
    coded = column.cast(pa.timestamp("us")).dictionary_encode()
    times = coded.dictionary.to_pylist()
    return [times[place] for place in coded.indices.to_pylist()]
