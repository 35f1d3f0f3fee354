# SPDX-License-Identifier: Apache-2.0
"""The candidates' Arrow bytes: nothing lost, nothing copied, nothing malformed let in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.wire import CONTEXT, candidate_schema, decode_candidates, encode_candidates
from tests.serving_builders import arrow, candidates

SPECS = [KUAIRAND, SIMULATOR]


def stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def batch_of(spec: Spec, count: int) -> pa.RecordBatch:
    return pa.ipc.open_stream(
        encode_candidates(spec, *candidates(spec, count, 0))
    ).read_next_batch()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SPECS), st.integers(1, 40), st.integers(0, 99))
def test_what_is_sent_arrives_bit_for_bit(spec: Spec, count: int, seed: int) -> None:
    features, context = candidates(spec, count, seed)
    got, got_context = decode_candidates(spec, encode_candidates(spec, features, context), 64)
    assert got.keys() == features.keys()
    for name, column in features.items():
        assert got[name].dtype == column.dtype
        assert got[name].tobytes() == np.ascontiguousarray(column).tobytes()
    assert got_context.tobytes() == context.tobytes()


def test_decoding_copies_nothing() -> None:
    data = encode_candidates(SIMULATOR, *candidates(SIMULATOR, 32, 1))
    start = np.frombuffer(data, np.uint8).ctypes.data
    features, context = decode_candidates(SIMULATOR, data, 64)
    for column in (*features.values(), context):
        assert start <= column.ctypes.data < start + len(data)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_truncated_stream_is_one_sentence(data: st.DataObject) -> None:
    whole = encode_candidates(SIMULATOR, *candidates(SIMULATOR, 4, 2))
    length = data.draw(st.integers(0, len(whole) - 9))
    with pytest.raises(ValueError, match="not an Arrow IPC stream"):
        decode_candidates(SIMULATOR, whole[:length], 64)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_byte_never_ends_in_another_error(data: st.DataObject) -> None:
    whole = bytearray(encode_candidates(KUAIRAND, *candidates(KUAIRAND, 3, 2)))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        features, context = decode_candidates(KUAIRAND, bytes(whole), 64)
    except ValueError:
        return
    assert all(len(column) == len(context) for column in features.values())


def test_a_second_batch_is_not_lost_in_silence() -> None:
    batch, sink = batch_of(SIMULATOR, 2), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    with pytest.raises(ValueError, match="2 record batches; send them in one"):
        decode_candidates(SIMULATOR, sink.getvalue().to_pybytes(), 64)


@pytest.mark.parametrize("count", [0, 65, 5000])
def test_the_number_of_candidates_is_limited(count: int) -> None:
    data = encode_candidates(SIMULATOR, *candidates(SIMULATOR, count, 0))
    with pytest.raises(ValueError, match="no candidates" if count == 0 else f"{count} candidates"):
        decode_candidates(SIMULATOR, data, 64)


def test_a_missing_column_is_named() -> None:
    batch = batch_of(SIMULATOR, 2)
    with pytest.raises(ValueError, match="'media' is missing"):
        decode_candidates(SIMULATOR, stream(batch.drop_columns(["media"])), 64)
    features, context = candidates(SIMULATOR, 2, 0)
    del features["media"]
    with pytest.raises(ValueError, match="'media' is missing"):
        encode_candidates(SIMULATOR, features, context)


def test_a_column_too_many_is_named() -> None:
    batch = batch_of(SIMULATOR, 2).append_column("colour", pa.array([1, 2]))
    with pytest.raises(ValueError, match="'colour' is not in the spec"):
        decode_candidates(SIMULATOR, stream(batch), 64)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("post_id", pa.array([1, 2], pa.int32())),
        ("length_s", pa.array([1.0, 2.0], pa.float64())),
        ("content", arrow(np.zeros((2, 49), np.float16), pa.list_(pa.float16(), 49))),
        (CONTEXT, arrow(np.zeros((2, 3), np.float32), pa.list_(pa.float32(), 3))),
        ("media", pa.array([1, None], pa.int32())),
        (
            CONTEXT,
            pa.array([[None] * SIMULATOR.context_width] * 2).cast(
                pa.list_(pa.float32(), SIMULATOR.context_width)
            ),
        ),
    ],
)
def test_a_wrong_type_width_or_null_is_named(name: str, values: pa.Array) -> None:
    batch = batch_of(SIMULATOR, 2)
    place = batch.schema.get_field_index(name)
    with pytest.raises(ValueError, match=f"'{name}'"):
        decode_candidates(SIMULATOR, stream(batch.set_column(place, name, values)), 64)


def test_columns_may_come_in_any_order() -> None:
    batch = batch_of(KUAIRAND, 3)
    shuffled = batch.select(batch.schema.names[::-1])
    got, _ = decode_candidates(KUAIRAND, stream(shuffled), 64)
    assert got["post_id"].tolist() == batch.column("post_id").to_pylist()
    assert set(got) | {CONTEXT} == set(candidate_schema(KUAIRAND).names)
