# SPDX-License-Identifier: Apache-2.0
"""Refused rows are written as they came, nulls and all, and counted by reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.log.quarantine import tally, write_refused

RAW = pa.table({"id": [1, 2, None, 4], "pair": pa.array([[1, None], None, [3, 4], [5, 6]])})
REASONS = np.array(["b is bad", "", "a is bad", "b is bad"])


def test_refused_rows_are_written_as_they_came(tmp_path: Path) -> None:
    write_refused(tmp_path / "sub" / "part.parquet", RAW, REASONS)
    refused = pq.read_table(tmp_path / "sub" / "part.parquet")
    assert refused.drop_columns("reason").equals(RAW.take([0, 2, 3]))
    assert refused["reason"].to_pylist() == ["b is bad", "a is bad", "b is bad"]


def test_where_nothing_is_refused_the_file_has_no_rows_and_every_column(tmp_path: Path) -> None:
    write_refused(tmp_path / "part.parquet", RAW, np.array([""] * 4))
    schema = pq.read_schema(tmp_path / "part.parquet")
    assert schema.equals(RAW.schema.append(pa.field("reason", pa.string())))
    assert pq.read_table(tmp_path / "part.parquet").num_rows == 0


def test_reasons_are_counted_in_the_order_of_their_names() -> None:
    assert list(tally(REASONS).items()) == [("a is bad", 1), ("b is bad", 2)]
    assert tally(REASONS[:0]) == {}
