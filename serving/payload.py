# SPDX-License-Identifier: Apache-2.0
"""Values of a payload that nobody has checked yet: one rule for JSON and Arrow.

What means the same is taken. A whole number is a number without a fraction, however wide and in
whatever form (3, 3.0, uint8, a dictionary's, a decimal), as long as its form can tell it from its
neighbours: a double up to 2**53. True, "3" and NaN are no numbers here. A null is an absent value:
taken where the value may be absent, refused where it may not. What is not known is refused by name.

Knows nothing of features, requests or protocols.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.values import SANE_MS, day_of, unit_of
from serving.excerpt import QUOTED, excerpt

EXACT: dict[pa.DataType, int] = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""Whole numbers below these are told apart by a float of that width (IEEE 754)."""
WRITERS = (b"pandas",)
"""Metadata that libraries add to a schema unasked; it says nothing that a request could mean."""
LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def check_known(what: str, names: Iterable[Any], known: Collection[str]) -> None:
    """ValueError that names those of `names` that are not known, and what is.

    Args:
        what: what kind of name it is: "the key of an instance".
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(excerpt(name) for name in unknown[:4])
        shown = excerpt(unknown[0]) if len(shown) > QUOTED else shown
        raise ValueError(f"{what} {shown} is unknown; have {', '.join(known) or 'none'}")


def check_metadata(what: str, schema: pa.Schema) -> None:
    """ValueError if an Arrow schema says more than its columns do."""
    names = [name for name in schema.metadata or {} if name not in WRITERS]
    check_known(f"{what}: metadata", [name.decode(errors="replace") for name in names], ())


def whole(what: str, value: Any, low: int = -(2**63), high: int = 2**63) -> int:
    """A whole number within [low, high); ValueError for anything else."""
    exact = value
    if isinstance(value, Decimal) and value == value.to_integral_value():
        exact = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT[pa.float64()]:
        exact = int(value)
    if isinstance(exact, bool) or not isinstance(exact, int):
        raise ValueError(f"{what} is {excerpt(value)}, want a whole number")
    if not low <= exact < high:
        raise ValueError(f"{what} is {excerpt(value)}, want {low} to {high - 1}")
    return exact


def wholes(what: str, values: list[Any]) -> npt.NDArray[np.int64]:
    """Whole numbers of 64 bits, int64 `[len(values)]`; ValueError as `whole` for each."""
    # Most lists are plain integers, and then one look at their types is enough.
    exact = values if set(map(type, values)) == {int} else [whole(what, v) for v in values]
    try:
        return np.array(exact, np.int64)
    except OverflowError:
        return np.array([whole(what, v) for v in values], np.int64)


def number(what: str, value: Any, limit: float) -> float:
    """A number within +-limit; ValueError for anything else, NaN too."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{what} is {excerpt(value)}, want a number")
    size: Any = abs(value)
    if not size <= limit:
        raise ValueError(f"{what} is {excerpt(value)}, want -{limit:g} to {limit:g}")
    return float(value)


def time_of(what: str, value: Any) -> int:
    """A time in milliseconds within `SANE_MS`; ValueError says what it would be in another unit."""
    time_ms = whole(what, value, -(10**30), 10**30)
    if SANE_MS[0] <= time_ms < SANE_MS[1]:
        return time_ms
    reading, unit = f"{what} is {time_ms}, in milliseconds {day_of(time_ms)}", unit_of(time_ms)
    if unit:
        raise ValueError(
            f"{reading}, in {unit} {day_of(time_ms, unit)}; send milliseconds since 1970"
        )
    raise ValueError(f"{reading}; want milliseconds since 1970, from the years 2000 to 2099")


def as_kind(what: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as `kind`, itself where it is that already, nulls where it has them.

    Args:
        what: what a message calls the column.
        column: of any type.
        kind: an integer or float, or a list of them.

    Raises:
        ValueError: values that are no such numbers, do not fit or do not say exactly which whole
            number they are; lists of another length than a fixed one.
    """
    if column.type == kind:
        return column
    try:
        plain = decoded(column)
        return _as_lists(plain, kind) if _is_list(kind) else _as_numbers(plain, kind)
    except (pa.ArrowException, TypeError) as error:
        source, reason = (str(part).split("\n")[0][:QUOTED] for part in (column.type, error))
        raise ValueError(f"{what} is {source}, want {kind}: {reason}") from error


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in LISTS)


def decoded(column: pa.Array) -> pa.Array:
    """The values of a dictionary or of runs, one a row."""
    if pa.types.is_dictionary(column.type):
        return decoded(column.dictionary_decode())
    if pa.types.is_run_end_encoded(column.type):
        return decoded(pc.run_end_decode(column))
    return column


def _as_numbers(column: pa.Array, kind: pa.DataType) -> pa.Array:
    source = column.type
    if pa.types.is_null(source) or source == kind:
        return column.cast(kind)
    if pa.types.is_floating(source):
        if pa.types.is_integer(kind) and _largest(column) >= EXACT[source]:
            raise TypeError(f"{source} cannot tell whole numbers from {EXACT[source]} on apart")
    elif not (pa.types.is_integer(source) or pa.types.is_decimal(source)):
        raise TypeError("it is no number")
    if pa.types.is_floating(kind):
        # Rounds to the nearest as JSON's numbers are; Arrow's own cast of an integer does not.
        return column.cast(pa.float64(), safe=False).cast(kind)
    return column.cast(kind)


def _largest(column: pa.Array) -> float:
    """The largest magnitude, -1 where there is none; a NaN is not counted."""
    values = column.drop_null().to_numpy()
    return float(np.nanmax(np.abs(values), initial=-1.0))


def _as_lists(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists of any of Arrow's layouts as `kind`. Arrow's own cast loses values of list views."""
    if pa.types.is_null(column.type):
        return column.cast(kind)
    if not _is_list(column.type):
        raise TypeError("it is no list")
    gone, lengths = column.is_null(), pc.list_value_length(column).fill_null(0)
    values = _as_numbers(decoded(pc.list_flatten(column)), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return _as_vectors(values, lengths, gone, kind)
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind, mask=gone)


def _as_vectors(values: pa.Array, lengths: pa.Array, gone: pa.Array, kind: pa.DataType) -> pa.Array:
    """One vector of the kind's length a row."""
    other = [n for n in lengths.to_pylist() if n != kind.list_size]
    if gone.true_count:
        raise TypeError("it has a null")
    if other:
        raise TypeError(f"a row has {other[0]} values")
    return vectors(values, len(lengths), kind)


def vectors(values: pa.Array, rows: int, kind: pa.DataType) -> pa.Array:
    """`rows` fixed-size lists over `values`; unlike Arrow's own, also where their length is 0."""
    return pa.Array.from_buffers(kind, rows, [None], children=[values])
