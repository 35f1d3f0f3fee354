# SPDX-License-Identifier: Apache-2.0
"""Rows with a loss, labels and weights: the C++ against NumPy, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.loader import Decay, Packed, loss_rows, weigh
from kernels.loader.native import available
from kernels.loader.targets import loss_rows_in_numpy, weigh_in_numpy

MODULE, _REASON = available()
needs_native = pytest.mark.skipif(MODULE is None, reason="no compiled loader")
LABELS = ("click", "like", "share")


def packed(lengths: list[int], seed: int) -> Packed:
    rng, total = np.random.default_rng(seed), sum(lengths)
    columns: dict[str, Any] = {
        "loss": rng.integers(0, 3, total).astype(np.int8),
        "time": rng.integers(0, 2_000_000, total),
        "slot": rng.integers(-2, 9, total).astype(np.int16),
        **{name: rng.integers(-1, 2, total).astype(np.int8) for name in LABELS},
    }
    return Packed(
        columns=columns,
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        context_RC=np.zeros((0, 0), np.float32),
        sequence_S=np.arange(len(lengths)),
        keys={},
    )


def decay(**changes: Any) -> Decay:
    plain: dict[str, Any] = {
        "time": "time",
        "as_of": 1_000_000,
        "half_life": 3e5,
        "places": None,
    }
    return Decay(**{**plain, **changes})


@needs_native
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 30), max_size=12),
    st.integers(0, 1000),
    st.none() | st.integers(1, 40),
)
def test_native_is_numpy(lengths: list[int], seed: int, places: int | None) -> None:
    batch = packed(lengths, seed)
    for piece in [batch, *batch.cut(3)]:
        for code in (1, 2):
            ours = loss_rows(piece, code, LABELS, "slot")
            theirs = loss_rows_in_numpy(piece, code, LABELS, "slot")
            for mine, other in zip(vars(ours).values(), vars(theirs).values(), strict=True):
                assert mine.dtype == other.dtype
                np.testing.assert_array_equal(mine, other)
        form = decay(places=places, scale=1.7)
        ours_R, theirs_R = weigh(piece, form), weigh_in_numpy(piece, form)
        assert ours_R.dtype == theirs_R.dtype == np.float32
        np.testing.assert_allclose(ours_R, theirs_R, rtol=2.5e-7)


def test_a_weight_is_its_formula() -> None:
    batch = packed([4, 3], 0)
    batch.columns["loss"][:] = [1, 0, 1, 2, 1, 1, 0]
    batch.columns["time"][:] = [0, 0, 700_000, 0, 1_000_000, 2_000_000, 0]
    ours = weigh(batch, decay(scale=3.0))
    expected = [
        0.5 ** (3 / 4 + 10 / 3),
        0.5 ** (1 / 4 + 1),
        0.5 ** (2 / 3),
        0.5 ** (1 / 3),  # the future is no heavier
    ]
    np.testing.assert_allclose(ours, 3 * np.array(expected), rtol=1e-6)


@pytest.mark.parametrize("time", [np.iinfo(np.int64).min, np.iinfo(np.int64).max])
def test_a_time_at_the_edge_of_int64_gives_what_numpy_gives(time: int) -> None:
    batch = packed([5], 3)
    batch.columns["time"][:] = time
    np.testing.assert_allclose(weigh(batch, decay()), weigh_in_numpy(batch, decay()), rtol=1e-6)


def test_columns_of_other_types_are_numpys() -> None:
    batch = packed([6], 1)
    batch.columns["click"] = batch.columns["click"].astype(np.float32)
    batch.columns["slot"] = batch.columns["slot"].astype(np.int64)
    batch.columns["time"] = batch.columns["time"].astype(np.float64)
    ours = loss_rows(batch, 1, LABELS, "slot")
    np.testing.assert_array_equal(
        ours.labels_RK, loss_rows_in_numpy(batch, 1, LABELS, "slot").labels_RK
    )
    np.testing.assert_array_equal(weigh(batch, decay()), weigh_in_numpy(batch, decay()))


@needs_native
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("cu_seqlens", np.array([0, 4, 3], np.int32)),
        ("cu_seqlens", np.array([0, 2, 9], np.int32)),
        ("cu_seqlens", np.array([1, 3], np.int32)),
        ("cu_seqlens", np.array([0, 4, 2, 3], np.int32)),
        ("cu_seqlens", np.zeros(0, np.int32)),
        ("time", np.zeros(2, np.int64)),
        ("weight", np.zeros(1, np.float32)),
        ("weight", np.zeros(3, np.float32)),
    ],
)
def test_weights_over_wrong_offsets_or_sizes_are_refused(name: str, array: np.ndarray) -> None:
    assert MODULE is not None
    arguments: dict[str, Any] = {
        "loss": np.array([1, 0, 1], np.int8),
        "cu_seqlens": np.array([0, 1, 3], np.int32),
        "time": np.zeros(3, np.int64),
        "age": (0, 1.0),
        "places": 0,
        "scale": 1.0,
        "weight": np.zeros(2, np.float32),
    }
    MODULE.weigh(**arguments)
    with pytest.raises(ValueError, match=r"weigh: |cu_seqlens|'loss' has"):
        MODULE.weigh(**{**arguments, name: array})


@needs_native
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("slot", np.zeros(2, np.int16)),
        ("labels", [np.zeros(2, np.int8)]),
        ("labels", []),
        ("index", np.zeros(1, np.int64)),
        ("labels_out", np.zeros((1, 1), np.float32)),
        ("slot_out", np.zeros(3, np.int64)),
        ("code", 2),
    ],
)
def test_rows_into_arrays_of_other_sizes_are_refused(name: str, array: Any) -> None:
    assert MODULE is not None
    arguments: dict[str, Any] = {
        "loss": np.array([1, 0, 1], np.int8),
        "labels": [np.zeros(3, np.int8)],
        "slot": np.zeros(3, np.int16),
        "code": 1,
        "index": np.zeros(2, np.int64),
        "labels_out": np.zeros((2, 1), np.float32),
        "slot_out": np.zeros(2, np.int64),
    }
    MODULE.loss_rows(**arguments)
    with pytest.raises(ValueError, match=r"loss_rows: |'loss' has"):
        MODULE.loss_rows(**{**arguments, name: array})


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_a_pack_without_an_impression_has_no_rows_and_no_weights(lengths: list[int]) -> None:
    batch = packed(lengths, 0)
    assert batch.num_sequences == len(lengths)
    for rows in (loss_rows, loss_rows_in_numpy):
        chosen = rows(batch, 1, LABELS, "slot")
        assert chosen.labels_RK.shape == (0, len(LABELS))
        assert (len(chosen.index_R), len(chosen.slot_R)) == (0, 0)
    for weights in (weigh(batch, decay()), weigh_in_numpy(batch, decay())):
        assert (weights.shape, weights.dtype) == ((0,), np.float32)


def test_a_pack_without_a_target_has_no_rows_and_no_weights() -> None:
    batch = packed([3, 2], 0)
    batch.columns["loss"][:] = [0, 2, 2, 0, 0]
    for rows in (loss_rows, loss_rows_in_numpy):
        assert rows(batch, 1, LABELS, "slot").labels_RK.shape == (0, len(LABELS))
        assert rows(batch, 2, LABELS, "slot").index_R.tolist() == [1, 2]
    assert weigh(batch, decay()).shape == weigh_in_numpy(batch, decay()).shape == (0,)
