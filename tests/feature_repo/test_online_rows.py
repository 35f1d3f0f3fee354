# SPDX-License-Identifier: Apache-2.0
"""Rows become what Feast's own conversion makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from feast import FeatureView, Field
from feast.types import Float32
from feast.utils import _convert_arrow_to_proto

from feature_repo.online_rows import online_rows
from feature_repo.specs import SIMULATOR
from feature_repo.views import feature_views

VIEWS = feature_views(SIMULATOR, Path("/runs/a"))
TIME = datetime(2026, 1, 2, tzinfo=UTC)


def rows_of(view: FeatureView, count: int = 5) -> pa.RecordBatch:
    """Rows with keys of every size, each column's others; an empty value and a missing one."""
    ids = [0, 1, 255, 256, 2**62][:count]
    values = [b"some", None, b"", b"\x00", bytes(70_000)][:count]
    times = [TIME + timedelta(microseconds=number % 2) for number in range(count)]
    columns = {
        column.name: pa.array(ids[place:] + ids[:place], pa.int64())
        for place, column in enumerate(view.entity_columns)
    }
    columns |= {feature.name: pa.array(values, pa.binary()) for feature in view.features}
    for name in ("event_timestamp", "created_timestamp"):
        columns[name] = pa.array(times, pa.timestamp("us", tz="UTC"))
    return pa.RecordBatch.from_pydict(columns)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_rows_are_what_feast_makes_of_them(view, count):
    rows = rows_of(view, count)
    types = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
    wanted = _convert_arrow_to_proto(rows, view, types)
    assert online_rows(rows, view) == list(wanted)


def test_a_feature_of_another_type_is_refused():
    view = VIEWS[0]
    other = FeatureView(
        name="other",
        entities=[],
        schema=[Field(name="share", dtype=Float32)],
        source=view.batch_source,
    )
    with pytest.raises(ValueError, match="other has features that are not bytes: share"):
        online_rows(pa.RecordBatch.from_pydict({"share": pa.array([0.5], pa.float32())}), other)
