# SPDX-License-Identifier: Apache-2.0
"""The native loader gives NumPy's bits, and checks every index at its door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.training.data import shard_format
from feature_repo.spec import Freshness, Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import Loader, LoaderConfig, Packed, native
from tests.kernels.loader.packs import assert_same_bits, needs_native
from tests.shard_builders import random_lengths, write_shards

MODULE, _REASON = native.available()


def epochs(paths: list[Path], spec: Spec, options: dict[str, Any], **more: Any) -> list[Packed]:
    config = LoaderConfig(**options, **more)
    return list(Loader(paths, shard_format(spec), config).epoch(config.seed % 3))


@st.composite
def settings_of_a_loader(draw: st.DrawFn) -> dict[str, Any]:
    world = draw(st.integers(1, 3))
    return {
        "batch": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 1000)),
        "shuffle": draw(st.booleans()),
        "session_shuffle": draw(st.booleans()),
        "trade_slots": draw(st.booleans()),
        "sort_by_length": draw(st.booleans()),
        "limit": draw(st.none() | st.integers(1, 30)),
        "rank": draw(st.integers(0, world - 1)),
        "world": world,
    }


@needs_native
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.sampled_from([KUAIRAND, SIMULATOR]),
    st.sampled_from(["day", "immediate"]),
    settings_of_a_loader(),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([0, 2]),
)
def test_native_is_numpy_bit_for_bit(
    tmp_path: Path,
    lengths: list[int],
    spec: Spec,
    freshness: Freshness,
    options: dict[str, Any],
    threads: int,
    prefetch: int,
) -> None:
    shards = min(len(lengths), 3)
    paths = write_shards(tmp_path, spec, lengths, shards=shards, freshness=freshness)
    theirs = epochs(paths, spec, options, implementation="numpy", prefetch=0)
    more: dict[str, Any] = {"threads": threads, "prefetch": prefetch}
    ours = epochs(paths, spec, options, implementation="native", **more)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert_same_bits(mine, other)


@needs_native
def test_many_record_batches_and_threads_change_nothing(tmp_path: Path) -> None:
    """700 sequences are three record batches, which threads decode side by side."""
    paths = write_shards(tmp_path, KUAIRAND, random_lengths(700, mean=30, most=200), shards=1)
    options: dict[str, Any] = {"batch": 256, "session_shuffle": True, "limit": 64}
    theirs = epochs(paths, KUAIRAND, options, implementation="numpy")
    for threads in (1, 2, 3, 16):
        for mine, other in zip(
            epochs(paths, KUAIRAND, options, implementation="native", threads=threads),
            theirs,
            strict=True,
        ):
            assert_same_bits(mine, other)


WIDTHS = [1, 4]


def small_part(**changes: Any) -> dict[str, Any]:
    """Three impressions of two sequences, two of them targets with two floats of context each."""
    part: dict[str, Any] = {
        "starts": np.array([0, 2, 3]),
        "columns": [np.zeros((3, 1), np.uint8), np.zeros((3, 4), np.uint8)],
        "known": np.array([0, 1, 0], np.int32),
        "loss": np.array([1, 2, 1], np.int8),
        "session": np.array([0, 0, 0]),
        "context_starts": np.array([0, 2, 4]),
        "context": np.zeros(4, np.float32),
    }
    return {**part, **changes}


def small_shard(**changes: Any) -> Any:
    assert MODULE is not None
    shard = MODULE.Shard(WIDTHS, 2, 0)
    shard.add(**small_part(**changes))
    return shard


BAD_PARTS: dict[str, dict[str, Any]] = {
    "offsets do not rise": {"starts": np.array([0, 4, 3])},
    "offsets do not span": {"starts": np.array([0, 2, 4])},
    "offsets do not span the": {"starts": np.array([1, 2, 3])},
    "'known' is below zero or above": {"known": np.array([0, 1, 1], np.int32)},
    "'known' is below zero": {"known": np.array([0, -1, 0], np.int32)},
    "'loss' holds a value": {"loss": np.array([1, 3, 1], np.int8)},
    "'context' wants 2 values": {"context": np.zeros(3, np.float32)},
    "'context' wants 2": {"context_starts": np.array([0, 4, 4])},
    "as many columns": {"columns": [np.zeros((3, 1), np.uint8)]},
    "columns .impressions, width.": {"columns": [np.zeros((3, 1), np.uint8)] * 2},
    "known, loss and session": {"session": np.array([0, 0])},
    "starts and context_starts": {"context_starts": np.array([0, 2])},
    "starts and context_starts .rows": {"starts": np.zeros(0, np.int64)},
}


@needs_native
@pytest.mark.parametrize("sentence", BAD_PARTS)
def test_a_record_batch_with_a_bad_index_is_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small_shard(**BAD_PARTS[sentence])


@needs_native
@pytest.mark.parametrize(
    ("source", "rows", "limit"),
    [([0], [2], None), ([0], [-1], None), ([1], [0], None), ([-1], [0], None), ([0], [0], -1)],
)
def test_a_row_that_is_not_there_is_refused(
    source: list[int], rows: list[int], limit: int | None
) -> None:
    assert MODULE is not None
    with pytest.raises(ValueError, match="shard"):
        MODULE.Plan([small_shard()], np.array(source), np.array(rows), limit)


def outputs(**changes: Any) -> dict[str, Any]:
    """Room for the first sequence of `small_part`."""
    out: dict[str, Any] = {
        "columns": [np.empty((2, 1), np.uint8), np.empty((2, 4), np.uint8)],
        "known": np.empty(2, np.int32),
        "context": np.empty((1, 2), np.float32),
        "cu_seqlens": np.empty(2, np.int32),
        "numbers": np.empty(1, np.int64),
        "shuffle": (0, False),
        "threads": 1,
    }
    return {**out, **changes}


@needs_native
@pytest.mark.parametrize(
    "changes",
    [
        {"columns": [np.empty((2, 1), np.uint8), np.empty((1, 4), np.uint8)]},
        {"known": np.empty(1, np.int32)},
        {"context": np.empty((2, 2), np.float32)},
        {"context": np.empty((1, 1), np.float32)},
        {"cu_seqlens": np.empty(1, np.int32)},
        {"numbers": np.empty(2, np.int64)},
    ],
)
def test_an_output_of_another_size_is_refused(changes: dict[str, Any]) -> None:
    assert MODULE is not None
    plan = MODULE.Plan([small_shard()], np.array([0]), np.array([0]), None)
    plan.write(**outputs())
    with pytest.raises(ValueError, match=r"Plan\.write: "):
        plan.write(**outputs(**changes))


@needs_native
def test_a_shuffle_without_sessions_and_an_output_of_another_dtype_are_refused() -> None:
    assert MODULE is not None
    plan = MODULE.Plan([small_shard(session=None)], np.array([0]), np.array([0]), None)
    with pytest.raises(ValueError, match="wants the column of sessions"):
        plan.write(**outputs())
    for name, array in (("known", np.empty(2, np.int64)), ("columns", [np.empty((2, 1))] * 2)):
        with pytest.raises(TypeError):
            plan.write(**outputs(**{name: array}))


@needs_native
def test_a_batch_outlives_its_shards_and_is_never_written_again(tmp_path: Path) -> None:
    """Batches are kept while the loader goes on to other shards and packs what comes after."""
    paths = write_shards(tmp_path, KUAIRAND, random_lengths(200), shards=4)
    options: dict[str, Any] = {"batch": 16, "session_shuffle": True}
    kept = epochs(paths, KUAIRAND, options, implementation="native", threads=2)
    for mine, other in zip(
        kept, epochs(paths, KUAIRAND, options, implementation="numpy"), strict=True
    ):
        assert_same_bits(mine, other)


@pytest.mark.gpu
@needs_native
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; covered unpinned")
def test_batches_are_in_pinned_memory(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, KUAIRAND, random_lengths(50), shards=1)
    options: dict[str, Any] = {"batch": 16}
    pinned = epochs(paths, KUAIRAND, options, implementation="native", pin=True)
    for mine, other in zip(pinned, epochs(paths, KUAIRAND, options), strict=True):
        assert_same_bits(mine, other)
        assert torch.from_numpy(mine.columns["post_id"]).is_pinned()


@needs_native
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 3)])
def test_the_bytes_of_a_column_have_their_shape_where_it_is_empty(shape: tuple[int, ...]) -> None:
    bytes_ = native.column_bytes(np.zeros(shape, np.float16))
    assert bytes_.shape == (shape[0], 2 * int(np.prod(shape[1:])))
    assert bytes_.dtype == np.uint8
