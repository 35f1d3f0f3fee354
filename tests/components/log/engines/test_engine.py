# SPDX-License-Identifier: Apache-2.0
"""The engine of this process: every bucket, its rows in order, nothing done before it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.log import buckets as dealing
from components.log.buckets import bucket_numbers
from components.log.columns import column
from components.log.engines import LocalEngine, engine_named
from tests.engine_builders import Numbers, numbers


def test_each_bucket_has_the_rows_of_its_keys_in_their_order() -> None:
    def step(bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        assert set(bucket_numbers(rows[0], ("number",), 5)) <= {bucket}
        assert rows[0].equals(rows[1])
        return rows[0]

    tables = [*LocalEngine().by_bucket([Numbers(), Numbers()], 5, step)]
    assert len(tables) == 5
    values = [column(table, "number") for table in tables]
    assert all((np.diff(own) > 0).all() for own in values)
    assert sorted(np.concatenate(values)) == [*range(21)]


def test_without_rows_every_bucket_is_still_stepped() -> None:
    steps = []

    def step(bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        steps.append(bucket)
        return rows[0]

    tables = [*LocalEngine().by_bucket([Numbers(parts=())], 3, step)]
    assert steps == [0, 1, 2]
    assert {table.num_rows for table in tables} == {0}
    assert tables[0].schema == numbers(0).schema


def test_a_bucket_is_stepped_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rows are put aside in files."""
    monkeypatch.setattr(dealing, "ROWS_IN_MEMORY", 5)
    steps = []

    def step(bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        steps.append(bucket)
        return rows[0]

    said = LocalEngine().by_bucket([Numbers()], 3, step)
    assert next(said).num_rows
    assert steps == [0]
    assert len([*said]) == 2


def test_work_is_done_item_by_item() -> None:
    def work(item: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from item.to_batches(max_chunksize=4)

    batches = [*LocalEngine().each([numbers(7), numbers(0)], work)]
    assert [batch.num_rows for batch in batches] == [4, 3, 4, 3]
    assert batches[0]["number"][0].as_py() == 7


def test_local_is_the_engine_of_this_process(tmp_path: Path) -> None:
    assert isinstance(engine_named("local", tmp_path), LocalEngine)
