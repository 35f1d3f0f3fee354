# SPDX-License-Identifier: Apache-2.0
"""How sure an AUC is, and the difference of two: resampling members, not impressions.

The impressions of one member are alike, so an interval that resamples impressions is too narrow
(Field and Welsh, "Bootstrapping clustered data", 2007). Knows scores, labels and members; does not
know rankers or files.

Shape suffixes: R rows (impressions with a score); G members; B resamples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

RESAMPLES = 200
CHUNK_CELLS = 8_000_000
"""Rows times resamples that are weighed at once; bounds memory."""


def member_weights(member_R: Ints, resamples: int = RESAMPLES, seed: int = 0) -> Ints:
    """How often each row's member was drawn in each resample: int16 `[B + 1, R]`.

    The first resample is the sample itself. Rows of one member share their count.
    """
    _, place_R = np.unique(member_R, return_inverse=True)
    members = int(place_R.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    drawn_BG = rng.multinomial(members, np.full(members, 1 / max(members, 1)), resamples)
    drawn_BG = np.concatenate([np.ones((1, members), np.int64), drawn_BG])
    return drawn_BG.astype(np.int16)[:, place_R]


def weighted_auc(score_R: Floats, label_R: Floats, weight_BR: Ints) -> Floats:
    """The AUC under each row of weights, float64 `[B]`; ties count half, NaN without both classes.

    Args:
        score_R: any monotone score.
        label_R: 1 or 0; rows with NaN are left out.
        weight_BR: how often each row counts.
    """
    seen = np.isfinite(label_R)
    order = np.flatnonzero(seen)[np.argsort(score_R[seen], kind="stable")]
    starts = _tie_starts(score_R[order])
    positive = label_R[order] == 1
    rows = max(CHUNK_CELLS // max(len(order), 1), 1)
    parts = [
        _auc(weight_BR[first : first + rows, order], positive, starts)
        for first in range(0, len(weight_BR), rows)
    ]
    return np.concatenate(parts)


def _tie_starts(sorted_R: Floats) -> Ints:
    """Where each run of equal scores begins."""
    return np.flatnonzero(np.concatenate([[True], sorted_R[1:] != sorted_R[:-1]]))


def _auc(weight_BR: Ints, positive_R: npt.NDArray[np.bool_], starts: Ints) -> Floats:
    if not len(positive_R):
        return np.full(len(weight_BR), np.nan)
    weight = weight_BR.astype(np.float64)
    hits = np.add.reduceat(weight * positive_R, starts, axis=1)
    misses = np.add.reduceat(weight * ~positive_R, starts, axis=1)
    below = np.cumsum(misses, axis=1) - misses
    pairs = hits.sum(1) * misses.sum(1)
    wins = (hits * (below + misses / 2)).sum(1)
    return np.divide(wins, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)


def standard_error(resampled_B: Floats) -> float:
    """The standard deviation over the resamples where the figure is defined; NaN below two."""
    defined = resampled_B[1:][np.isfinite(resampled_B[1:])]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan")
