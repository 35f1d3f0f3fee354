# SPDX-License-Identifier: Apache-2.0
"""A file's columns against a schema: what does, and what is one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.log.schema import check_schema, read_schema, read_table, same_type

PAIR = pa.list_(pa.float16(), 2)
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("pair", PAIR)])
ROWS: dict[str, Any] = {
    "id": pa.array([4, None, 9], pa.int64()),
    "pair": pa.array([[1, 2], None, [3, 4]], PAIR),
}


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({**ROWS, **columns}), path)
    return path


def test_the_columns_beside_those_that_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", z=pa.array([1, 2, 3]), b=pa.array(["x", "y", "z"]))
    assert check_schema(path, SCHEMA) == ["z", "b"]
    assert check_schema(write(tmp_path / "b.parquet"), SCHEMA) == []
    assert read_schema(path).names == ["id", "pair", "z", "b"]


def test_rows_come_in_the_schemas_order_with_their_nulls(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"z": pa.array([0, 0, 0]), "pair": ROWS["pair"], "id": ROWS["id"]}), path
    )
    table = read_table(path, SCHEMA)
    assert table.column_names == ["id", "pair"]
    assert table["id"].to_pylist() == [4, None, 9]
    assert table["pair"].to_pylist() == [[1, 2], None, [3, 4]]
    assert [field.nullable for field in table.schema] == [True, True]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": pa.array([1, 2, 3], pa.int32())}, "column 'id' is int32, want int64; cast it"),
        ({"id": pa.array(["1", "2", "3"])}, "column 'id' is string, want int64; cast it"),
        (
            {"id": pa.array([1, 2, 3], pa.timestamp("ms"))},
            "column 'id' is timestamp[ms], want int64 (milliseconds since 1970, UTC); cast it",
        ),
        (
            {"pair": pa.array([[1, 2, 3]] * 3, pa.list_(pa.float16(), 3))},
            "column 'pair' is fixed_size_list<element: halffloat>[3], want fixed_size_list<item: "
            "halffloat>[2]; cast it",
        ),
        ({"pair": pa.array([1, 2, 3], pa.int64())}, "column 'pair' is int64, want fixed_size_list"),
    ],
)
def test_another_type_is_one_sentence(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.parquet", **columns)
    for function in (check_schema, read_table):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")) as error:
            function(path, SCHEMA)
        assert str(error.value).endswith("cast it before ingest")


def test_a_missing_column_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pair": ROWS["pair"], "z": pa.array([1, 2, 3])}), path)
    message = f"{path} has no column 'id'; want int64, have pair, z"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(path, SCHEMA)
    pq.write_table(pa.table({}), path)
    with pytest.raises(ValueError, match="has no column 'id'; want int64, have none"):
        check_schema(path, SCHEMA)


def test_no_file_and_no_parquet_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for function in (read_schema, lambda p: check_schema(p, SCHEMA)):
        with pytest.raises(ValueError, match=re.escape(f"there is no file {path}; run the source")):
            function(path)
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(
        ValueError, match=r"a\.parquet is not a Parquet file \(.+\); write"
    ) as error:
        read_schema(path)
    assert "\n" not in str(error.value)
    data = bytearray(write(path).read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read \(.+\); write") as error:
        read_table(path, SCHEMA)
    assert f"({str(error.value.__cause__).splitlines()[0]})" in str(error.value)


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        (pa.int64(), pa.int64(), True),
        (pa.int32(), pa.int64(), False),
        (pa.int64(), PAIR, False),
        (PAIR, PAIR, True),
        (PAIR, pa.int64(), False),
        (pa.list_(pa.field("element", pa.float16()), 2), PAIR, True),
        (pa.list_(pa.float16(), 3), PAIR, False),
        (pa.list_(pa.float32(), 2), PAIR, False),
        (pa.list_(pa.float16()), PAIR, False),
    ],
    ids=str,
)
def test_types_are_the_same_whatever_a_lists_items_are_called(
    got: pa.DataType, want: pa.DataType, same: bool
) -> None:
    assert same_type(got, want) is same
