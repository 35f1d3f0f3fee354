# SPDX-License-Identifier: Apache-2.0
"""What means the same is taken, whatever its form; what does not is one short sentence."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from serving.payload import as_kind, check_known, check_metadata, number, time_of, whole, wholes

INT64 = pa.int64()
IDS = pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (3, 3),
        (-3, -3),
        (3.0, 3),
        (-0.0, 0),
        (1e3, 1000),
        (2.0**53 - 1, 2**53 - 1),
        (1 - 2.0**53, 1 - 2**53),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (Decimal("7"), 7),
        (Decimal("7.00"), 7),
        (Decimal(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_whole_number_is_taken_in_any_form(value: Any, want: int) -> None:
    got = whole("x", value)
    assert type(got) is int
    assert got == want


FRACTIONS = [1.5, 2.0**53, -(2.0**53), 1e300, float("nan"), float("inf"), -float("inf")]
OTHERS = ["3", b"3", True, False, None, [3], {"x": 3}, Decimal("7.5"), Decimal("NaN")]


@pytest.mark.parametrize("value", [*FRACTIONS, *OTHERS])
def test_what_is_no_whole_number_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^x is .{1,60}, want a whole number$"):
        whole("x", value)


@pytest.mark.parametrize(("value", "fits"), [(4, False), (5, True), (8, True), (9, False)])
def test_a_range_holds_its_lower_end_and_not_its_upper(value: int, fits: bool) -> None:
    for form in (value, float(value), Decimal(value)):
        if fits:
            assert whole("x", form, 5, 9) == value
        else:
            with pytest.raises(ValueError, match=r"^x is .{1,60}, want 5 to 8$"):
                whole("x", form, 5, 9)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_beyond_64_bits_is_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match=r"^x is .{1,60}, want -9223372036854775808 to 92233720"):
        whole("x", value)


@pytest.mark.parametrize("value", [0, -0.0, 0.5, -7, 1e30, -1e30, Decimal("0.25"), 10**30])
def test_a_number_within_its_limit(value: Any) -> None:
    got = number("w", value, 1e30)
    assert type(got) is float
    assert got == float(value)


@pytest.mark.parametrize("value", [np.nextafter(1e30, 2e30), -1.1e30, float("nan"), 10**400])
def test_a_number_beyond_its_limit_or_none(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^w is .{1,60}, want -1e\+30 to 1e\+30$"):
        number("w", value, 1e30)


@pytest.mark.parametrize("value", [True, "1", None, [1.0], {}])
def test_what_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^w is .{1,60}, want a number$"):
        number("w", value, 1e30)


def test_a_list_of_whole_numbers_is_one_of_64_bits() -> None:
    for values in ([3, -1], [3.0, -1], [3, -1.0], [Decimal(3), -1], [-(2**63), 2**63 - 1], []):
        got = wholes("ids", values)
        assert got.dtype == np.int64
        assert got.tolist() == values
    for value in (True, 1.5, "1", None, 2**63, -(2**63) - 1, 2.0**53):
        for values in ([value], [1, value], [value, 2.0]):
            with pytest.raises(ValueError, match=r"^ids is .{1,60}, want "):
                wholes("ids", values)


def test_an_absurd_time_is_out_of_range_and_a_late_one_after_all_years() -> None:
    edge = 10**30
    for sign in (1, -1):
        with pytest.raises(
            ValueError, match=r"in milliseconds (after the year 9999|before 1970); wa"
        ):
            time_of("time_ms", sign * (edge - 1))
    with pytest.raises(ValueError, match=rf"^time_ms is {edge}, want -{edge} to {edge - 1}$"):
        time_of("time_ms", edge)


FIRST, LAST = 946_684_800_000, 4_102_444_799_999


@pytest.mark.parametrize("value", [FIRST, FIRST + 1, 1_764_500_000_123, LAST, float(FIRST)])
def test_a_time_of_a_century_is_taken(value: Any) -> None:
    assert time_of("time_ms", value) == int(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1_764_500_000, "in milliseconds 1970-01-21, in seconds 2025-11-30; send milliseconds"),
        (1_764_500_000_123_456, "after the year 9999|, in microseconds 2025-11-30; send"),
        (1_764_500_000_123_456_789, "after the year 9999, in nanoseconds 2025-11-30; send"),
        (FIRST - 1, "in milliseconds 1999-12-31; want milliseconds since 1970, from the years"),
        (LAST + 1, "in milliseconds 2100-01-01; want milliseconds since 1970"),
        (0, "in milliseconds 1970-01-01; want"),
        (-5, "in milliseconds before 1970; want"),
        (2**62, "in milliseconds after the year 9999; want|in nanoseconds"),
        (FIRST // 1000, "in seconds 2000-01-01; send"),
        (LAST // 1000, "in seconds 2099-12-31; send"),
        (FIRST // 1000 - 1, "in milliseconds 1970-01-11; want"),
        (LAST // 1000 + 1, "in milliseconds 1970-02-17; want"),
    ],
)
def test_a_time_in_another_unit_is_told_what_it_would_be(value: int, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^time_ms is {value}, .*({says})"):
        time_of("time_ms", value)


def test_a_time_that_is_no_number_or_absurd_is_one_sentence() -> None:
    for value in ("2025-11-30", 1.5, True, None, 10**30, -(10**400)):
        with pytest.raises(ValueError, match=r"^time_ms is .{1,60}, want "):
            time_of("time_ms", value)


def test_unknown_names_are_listed_with_the_known_ones() -> None:
    check_known("the key", [], ("a", "b"))
    check_known("the key", ["b", "a", "b"], ("a", "b"))
    with pytest.raises(ValueError, match=r"^the key 'c' is unknown; have a, b$"):
        check_known("the key", ["a", "c"], ("a", "b"))
    with pytest.raises(ValueError, match=r"^the key 'c', 3, None is unknown; have a$"):
        check_known("the key", ["c", "a", 3, None], ("a",))
    with pytest.raises(ValueError, match=r"^the key 'c' is unknown; have none$"):
        check_known("the key", ["c"], ())


def test_names_are_shown_up_to_four_and_up_to_sixty_characters() -> None:
    def shown(*names: str) -> str:
        with pytest.raises(ValueError, match=r"^key .* is unknown; have a$") as caught:
            check_known("key", names, ("a",))
        return str(caught.value).removeprefix("key ").removesuffix(" is unknown; have a")

    assert shown("b", "c", "d", "e", "f") == "'b', 'c', 'd', 'e'"
    sixty = ("x" * 26, "y" * 28)
    assert shown(*sixty) == f"'{'x' * 26}', '{'y' * 28}'"
    assert len(shown(*sixty)) == 60
    assert shown("x" * 27, "y" * 28) == f"'{'x' * 27}'"


@pytest.mark.parametrize(
    "names", [["x" * 500], ["x" * 40] * 3, [f"key{i}" for i in range(500)], ["\n\r\t" * 40]]
)
def test_no_more_than_a_few_characters_of_unknown_names_are_shown(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is unknown; have a$") as caught:
        check_known("the key", names, ("a",))
    assert len(str(caught.value)) <= 60 + len("the key  is unknown; have a")
    assert str(caught.value).isprintable()


def test_metadata_that_means_something_is_refused_and_a_librarys_own_is_not() -> None:
    schema = pa.schema({"x": pa.int64()})
    for fine in (None, {}, {"pandas": "{}"}):
        check_metadata("requests", schema.with_metadata(fine))
    with pytest.raises(ValueError, match=r"^requests: metadata 'weights' is unknown; have none$"):
        check_metadata("requests", schema.with_metadata({"pandas": "{}", "weights": "{}"}))
    with pytest.raises(ValueError, match=r"^requests: metadata '.{1,58}' is unknown; have none$"):
        check_metadata("requests", schema.with_metadata({b"\xff" * 300: b""}))


def dictionary(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind).dictionary_encode()


WIDTHS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
WIDTHS += [pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(38, 0)]
WIDTHS += [pa.decimal128(10, 2), pa.decimal256(50, 0)]


@pytest.mark.parametrize("kind", WIDTHS, ids=str)
def test_whole_numbers_of_any_width_are_taken(kind: pa.DataType) -> None:
    values = [5, None, 0, 127, 5]
    encoded = [pa.array(values, pa.int64()).cast(pa.float64()).cast(kind)]
    encoded += [encoded[0].dictionary_encode(), encoded[0].slice(1)]
    if kind in (pa.int64(), pa.float64(), pa.uint8()):
        encoded.append(pc.run_end_encode(encoded[0]))
    for column, want in zip(encoded, [values, values, values[1:], values], strict=False):
        got = as_kind("ids", column, INT64)
        assert got.type == INT64
        assert got.to_pylist() == want


LAYOUTS = [
    lambda kind: pa.list_(kind),
    lambda kind: pa.large_list(kind),
    lambda kind: pa.list_view(kind),
    lambda kind: pa.large_list_view(kind),
]


@pytest.mark.parametrize("kind", WIDTHS[:11], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lists_of_any_layout_are_taken(layout: Any, kind: pa.DataType) -> None:
    values = [[7, 3], None, [], [9], [1, 2, 4]]
    column = pa.array(
        [None if v is None else [kind_of(kind, x) for x in v] for v in values], layout(kind)
    )
    for part, want in ((column, values), (column.slice(1, 3), values[1:4]), (column[:0], [])):
        got = as_kind("candidates", part, IDS)
        got.validate(full=True)
        assert got.type == IDS
        assert got.to_pylist() == want


def kind_of(kind: pa.DataType, value: int) -> Any:
    """A number as Arrow builds that type of."""
    return np.float16(value) if kind == pa.float16() else value


def test_lists_of_one_length_of_a_dictionary_and_of_nothing_are_taken() -> None:
    fixed = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2))
    assert as_kind("c", fixed, IDS).to_pylist() == [[1, 2], None, [3, 4]]
    words = pa.ListArray.from_arrays([0, 2, 3], dictionary([50, 60, 50], pa.uint16()))
    assert as_kind("c", words, IDS).to_pylist() == [[50, 60], [50]]
    assert as_kind("c", pa.array([[], [None]], pa.list_(pa.null())), IDS).to_pylist() == [
        [],
        [None],
    ]
    assert as_kind("c", pa.nulls(2), IDS).to_pylist() == [None, None]
    assert as_kind("c", pa.array([[1, None]], pa.large_list(pa.int8())), IDS).to_pylist() == [
        [1, None]
    ]
    assert as_kind("t", pa.nulls(2), INT64).to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([1.5]), "truncated"),
        (pa.array([float("nan")]), "truncated"),
        (pa.array([2.0**53]), "cannot tell whole numbers from 9007199254740992"),
        (pa.array([-(2.0**53)]), "from 900719"),
        (pa.array([2.0**24], pa.float32()), "float cannot tell whole numbers from 16777216 on"),
        (pa.array([np.float16(2048)]), "halffloat cannot tell whole numbers from 2048 on"),
        (pa.array([float("inf")]), "cannot tell"),
        (pa.array([2**63], pa.uint64()), "not in range"),
        (pa.array([Decimal("1.5")]), "data loss"),
        (pa.array([Decimal(2**63)]), "out of bounds"),
        (pa.array(["1"]), "no number"),
        (pa.array(["1"], pa.large_string()), "no number"),
        (dictionary(["1"], pa.string()), "no number"),
        (pa.array([b"1"]), "no number"),
        (pa.array([True]), "no number"),
        (pa.array([1], pa.timestamp("ms", "UTC")), "no number"),
        (pa.array([1], pa.duration("ms")), "no number"),
        (pa.array([1], pa.date64()), "no number"),
        (pa.array([[1]]), "no number"),
        (pa.array([{"x": 1}]), "no number"),
    ],
)
def test_a_column_that_is_no_whole_number_is_named(column: pa.Array, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^ids is .*, want int64: ") as caught:
        as_kind("ids", column, INT64)
    assert reason in str(caught.value)
    lists = pa.ListArray.from_arrays([0, 1], column)
    with pytest.raises(ValueError, match=r"^ids is list<.*, want list<item: int64>: ") as caught:
        as_kind("ids", lists, IDS)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_the_last_whole_number_that_a_float_tells_apart_is_taken(kind: pa.DataType) -> None:
    last = {"halffloat": 2**11, "float": 2**24, "double": 2**53}[str(kind)] - 1
    column = pa.array([float(last), -float(last)]).cast(kind)
    assert as_kind("ids", column, INT64).to_pylist() == [last, -last]


def test_what_is_no_list_is_no_list() -> None:
    for column in (pa.array([1]), pa.array(["1"]), pa.array([{"x": 1}])):
        with pytest.raises(ValueError, match="it is no list"):
            as_kind("candidates", column, IDS)


@pytest.mark.parametrize("kind", WIDTHS, ids=str)
def test_numbers_of_any_width_become_floats(kind: pa.DataType) -> None:
    column = pa.array([5.0, None, 127.0]).cast(kind)
    assert as_kind("x", column, pa.float32()).to_pylist() == [5.0, None, 127.0]


def test_a_number_is_rounded_to_the_nearest_as_json_is() -> None:
    for value in (1 / 3, 16_777_217, 2**60 + 1, -(2**63)):
        got = as_kind("x", pa.array([value]), pa.float32()).to_numpy()
        assert got.dtype == np.float32
        assert got[0] == np.float32(value)
    assert np.isnan(as_kind("x", pa.array([float("nan")]), pa.float32()).to_numpy()[0])
    for column in (pa.array(["1"]), pa.array([True]), pa.array([1], pa.date32())):
        with pytest.raises(ValueError, match="it is no number"):
            as_kind("x", column, pa.float32())


VECTOR = pa.list_(pa.float16(), 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int32()], ids=str)
def test_vectors_of_any_layout_are_taken(layout: Any, kind: pa.DataType) -> None:
    column = pa.array([[1, 2], [3, 5], [4, 7]], layout(kind))
    for part, want in (
        (column, [[1, 2], [3, 5], [4, 7]]),
        (column[1:2], [[3, 5]]),
        (column[:0], []),
    ):
        got = as_kind("v", part, VECTOR)
        got.validate(full=True)
        assert got.type == VECTOR
        assert got.to_pylist() == want


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([[1.0, 2.0], [3.0]]), "a row has 1 values"),
        (pa.array([[1.0, 2.0], [3.0, 4.0, 5.0]]), "a row has 3 values"),
        (pa.array([[1.0, 2.0], None]), "it has a null"),
        (pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float16(), 3)), "a row has 3 values"),
        (pa.array([["a", "b"]]), "it is no number"),
        (pa.array([1.0, 2.0]), "it is no list"),
    ],
)
def test_vectors_of_another_length_are_named(column: pa.Array, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^v is .*, want fixed_size_list.*: {reason}$"):
        as_kind("v", column, VECTOR)


def test_lists_get_the_very_type_that_is_wanted() -> None:
    kind = pa.list_(pa.field("post", pa.int64(), nullable=False))
    got = as_kind("ids", pa.array([[1, 2], [3]]), kind)
    assert got.type.value_field.name == "post"
    assert got.to_pylist() == [[1, 2], [3]]


def test_what_is_of_the_kind_already_is_itself() -> None:
    column = pa.array([1, 2])
    assert as_kind("ids", column, INT64) is column
