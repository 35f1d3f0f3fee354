# SPDX-License-Identifier: Apache-2.0
"""The final score: a weighted sum of calibrated probabilities.

Weights are the spec's, or the request's in their place.

Shape suffixes: N candidates, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.spec import Spec
from serving.payload import check_known, number

MAX_WEIGHT = 1e30
"""A sum of weights up to this is finite in the float32 that carries scores."""


def weights_of(spec: Spec, chosen: Mapping[str, Any] | None) -> npt.NDArray[np.float64]:
    """Weights `[K]`: the spec's utilities, but for those that the request chose by task.

    Raises:
        ValueError: a task the spec does not have, or a weight that is no number within
            +-MAX_WEIGHT.
    """
    chosen = chosen or {}
    check_known("weights: task", chosen, spec.task_names)
    weights = {
        name: number(f"weights: {name}", value, MAX_WEIGHT)
        for name, value in chosen.items()
        if value is not None
    }
    return np.array([weights.get(t.name, t.utility) for t in spec.tasks], np.float64)


def scores_of(
    probabilities_NK: npt.NDArray[np.float32], weights_K: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The final score of each candidate, `[N]`.

    Summed task by task: a matrix product may round a row differently by the number of rows, and a
    candidate's score must not depend on how many others were sent.
    """
    total = np.zeros(len(probabilities_NK))
    for column, weight in zip(probabilities_NK.T, weights_K, strict=True):
        total += column.astype(np.float64) * weight
    return total


def order_of(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Indices from the best score to the worst; equal scores stay in the order they were sent."""
    return np.argsort(-scores, kind="stable")
