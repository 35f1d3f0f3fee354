# SPDX-License-Identifier: Apache-2.0
"""How the context features of the day that is judged differ from those that were trained on.

Each numeric is cut at the deciles of training, a value that many rows share is a bin of its own,
codes are their own bins, and missing is a bin. The two distributions are compared by the population
stability index: below 0.1 is stable, above 0.25 has moved. Works on samples of rows; knows no model
and no labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.registry.metrics import FeatureDrift
from feature_repo.kinds import Embedding, Numeric
from feature_repo.spec import Spec

Matrix = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]
FLOOR = 1e-4
"""The least share of a bin, so that an empty one does not make the index infinite."""
MASS = 0.05
"""A value with this share of training, half a decile, is a bin of its own."""
PRESENT = 100
"""With so many rows where a feature is there, it is compared over these alone as well."""


def drift(train_RC: Matrix, eval_RC: Matrix, spec: Spec) -> dict[str, FeatureDrift]:
    """Compares each context feature between two samples of rows; embeddings are left out."""
    moves = {}
    for feature in spec.with_role("context"):
        if isinstance(feature.kind, Embedding):
            continue
        column = spec.context_slices[feature.name]
        train, later = train_RC[:, column].ravel(), eval_RC[:, column].ravel()
        moves[feature.name] = feature_drift(train, later, numeric=isinstance(feature.kind, Numeric))
    return moves


def feature_drift(train: Matrix, later: Matrix, *, numeric: bool) -> FeatureDrift:
    """Compares one feature's values between two samples."""
    edges = deciles(train) if numeric else codes((train, later))
    before, after = shares(train, edges), shares(later, edges)
    present = present_stability(before, after, (len(train), len(later)))
    psi = max(stability(before, after), present)
    return FeatureDrift(
        psi=psi if np.isfinite(psi) else None,
        numeric=numeric,
        edges=tuple(edges.tolist()),
        train=tuple(before.tolist()),
        eval=tuple(after.tolist()),
    )


def deciles(values: Matrix) -> Matrix:
    """The distinct inner edges of ten bins with equal shares of the values that are there.

    Where one value has a bin's worth, deciles repeat it, and what is beside it would share its bin.
    So each such value is a bin of its own, which ends at the next float32, and the deciles are
    those of the other values.
    """
    there = values[np.isfinite(values)]
    value, count = np.unique(there, return_counts=True)
    mass = value[(count > 1) & (count >= MASS * len(there))]
    with np.errstate(over="ignore"):
        above = np.nextafter(mass, np.float32(np.inf))
    others = there[~np.isin(there, mass)].astype(np.float64)
    inner = np.quantile(others, np.arange(1, 10) / 10) if len(others) else others
    return np.unique(np.concatenate([mass, above[np.isfinite(above)], inner.astype(np.float32)]))


def codes(values: tuple[Matrix, Matrix]) -> Matrix:
    """Where the bin of each code but the lowest begins, of those that occur in either sample."""
    both = np.concatenate(values)
    return np.unique(both[np.isfinite(both)])[1:]


def shares(values: Matrix, edges: Matrix) -> Shares:
    """The share of each bin, and last of what is missing."""
    missing = ~np.isfinite(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    count = np.bincount(bins, minlength=len(edges) + 2)
    return count / max(len(values), 1)


def stability(train: Shares, later: Shares) -> float:
    """The population stability index of two distributions over the same bins; NaN of none."""
    if not train.any() or not later.any():
        return float("nan")
    p, q = np.maximum(train, FLOOR), np.maximum(later, FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


def present_stability(train: Shares, later: Shares, rows: tuple[int, int]) -> float:
    """The index over the values that are there, less what chance gives; 0 where they are too few.

    A feature that nearly every row lacks has a share too small for the index of all rows, however
    far its values move. By chance two samples of n and m rows in b bins differ by
    (b - 1) (1 / n + 1 / m).
    """
    there = [round(n * (1 - share[-1])) for n, share in zip(rows, (train, later), strict=True)]
    if min(there) < PRESENT:
        return 0.0
    p, q = (share[:-1] / (1 - share[-1]) for share in (train, later))
    occupied = np.count_nonzero(p + q)
    return stability(p, q) - (occupied - 1) * sum(1 / n for n in there)
