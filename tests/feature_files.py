# SPDX-License-Identifier: Apache-2.0
"""The files of offline features, as tests read them back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.layout.paths import Layout
from feature_repo.kinds import View


def read_histories(layout: Layout) -> dict[int, bytes]:
    """The newest history value of each member."""
    tables = [pq.read_table(path) for path in layout.history_buckets()]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["member_id"] for row in rows}) == len(rows)
    return {row["member_id"]: row["history"] for row in rows}


def read_packed(layout: Layout, view: View, day: str) -> tuple[pa.Table, np.ndarray]:
    """The rows of a view that a day wrote, and their records."""
    table = pq.read_table(layout.feature_day(view.name, day))
    values, _ = view.unpack(table["packed"].to_pylist())
    return table, values
