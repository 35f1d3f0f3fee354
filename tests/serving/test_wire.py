# SPDX-License-Identifier: Apache-2.0
"""The candidates' Arrow bytes: nothing lost, nothing copied, nothing malformed let in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.wire import (
    CONTEXT,
    candidate_schema,
    check_count,
    check_spec_hash,
    columns_of,
    decode_candidates,
    encode_candidates,
    to_numpy,
)
from tests.arrow_builders import Hole, holes, longer, stream, with_hole
from tests.serving_builders import arrow, candidates

SPECS = [KUAIRAND, SIMULATOR]


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


def test_wider_numbers_are_sent_as_the_specs() -> None:
    features, context = candidates(SIMULATOR, 5, 3)
    wide = {
        name: column.astype(np.int64 if column.dtype.kind == "i" else np.float64)
        for name, column in features.items()
    }
    assert encode_candidates(SIMULATOR, wide, context.astype(np.float64)) == encode_candidates(
        SIMULATOR, features, context
    )


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
    with pytest.raises(ValueError, match=r"column 'colour' is unknown; have post_id, actor_id, "):
        decode_candidates(SIMULATOR, stream(batch), 64)
    twice = batch_of(SIMULATOR, 2).append_column("media", pa.array([1, 2], pa.int32()))
    with pytest.raises(ValueError, match="'media' is missing or there twice"):
        decode_candidates(SIMULATOR, stream(twice), 64)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("post_id", pa.array(["1", "2"])),
        ("post_id", pa.array([1.5, 2.0])),
        ("length_s", pa.array([True, False])),
        ("media", pa.array([1, 2**31], pa.int64())),
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


@pytest.mark.parametrize("limit", [1, 2, 64])
def test_exactly_the_limit_is_taken(limit: int) -> None:
    for count in {1, limit - 1, limit} - {0}:
        data = encode_candidates(SIMULATOR, *candidates(SIMULATOR, count, 0))
        assert len(decode_candidates(SIMULATOR, data, limit)[1]) == count
        check_count(count, limit)
    data = encode_candidates(SIMULATOR, *candidates(SIMULATOR, limit + 1, 0))
    for refused in (
        lambda: decode_candidates(SIMULATOR, data, limit),
        lambda: check_count(limit + 1, limit),
    ):
        with pytest.raises(
            ValueError, match=f"has {limit + 1} candidates, this server takes {limit};"
        ):
            refused()
    with pytest.raises(ValueError, match="no candidates; send at least one"):
        check_count(0, limit)


HOLES = [(spec, hole) for spec in SPECS for hole in holes(candidate_schema(spec), 5)]


@pytest.mark.parametrize(("spec", "hole"), HOLES, ids=lambda p: getattr(p, "name", str(p)))
def test_a_null_that_the_schema_denies_is_found(spec: Spec, hole: Hole) -> None:
    whole = batch_of(spec, 5)
    decode_candidates(spec, stream(whole), 64)
    with pytest.raises(
        ValueError, match=f"column '{hole[0]}' has nulls; send the declared default"
    ):
        decode_candidates(spec, stream(with_hole(whole, hole)), 64)


def loosened(column: pa.Array) -> pa.Array:
    """The same numbers in wider types, vectors as lists of doubles."""
    if pa.types.is_fixed_size_list(column.type):
        lists = [[float(x) for x in row] for row in column.to_pylist()]
        return pa.array(lists, pa.large_list(pa.float64()))
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).dictionary_encode()
    return column.cast(pa.float64())


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_columns_that_mean_the_same_are_the_same_bytes(spec: Spec) -> None:
    batch = batch_of(spec, 6)
    want, want_context = columns_of(spec, batch, 64)
    for names in (batch.schema.names, batch.schema.names[::-1]):
        loose = pa.record_batch([loosened(batch.column(n)) for n in names], names)
        assert not any(f.type == candidate_schema(spec).field(f.name).type for f in loose.schema)
        got, got_context = decode_candidates(spec, stream(loose), 64)
        assert got_context.dtype == want_context.dtype
        np.testing.assert_array_equal(got_context, want_context)
        for name, column in want.items():
            assert got[name].dtype == column.dtype
            np.testing.assert_array_equal(got[name], column)


def test_metadata_that_nobody_reads_is_refused() -> None:
    batch = batch_of(SIMULATOR, 2)
    with pytest.raises(ValueError, match="candidates: metadata 'weights' is unknown; have none"):
        decode_candidates(SIMULATOR, stream(batch, metadata={"weights": "{}"}), 64)
    decode_candidates(SIMULATOR, stream(batch, metadata={"pandas": "{}"}), 64)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_no_candidate_at_all(spec: Spec) -> None:
    batch = batch_of(spec, 0)
    assert batch.num_rows == 0
    with pytest.raises(ValueError, match="no candidates"):
        columns_of(spec, batch, 64)
    for batches in ([], [batch_of(spec, 1)] * 3):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, candidate_schema(spec)) as writer:
            for part in batches:
                writer.write_batch(part)
        with pytest.raises(ValueError, match=f"are {len(batches)} record batches"):
            decode_candidates(spec, sink.getvalue().to_pybytes(), 64)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_a_spec_without_context_features_has_a_context_of_no_columns(spec: Spec) -> None:
    bare = dataclasses.replace(
        spec, features=tuple(f for f in spec.features if f.role != "context")
    )
    features, _ = candidates(bare, 3, 0)
    data = encode_candidates(bare, features, np.zeros((3, 0), np.float32))
    got, context = decode_candidates(bare, data, 64)
    assert context.shape == (3, 0)
    assert got["post_id"].tolist() == features["post_id"].tolist()


def test_only_a_request_of_the_models_spec_is_taken() -> None:
    check_spec_hash(SIMULATOR, None)
    check_spec_hash(SIMULATOR, SIMULATOR.hash)
    for other in (KUAIRAND.hash, "", SIMULATOR.hash[:-1]):
        with pytest.raises(
            ValueError, match=rf"the model with simulator \({SIMULATOR.hash}\); dep"
        ):
            check_spec_hash(SIMULATOR, other)
    with pytest.raises(ValueError, match="deploy the transformer") as caught:
        check_spec_hash(SIMULATOR, "x" * 4_000)
    assert len(str(caught.value)) < 220


def test_a_column_is_sent_in_the_specs_type_whatever_it_was() -> None:
    features, context = candidates(SIMULATOR, 3, 4)
    wide = {
        n: c.astype(np.float64 if c.dtype.kind == "f" else np.int64) for n, c in features.items()
    }
    wide["content"] = np.asfortranarray(wide["content"])
    assert encode_candidates(SIMULATOR, wide, context.astype(np.float64)) == encode_candidates(
        SIMULATOR, features, context
    )
    with pytest.raises(ValueError, match="length"):
        encode_candidates(SIMULATOR, {**features, "media": np.zeros(2, np.int32)}, context)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_no_column_says_that_it_may_be_null(spec: Spec) -> None:
    assert not any(field.nullable for field in candidate_schema(spec))
    assert not any(field.nullable for field in batch_of(spec, 1).schema)


def test_a_column_whose_buffers_do_not_hold_it_is_refused() -> None:
    """Whoever reads it unchecked reads behind the buffer's, or the dictionary's, end."""
    batch = batch_of(SIMULATOR, 3)
    media = batch.schema.get_field_index("media")
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array([4, 5]), safe=False)
    indices = stream(batch.set_column(media, "media", beyond))
    for data in (longer(stream(batch), 3, 60), indices):
        with pytest.raises(ValueError, match="not an Arrow IPC stream of one batch"):
            decode_candidates(SIMULATOR, data, 64)


def test_an_array_is_never_a_copy() -> None:
    two = pa.list_(pa.bool_(), 2)
    for column in (pa.array([True]), pa.array([1, None]), pa.array([[True, False]], two)):
        with pytest.raises(pa.ArrowInvalid, match=r"(?i)zero.copy"):
            to_numpy(column)
