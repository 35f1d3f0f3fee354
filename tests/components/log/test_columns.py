# SPDX-License-Identifier: Apache-2.0
"""Columns as numpy and back: what a null is read as, and that nothing else changes on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.columns import (
    Nulls,
    arrow_column,
    column,
    lookup,
    packed_bytes,
    records,
    select_list,
)
from feature_repo.kinds import Feature, Numeric, View
from feature_repo.spec import Spec
from feature_repo.specs import SPECS
from tests.log_builders import random_log, small_spec

PAIR = pa.list_(pa.float16(), 2)
NAN = float("nan")
LENGTH = Feature(name="length", role="context", kind=Numeric(), source="v")
READ: list[tuple[list[Any], pa.DataType, Nulls, list[Any]]] = [
    ([5, None, -3], pa.int64(), "unknown", [5, -1, -3]),
    ([5, None, -3], pa.int32(), "zero", [5, 0, -3]),
    ([5, None, -3], pa.int8(), "left out", [5, -3]),
    ([2.5, None, NAN], pa.float32(), "unknown", [2.5, NAN, NAN]),
    ([2.5, None, NAN], pa.float32(), "zero", [2.5, 0, NAN]),
    ([2.5, None], pa.float16(), "left out", [2.5]),
    ([True, None, False], pa.bool_(), "zero", [True, False, False]),
    ([True, None, False], pa.bool_(), "left out", [True, False]),
    ([True, False], pa.bool_(), "unknown", [True, False]),
    ([[1, 2], None, [3, 4]], PAIR, "unknown", [[1, 2], [0, 0], [3, 4]]),
    ([[1, 2], None, [3, 4]], PAIR, "zero", [[1, 2], [0, 0], [3, 4]]),
    ([[1, 2], None, [3, 4]], PAIR, "left out", [[1, 2], [3, 4]]),
    ([[1, None]], PAIR, "zero", [[1, NAN]]),
    ([None, None], pa.int64(), "left out", []),
    ([], pa.int64(), "unknown", []),
    ([], PAIR, "zero", []),
]


@pytest.mark.parametrize(("values", "kind", "nulls", "want"), READ)
def test_what_a_null_is_read_as(
    values: list[Any], kind: pa.DataType, nulls: Nulls, want: list[Any]
) -> None:
    """By its meaning, in the column's own type, in a table, in a batch and in a part of one."""
    array = pa.array(values, kind)
    dtype = (kind.value_type if pa.types.is_fixed_size_list(kind) else kind).to_pandas_dtype()
    table = pa.table({"before": array, "x": array})
    around = pa.table({"x": pa.chunked_array([array, array, array])}).slice(len(array), len(array))
    for source in (table, pa.RecordBatch.from_arrays([array], ["x"]), around):
        got = column(source, "x", nulls)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.array(want, dtype).reshape(got.shape))
        assert len(got) == len(want)


def test_unknown_is_what_is_meant_where_nothing_is_said() -> None:
    assert column(pa.table({"x": pa.array([None, 7], pa.int64())}), "x").tolist() == [-1, 7]


def test_a_boolean_is_never_unknown() -> None:
    with pytest.raises(ValueError, match="column 'timed' is true or false, and has nulls"):
        column(pa.table({"timed": [True, None]}), "timed")


def test_a_column_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="the table has no column 'z'; have a, b"):
        column(pa.table({"a": [1], "b": [2]}), "z")


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1))), st.integers(0, 9))
def test_the_meanings_differ_in_the_nulls_alone(values: list[int | None], cut: int) -> None:
    """However the rows lie in chunks."""
    array = pa.array(values, pa.int32())
    table = pa.table({"x": pa.chunked_array([array[:cut], array[cut:]], pa.int32())})
    null = np.array([v is None for v in values], np.bool_)
    unknown, zero, rest = (column(table, "x", n) for n in ("unknown", "zero", "left out"))
    assert unknown[~null].tolist() == zero[~null].tolist() == rest.tolist()
    assert (unknown[null] == -1).all()
    assert (zero[null] == 0).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_what_is_read_is_written_back(spec: Spec) -> None:
    log = random_log(small_spec(spec.name.removeprefix("small_")), 4)
    for table in (log.posts, log.members):
        for field in table.schema:
            array = arrow_column(column(table, field.name), field.type)
            assert array.type == field.type
            assert str(array.to_pylist()) == str(table[field.name].to_pylist())


def test_records_hold_the_columns_and_their_bytes_are_unpacked_again() -> None:
    log = random_log(small_spec("simulator"), 4)
    view = log.spec.content
    packed = records(log.posts, view)
    for name in view.dtype.names or ():
        np.testing.assert_array_equal(packed[name], column(log.posts, name))
    again, missing = view.unpack(packed_bytes(packed).to_pylist())
    assert again.tobytes() == packed.tobytes()
    assert not missing.any()
    assert packed_bytes(packed).type == pa.binary()
    assert len(packed_bytes(packed[:0])) == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(-1, 11)))
def test_a_record_is_looked_up_by_its_key(known: list[int], ids: list[int]) -> None:
    """Whatever order the table has; what it does not have is the default, 0 among it."""
    view = View(name="v", keys=("post_id",), kind="profile", features=(LENGTH,))
    table = pa.table({"post_id": pa.array(known, pa.int64()), "length": [k / 4 for k in known]})
    got = lookup(table, "post_id", np.array(ids, np.int64), view)["length"]
    want = [i / 4 if i in known else NAN for i in ids]
    np.testing.assert_array_equal(got, np.array(want, np.float32))


def test_names_in_sql_may_be_words_of_sql() -> None:
    assert select_list(("like", "post_id")) == '"like", "post_id"'
