# SPDX-License-Identifier: Apache-2.0
"""Whether a Parquet file has the columns a spec asks for; one sentence says what is wrong.

This module knows nothing of the values in the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS = 131_072
"""Rows that are read at once."""


def check_schema(path: Path, schema: pa.Schema) -> list[str]:
    """Checks a file's columns against a schema and returns the columns it has beside them.

    Raises:
        ValueError: the file is missing or is no Parquet, or a column is missing or of another type;
            names the file, the column, what was got and what was expected.
    """
    written = read_schema(path)
    for field in schema:
        if field.name not in written.names:
            raise ValueError(
                f"{path} has no column {field.name!r}; want {field.type}, have "
                f"{', '.join(written.names) or 'none'}"
            )
        got = written.field(field.name).type
        if not same_type(got, field.type):
            unit = " (milliseconds since 1970, UTC)" if pa.types.is_temporal(got) else ""
            raise ValueError(
                f"{path}: column {field.name!r} is {got}, want {field.type}{unit}; "
                "cast it before ingest"
            )
    return [name for name in written.names if name not in schema.names]


def read_schema(path: Path) -> pa.Schema:
    """The schema of a Parquet file; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; run the source (import or simulate) first")
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a Parquet file ({reason}); write it again") from error


def same_type(got: pa.DataType, want: pa.DataType) -> bool:
    """Equal types; the name that a writer gave the items of a list does not matter."""
    if pa.types.is_fixed_size_list(want):
        return (
            pa.types.is_fixed_size_list(got)
            and got.list_size == want.list_size
            and got.value_type == want.value_type
        )
    return bool(got == want)


def nullable(schema: pa.Schema) -> pa.Schema:
    """The columns as they are read: nulls stay."""
    return pa.schema([field.with_nullable(True) for field in schema])


def read_table(path: Path, schema: pa.Schema, rows: pc.Expression | None = None) -> pa.Table:
    """The schema's columns of a file that `check_schema` accepts, in its order; nulls stay."""
    check_schema(path, schema)
    with one_sentence(path):
        table = pq.read_table(path, columns=schema.names, filters=rows)
        return table.select(schema.names).cast(nullable(schema))


def read_batches(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """As `read_table`, some rows at a time."""
    check_schema(path, schema)
    with one_sentence(path), pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=schema.names):
            rows = pa.Table.from_batches([batch]).select(schema.names)
            yield rows.cast(nullable(schema))


@contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises into a ValueError of one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}); write it again") from error
