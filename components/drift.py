# SPDX-License-Identifier: Apache-2.0
"""How the context features of the day that is judged differ from those that were trained on.

Each feature is cut at the deciles of training (codes are their own bins, missing is a bin), and
the two distributions are compared by the population stability index: below 0.1 is stable, above
0.25 has moved. Works on samples of rows; knows no model and no labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.spec import Embedding, Numeric, Spec

Matrix = npt.NDArray[np.float32]
FLOOR = 1e-4
"""The least share of a bin, so that an empty one does not make the index infinite."""


def drift(train_RC: Matrix, eval_RC: Matrix, spec: Spec) -> dict[str, Any]:
    """Compares each context feature between two samples of rows; embeddings are left out.

    Returns:
        By feature name: psi, edges (of numerics; of codes the codes), train and eval (shares of the
        bins, the last one is missing).
    """
    found = {}
    for feature in spec.with_role("context"):
        if isinstance(feature.kind, Embedding):
            continue
        column = spec.context_slices[feature.name]
        values = train_RC[:, column].ravel(), eval_RC[:, column].ravel()
        numeric = isinstance(feature.kind, Numeric)
        edges = deciles(values[0]) if numeric else codes(values)
        train, later = (shares(v, edges) for v in values)
        found[feature.name] = {
            "psi": stability(train, later),
            "numeric": numeric,
            "edges": edges,
            "train": train,
            "eval": later,
        }
    return found


def deciles(values: Matrix) -> Matrix:
    """The distinct inner edges of ten bins with equal shares of the values that are there."""
    there = values[np.isfinite(values)]
    if not len(there):
        return np.zeros(0, np.float32)
    return np.unique(np.quantile(there, np.arange(1, 10) / 10)).astype(np.float32)


def codes(values: tuple[Matrix, Matrix]) -> Matrix:
    """The edges between the codes that occur in either sample."""
    both = np.concatenate(values)
    there = np.unique(both[np.isfinite(both)])
    return (there[1:] - 0.5).astype(np.float32)


def shares(values: Matrix, edges: Matrix) -> npt.NDArray[np.float64]:
    """The share of each bin, and last of what is missing."""
    missing = ~np.isfinite(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    count = np.bincount(bins, minlength=len(edges) + 2)
    return count / max(len(values), 1)


def stability(train: npt.NDArray[np.float64], later: npt.NDArray[np.float64]) -> float:
    """The population stability index of two distributions over the same bins."""
    p, q = np.maximum(train, FLOOR), np.maximum(later, FLOOR)
    return float(((p - q) * np.log(p / q)).sum())
