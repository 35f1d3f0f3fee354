# SPDX-License-Identifier: Apache-2.0
"""Refused rows are as they came, nulls and all, and counted by reason."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from components.log.quarantine import refused_rows, refused_schema, tally

RAW = pa.table({"id": [1, 2, None, 4], "pair": pa.array([[1, None], None, [3, 4], [5, 6]])})
REASONS = np.array(["b is bad", "", "a is bad", "b is bad"], np.object_)


def test_refused_rows_are_as_they_came() -> None:
    refused = refused_rows(RAW, REASONS)
    assert refused.drop_columns("reason").equals(RAW.take([0, 2, 3]))
    assert refused["reason"].to_pylist() == ["b is bad", "a is bad", "b is bad"]


def test_where_nothing_is_refused_there_are_no_rows_and_every_column() -> None:
    for raw, reasons in ((RAW, [""] * 4), (RAW.slice(0, 0), [])):
        refused = refused_rows(raw, np.array(reasons, np.object_))
        assert refused.num_rows == 0
        assert refused.schema == refused_schema(RAW.schema)


def test_what_may_not_be_null_may_be_in_a_refused_row() -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    assert refused_schema(schema) == pa.schema({"id": pa.int64(), "reason": pa.string()})


def test_reasons_are_counted_in_the_order_of_their_names() -> None:
    assert list(tally(REASONS).items()) == [("a is bad", 1), ("b is bad", 2)]
    assert tally(REASONS[:0]) == {}
