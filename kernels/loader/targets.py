# SPDX-License-Identifier: Apache-2.0
"""What training takes of a batch beside its columns: the rows with a loss, their labels, weights.

Column names and numbers come in, so nothing here knows a feature. NumPy is the oracle and the
fallback; the C++ gives the same rows and labels bit for bit, and weights within a rounding of
float32 (the two have powers of their own).

Shape suffixes: M impressions, packed; R rows with a loss; K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from kernels.loader.native import available
from kernels.loader.reference import TARGET, Array, Ints, Packed

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LossRows:
    """The impressions with one code of `loss`.

    Attributes:
        index_R: int64, which impressions in [0, M).
        labels_RK: float32: 1 happened, 0 did not, NaN was not observed (below zero).
        slot_R: int64, their value of the slot column.
    """

    index_R: Ints
    labels_RK: Floats
    slot_R: Ints


@dataclass(frozen=True, kw_only=True)
class Decay:
    """The weight of a target: `scale * 0.5 ** (back / places + age / half_life)`.

    Attributes:
        time: int64 column; `age` is counted back from `as_of` and is never below zero.
        half_life: of age, in the unit of `time`.
        places: `back` is the number of impressions between a target and its sequence's end; None
            is the sequence's own length.
    """

    time: str
    as_of: int
    half_life: float
    places: int | None
    scale: float = 1.0


def loss_rows(packed: Packed, code: int, labels: tuple[str, ...], slot: str) -> LossRows:
    """The impressions whose `loss` is `code`, with the columns `labels` and `slot` of each."""
    columns = [packed.columns[name] for name in labels]
    module = _compiled([*columns, packed.columns[slot]], [np.int8] * len(columns) + [np.int16])
    if module is None:
        return loss_rows_in_numpy(packed, code, labels, slot)
    loss_M = packed.columns["loss"]
    count = int(np.count_nonzero(loss_M == code))
    rows = LossRows(
        index_R=np.empty(count, np.int64),
        labels_RK=np.empty((count, len(labels)), np.float32),
        slot_R=np.empty(count, np.int64),
    )
    out = rows.index_R, rows.labels_RK, rows.slot_R
    module.loss_rows(loss_M, columns, packed.columns[slot], code, *out)
    return rows


def _compiled(arrays: Sequence[Array], dtypes: Sequence[type]) -> ModuleType | None:
    """The C++, where there is one and it is for arrays like these."""
    fit = all(a.dtype == d and a.flags.c_contiguous for a, d in zip(arrays, dtypes, strict=True))
    return available()[0] if fit else None


def loss_rows_in_numpy(packed: Packed, code: int, labels: tuple[str, ...], slot: str) -> LossRows:
    """The oracle of `loss_rows`."""
    index_R = np.flatnonzero(packed.columns["loss"] == code)
    values = np.stack([packed.columns[n][index_R] for n in labels], 1).astype(np.float32)
    values[values < 0] = np.nan
    return LossRows(
        index_R=index_R,
        labels_RK=values,
        slot_R=packed.columns[slot][index_R].astype(np.int64),
    )


def weigh(packed: Packed, decay: Decay) -> Floats:
    """float32 `[R]`, the weight of each target of the pack."""
    time_M = packed.columns[decay.time]
    module = _compiled([packed.cu_seqlens, time_M], [np.int32, np.int64])
    if module is None:
        return weigh_in_numpy(packed, decay)
    loss_M = packed.columns["loss"]
    weight_R = np.empty(int(np.count_nonzero(loss_M == TARGET)), np.float32)
    age, places = (decay.as_of, decay.half_life), decay.places or 0
    module.weigh(loss_M, packed.cu_seqlens, time_M, age, places, decay.scale, weight_R)
    return weight_R


def weigh_in_numpy(packed: Packed, decay: Decay) -> Floats:
    """The oracle of `weigh`."""
    target_R = np.flatnonzero(packed.columns["loss"] == TARGET)
    length_M = np.repeat(packed.lengths_S, packed.lengths_S)
    last_M = np.repeat(packed.cu_seqlens[1:].astype(np.int64) - 1, packed.lengths_S)
    back_R = (last_M[target_R] - target_R) / (decay.places or length_M[target_R])
    age_R = np.maximum(decay.as_of - packed.columns[decay.time][target_R], 0)
    weight_R = 0.5 ** (back_R + age_R / decay.half_life)
    return (decay.scale * weight_R).astype(np.float32)
