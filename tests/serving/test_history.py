# SPDX-License-Identifier: Apache-2.0
"""The history codec and the rule of what was known."""

from __future__ import annotations

import dataclasses
import time
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features.history_columns import history_batch
from components.log.columns import column
from components.log.impressions import history_order, with_content
from feature_repo.spec import DAY_MS, FRESHNESS, window_start
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.history import (
    History,
    decode_history,
    empty_history,
    encode_history,
    history_as_of,
    known_counts,
    max_value_bytes,
)
from tests.arrow_builders import Hole, holes, longer, stream, with_hole
from tests.log_builders import random_log, small_spec

SPECS = [small_spec("kuairand"), small_spec("simulator")]


def make_batch(spec, rows: int, seed: int = 0) -> pa.RecordBatch:
    log = random_log(spec, seed, rows=3 * rows + 8, members=1)
    events = history_order(with_content(log.impressions, log.posts, spec))
    return history_batch(events, spec).slice(0, rows)


def make_value(spec, count: int = 9) -> bytes:
    return encode_history(make_batch(spec, count), member_id=3, count=count, spec=spec)


def assert_same(got: pa.RecordBatch, want: pa.RecordBatch) -> None:
    """Equal schemas and values, a NaN equal to a NaN."""
    assert got.schema == want.schema
    for name in want.schema.names:
        np.testing.assert_array_equal(column(got, name), column(want, name), err_msg=name)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("count", [0, 1, 12, 15, 16, 17, 23])
def test_a_value_decodes_to_the_window_it_was_made_of(spec, count):
    batch = make_batch(spec, count)
    history = decode_history(encode_history(batch, member_id=-5, count=count, spec=spec), spec)
    start = int(window_start(count, spec.max_impressions, spec.block))
    assert (history.count, history.start, history.member_id) == (count, start, -5)
    assert_same(history.batch, batch.slice(start))
    assert history.batch.num_rows < spec.max_impressions + spec.block


@pytest.mark.parametrize("value", [None, b""])
def test_no_value_is_the_empty_history(value):
    history = decode_history(value, KUAIRAND)
    assert (history.count, history.start, history.batch.num_rows) == (0, 0, 0)
    assert history.batch.schema == KUAIRAND.history_schema
    assert history.known(KUAIRAND, "day").shape == (0,)


@pytest.mark.law
@given(st.integers(0, 40), st.integers(0, 11), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_equal_rows_are_equal_bytes_however_they_lie_in_memory(count, offset, chunk):
    spec = SPECS[1]
    whole = make_batch(spec, count + offset)
    rows = whole.slice(offset)
    parts = [whole.slice(i, chunk) for i in range(0, len(whole), chunk)]
    joined = pa.Table.from_batches(parts, schema=whole.schema).combine_chunks()
    copied = pa.RecordBatch.from_arrays(
        [c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in joined.columns],
        schema=whole.schema,
    )
    a = encode_history(rows, member_id=1, count=count, spec=spec)
    b = encode_history(copied.slice(offset), member_id=1, count=count, spec=spec)
    longer = encode_history(whole, member_id=1, count=count, spec=spec)
    assert a == b == longer


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_every_changed_or_missing_byte_is_one_sentence(spec):
    value = make_value(spec)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(value)
        place = int(rng.integers(len(value)))
        damaged[place] ^= int(rng.integers(1, 256))
        with pytest.raises(ValueError, match="rebuild"):
            decode_history(bytes(damaged), spec)
    for length in rng.integers(1, len(value), 100):
        with pytest.raises(ValueError, match="rebuild"):
            decode_history(value[: int(length)], spec)


@pytest.mark.law
@given(st.data())
@settings(deadline=None, max_examples=300)
def test_hostile_bytes_with_a_good_checksum_never_get_past_the_guard(data):
    spec = SPECS[0]
    stream = bytearray(make_value(spec)[:-4])
    for _ in range(data.draw(st.integers(1, 8))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    value = bytes(stream) + zlib.crc32(bytes(stream)).to_bytes(4, "little")
    try:
        history = decode_history(value, spec)
    except ValueError:
        return
    assert history.batch.schema.equals(spec.history_schema)
    assert history.batch.num_rows == history.count - history.start


def test_another_spec_is_refused_by_name():
    spec = SPECS[0]
    other = dataclasses.replace(spec, block=5)
    with pytest.raises(ValueError, match=rf"built with spec {spec.hash}, this one is {other.hash}"):
        decode_history(make_value(spec), other)


def test_absurd_values_are_refused():
    spec = SPECS[0]
    with pytest.raises(ValueError, match="want at most"):
        decode_history(b"x" * (max_value_bytes(spec) + 1), spec)
    reader = pa.ipc.open_stream(make_value(spec))
    batch = reader.read_next_batch()
    for metadata in ({"count": "10"}, {"count": "-1"}, {"count": "1e9"}, {"count": "9" * 40}, {}):
        schema = spec.history_schema.with_metadata(
            {"spec_hash": spec.hash, "member_id": "1", **metadata}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        stream = sink.getvalue().to_pybytes()
        with pytest.raises(ValueError, match="history value"):
            decode_history(stream + zlib.crc32(stream).to_bytes(4, "little"), spec)


def test_wrong_columns_are_refused_when_written():
    spec = SPECS[0]
    batch = make_batch(spec, 9)
    with pytest.raises(ValueError, match="no column 'tab'"):
        encode_history(batch.drop_columns(["tab"]), member_id=1, count=9, spec=spec)
    nulls = pa.array([None] * 9, pa.int32())
    place = batch.schema.get_field_index("tab")
    fields = pa.schema([f.with_nullable(True) for f in batch.schema])
    columns = [nulls if i == place else c for i, c in enumerate(batch.columns)]
    with pytest.raises(ValueError, match="'tab' is int32 with 9 nulls"):
        encode_history(
            pa.RecordBatch.from_arrays(columns, schema=fields), member_id=1, count=9, spec=spec
        )
    with pytest.raises(ValueError, match="has 9 rows, the window of 10 impressions holds 10"):
        encode_history(batch, member_id=1, count=10, spec=spec)


@pytest.mark.law
@given(st.integers(0, 2**32), st.sampled_from(FRESHNESS))
@settings(deadline=None)
def test_known_is_what_had_arrived_before_the_cutoff(seed, freshness):
    spec = SPECS[0]
    batch = make_batch(spec, 14, seed)
    known = History(batch, 14, 0).known(spec, freshness)
    event, arrival, timed = (
        batch.column(n).to_pylist() for n in ("event_time", "arrival_time", "timed")
    )
    for j in range(batch.num_rows):
        cutoff = int(spec.cutoff(np.int64(event[j]), freshness))
        expected = sum(a < cutoff for a in arrival) if timed[j] else j
        assert known[j] == expected <= j


def test_with_freshness_day_no_impression_knows_another_of_its_day():
    start = KUAIRAND.day_start(19_000)
    times = start + np.array([-1, 0, 5, DAY_MS - 1, DAY_MS, DAY_MS + 1])
    assert known_counts(times, times, KUAIRAND, "day").tolist() == [0, 1, 1, 1, 4, 4]
    assert known_counts(times, times, KUAIRAND, "immediate").tolist() == [0, 1, 2, 3, 4, 5]


def test_history_as_of_ends_strictly_before_the_cutoff():
    spec = SPECS[0]
    batch = make_batch(spec, 12)
    arrival = batch.column("arrival_time").to_pylist()
    for cutoff in (0, arrival[5], arrival[5] + 1, 2**60):
        kept = history_as_of(batch, 12, cutoff).column("arrival_time").to_pylist()
        assert kept == [a for a in arrival if a < cutoff]


def test_a_thousand_impressions_decode_in_a_millisecond():
    events = random_log(SIMULATOR, 0, rows=1_000, members=1, posts=500, days=300).impressions
    posts = random_log(SIMULATOR, 0, posts=500).posts
    batch = history_batch(history_order(with_content(events, posts, SIMULATOR)), SIMULATOR)
    value = encode_history(batch, member_id=1, count=len(batch), spec=SIMULATOR)
    assert len(batch) > 900
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        decode_history(value, SIMULATOR)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 1e-3


def sealed(stream: bytes) -> bytes:
    """A stream with its checksum."""
    return stream + zlib.crc32(stream).to_bytes(4, "little")


def written(spec, batch: pa.RecordBatch, **metadata: str) -> bytes:
    """A value of any batch under the spec's schema, as an attacker or another writer makes it."""
    whole = {"member_id": "3", "count": str(batch.num_rows), "spec_hash": spec.hash, **metadata}
    return sealed(stream(batch, metadata=whole))


HOLES = [(spec, hole) for spec in SPECS for hole in holes(spec.history_schema, 9)]


@pytest.mark.parametrize(("spec", "hole"), HOLES, ids=lambda p: getattr(p, "name", str(p)))
def test_a_null_that_the_schema_denies_is_found_in_a_value(spec, hole: Hole):
    batch = decode_history(make_value(spec), spec).batch
    assert_same(decode_history(written(spec, batch), spec).batch, batch)
    with pytest.raises(ValueError, match=rf"member 3 has a null in {hole[0]}; rebuild it"):
        decode_history(written(spec, with_hole(batch, hole)), spec)


@pytest.mark.parametrize(("spec", "hole"), HOLES, ids=lambda p: getattr(p, "name", str(p)))
def test_a_null_that_the_schema_denies_is_refused_when_written(spec, hole: Hole):
    batch = decode_history(make_value(spec), spec).batch
    with pytest.raises(ValueError, match=f"history column '{hole[0]}' is .* with 1 nulls"):
        encode_history(with_hole(batch, hole), member_id=3, count=9, spec=spec)


def test_a_null_beyond_the_window_is_nobodys():
    spec = SPECS[1]
    batch = make_batch(spec, 16)
    for hole in (("content", 3, 1), ("click", 3, None)):
        value = encode_history(with_hole(batch, hole), member_id=3, count=16, spec=spec)
        assert value == encode_history(batch, member_id=3, count=16, spec=spec)
    with pytest.raises(ValueError, match=r"'content' is .* with 1 nulls"):
        encode_history(with_hole(batch, ("content", 4, 1)), member_id=3, count=16, spec=spec)


@pytest.mark.parametrize("batches", [0, 2, 3])
def test_a_second_batch_is_not_lost_in_silence(batches):
    spec = SPECS[0]
    batch, sink = make_batch(spec, 9), pa.BufferOutputStream()
    metadata = {"member_id": "3", "count": "9", "spec_hash": spec.hash}
    with pa.ipc.new_stream(sink, spec.history_schema.with_metadata(metadata)) as writer:
        for _ in range(batches):
            writer.write_batch(batch.replace_schema_metadata(metadata))
    with pytest.raises(ValueError, match=f"member 3 is {batches} record batches, want one"):
        decode_history(sealed(sink.getvalue().to_pybytes()), spec)


def test_a_value_of_exactly_the_limit_is_read_and_one_byte_more_is_not():
    spec = SPECS[0]
    rows = 12 + 4 - 1
    # 8 bytes: three times, post and actor; 4: six codes, dwell and duration; 2: position; 1: timed
    # and six actions. The simulator: one id more, four codes and numbers, 50 values of 2 bytes.
    assert max_value_bytes(spec) == 65_536 + 2 * rows * (5 * 8 + 8 * 4 + 2 + 1 + 6)
    other = 6 * 8 + 5 * 4 + 50 * 2 + 2 + 1 + 6
    assert max_value_bytes(SPECS[1]) == 65_536 + 2 * rows * other
    plain = make_value(spec)[:-4]
    padded = plain + bytes(max_value_bytes(spec) - 4 - len(plain))
    for shorter in (1, 0):
        value = sealed(padded[: len(padded) - shorter])
        assert len(value) == max_value_bytes(spec) - shorter
        assert decode_history(value, spec).count == 9
    with pytest.raises(ValueError, match=rf"has {len(padded) + 5} bytes, want at most"):
        decode_history(sealed(padded + b"\0"), spec)


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_the_largest_window_fits_the_limit(spec):
    """Bits that do not compress, in every column of T + B - 1 rows."""
    rows, rng = spec.max_impressions + spec.block - 1, np.random.default_rng(0)
    arrays = []
    for field in spec.history_schema:
        size = getattr(field.type, "list_size", 1) if pa.types.is_list(field.type) else 1
        if pa.types.is_fixed_size_list(field.type):
            flat = rng.integers(0, 2**15, rows * field.type.list_size).astype(np.uint16)
            values = pa.array(flat.view(np.float16))
            arrays.append(pa.FixedSizeListArray.from_arrays(values, type=field.type))
        elif pa.types.is_boolean(field.type):
            arrays.append(pa.array(rng.random(rows) < 0.5))
        else:
            width = field.type.bit_width // 8 * size
            drawn = rng.integers(0, 256, rows * width).astype(np.uint8)
            arrays.append(pa.Array.from_buffers(field.type, rows, [None, pa.py_buffer(drawn)]))
    batch = pa.RecordBatch.from_arrays(arrays, schema=spec.history_schema)
    value = encode_history(batch, member_id=1, count=rows, spec=spec)
    assert decode_history(value, spec).batch.num_rows == rows
    assert len(value) < max_value_bytes(spec)


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("member_id", "9223372036854775807", True),
        ("member_id", "-9223372036854775808", True),
        ("member_id", "0", True),
        ("member_id", "18446744073709551616", False),
        ("member_id", "", False),
        ("member_id", "-", False),
        ("member_id", "--3", False),
        ("member_id", "٣", False),
        ("count", "9", True),
        ("count", "8", False),
        ("count", "10", False),
        ("count", "-9", False),
        ("count", "9999999999999999999", False),
        ("count", "10000000000000000000", False),
    ],
)
def test_numbers_of_a_value_are_whole_and_agree_with_its_rows(name, text, fits):
    spec = SPECS[0]
    value = written(spec, make_batch(spec, 9), **{name: text})
    if fits:
        history = decode_history(value, spec)
        assert getattr(history, name) == int(text)
    else:
        with pytest.raises(ValueError, match=r"^history value .*; rebuild it$"):
            decode_history(value, spec)


@pytest.mark.parametrize("count", [11, 12, 13, 15, 16, 17, 19, 20, 23, 24])
def test_a_window_starts_on_a_block(count):
    """T = 12 and B = 4: it slides when four more than twelve are there."""
    spec = SPECS[0]
    first = {11: 0, 12: 0, 13: 0, 15: 0, 16: 4, 17: 4, 19: 4, 20: 8, 23: 8, 24: 12}[count]
    whole = make_batch(spec, 24)
    arrivals = whole.column("post_id").to_pylist()[:count]
    value = encode_history(whole.slice(0, count), member_id=2, count=count, spec=spec)
    history = decode_history(value, spec)
    assert history.start == first
    assert history.batch.column("post_id").to_pylist() == arrivals[first:]
    kept = whole.slice(first, count - first)
    assert encode_history(kept, member_id=2, count=count, spec=spec) == value
    with pytest.raises(ValueError, match=f"has {count - first - 1} rows"):
        encode_history(kept.slice(1), member_id=2, count=count, spec=spec)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_a_history_of_nothing(spec):
    empty = empty_history(spec)
    assert (empty.count, empty.start, empty.member_id, empty.batch.num_rows) == (0, 0, None, 0)
    value = encode_history(empty.batch, member_id=7, count=0, spec=spec)
    again = decode_history(value, spec)
    assert (again.count, again.start, again.member_id) == (0, 0, 7)
    assert again.batch.equals(empty.batch)
    assert again.tail(5).batch.num_rows == again.tail(0).batch.num_rows == 0
    assert history_as_of(again.batch, 0, 2**60).num_rows == 0
    for freshness in FRESHNESS:
        assert again.known(spec, freshness).dtype == np.int32
        assert again.known(spec, freshness).shape == (0,)


def test_the_tail_is_the_newest_rows_and_where_they_begin():
    whole = History(make_batch(SPECS[0], 9), 21, 12, 5)
    for rows in (0, 1, 8, 9, 10):
        tail, kept = whole.tail(rows), min(rows, 9)
        assert (tail.count, tail.start, tail.member_id) == (21, 21 - kept, 5)
        assert_same(tail.batch, whole.batch.slice(9 - kept))


def test_a_value_is_compressed():
    rows = 1_000
    arrays = [
        pa.array([np.float16(0)] * 50 * rows) if f.name == "content" else pa.array(np.zeros(rows))
        for f in SIMULATOR.history_schema
    ]
    arrays = [
        pa.FixedSizeListArray.from_arrays(a, type=f.type) if f.name == "content" else a.cast(f.type)
        for a, f in zip(arrays, SIMULATOR.history_schema, strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=SIMULATOR.history_schema)
    value = encode_history(batch, member_id=1, count=rows, spec=SIMULATOR)
    assert batch.nbytes > 100_000
    assert len(value) < 10_000
    assert decode_history(value, SIMULATOR).batch.equals(batch)


def test_another_type_is_refused_when_written():
    spec = SPECS[0]
    batch = make_batch(spec, 9)
    place = batch.schema.get_field_index("duration_s")
    wide = batch.set_column(place, "duration_s", batch.column("duration_s").cast(pa.float64()))
    with pytest.raises(ValueError, match="'duration_s' is double with 0 nulls, want float without"):
        encode_history(wide, member_id=1, count=9, spec=spec)


def test_a_value_that_cannot_be_read_says_why():
    spec = SPECS[0]
    batch = make_batch(spec, 9)
    with pytest.raises(ValueError, match=r"cannot be read \('utf-8' codec can't decode byte 0xff"):
        decode_history(sealed(stream(batch, metadata={"spec_hash": b"\xff"})), spec)
    # After 90 impressions a window holds 14; the buffers hold 9.
    metadata = {"member_id": "3", "count": "90", "spec_hash": spec.hash}
    with pytest.raises(ValueError, match=r"cannot be read \(.*[Bb]uffer"):
        decode_history(sealed(longer(stream(batch, metadata=metadata), 9, 14)), spec)
    with pytest.raises(ValueError, match="built with spec unknown"):
        decode_history(sealed(stream(batch)), spec)
