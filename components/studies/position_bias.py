# SPDX-License-Identifier: Apache-2.0
"""How much of a simulated feed's position bias a ranker's scores carry, against the truth.

A post at feed position p is examined with probability e(p), and its click, long dwell, like,
comment and share happen with probability e(p) r, r its relevance (the position-based model;
Joachims, Swaminathan and Schnabel, "Unbiased Learning-to-Rank with Biased Feedback", 2017, section
4). On log-probabilities the bias is a term: log(e r) = log e + log r. So the score's error
log(score) - log(r) is regressed on log e(p) of the position where the impression was shown. Log r
stands beside it in the regression, so that scores that are too flat or too steep are not taken for
bias where better posts were shown higher. A skip is no such product (what is not examined is
skipped) and is left out. It knows the simulator's truth and no other.

Shape suffixes: R targets; K tasks; S members; B resamples, the first of which is the data itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import nn

from components.backtest.bootstrap import interval, member_weights
from components.backtest.scored import Scored, scored_batches
from components.layout.paths import Layout
from components.log.sources.feedback import EXAMINED_ACTIONS
from components.log.sources.simulator import has_truth, truth_day
from feature_repo.spec import Spec
from serving.predictor.rank_batch import SERVING_POSITION

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
KEYS = ("member_id", "post_id", "event_time")
RESAMPLES = 200
Slope = dict[str, float | None]
"""value, low, high."""


def position_bias(ranker: nn.Module, folder: Path, layout: Layout, spec: Spec) -> dict[str, Any]:
    """The slopes of a ranker's log-scores on the true log propensity, by task.

    Args:
        ranker: scores a batch of `model.batch.TrainBatch`.
        folder: shards of the days to score, of a log that the simulator wrote with its truth.
        layout: the root that holds `truth/`.
        spec: the simulator's, or one with its tasks.

    Returns:
        position (what serving assumes), n and members scored, and tasks: {TASK: {residual, shown}},
        each {value, low, high} with a 95% interval over members. residual is of the scores at the
        serving position: 0, position does not reach the ranking; 1, all of the planted bias does.
        shown is of the scores at the position where each was shown: 1, told a position, the ranker
        knows what was planted; 0, it knows nothing of it.

    Raises:
        ValueError: there are no shards, a target has no truth, or no bias was planted.
    """
    served_RK, keys = _scores(ranker, folder, spec, SERVING_POSITION)
    shown_RK, _ = _scores(ranker, folder, spec, None)
    placed = _Placed(keys=keys, truth=_join_truth(keys, layout, spec))
    tasks = {
        task: {
            "residual": placed.slope(served_RK[:, k], task),
            "shown": placed.slope(shown_RK[:, k], task),
        }
        for k, task in enumerate(spec.task_names)
        if task in EXAMINED_ACTIONS
    }
    return {
        "position": SERVING_POSITION,
        "n": int(placed.chosen_R.sum()),
        "members": len(np.unique(keys["member_id"][placed.chosen_R])),
        "tasks": tasks,
    }


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """The impressions that were shown at a position, among all that were scored."""

    keys: dict[str, Ints]
    truth: dict[str, npt.NDArray[Any]]

    @property
    def chosen_R(self) -> npt.NDArray[np.bool_]:
        """Which of all they are."""
        return self.keys["position"] >= 0

    def slope(self, logits_R: Floats, task: str) -> Slope:
        """The slope of the error of one task's logits, those of all impressions."""
        examined_R = self._log(self.truth["examination"])
        relevance_R = self._log(self.truth[f"b_{task}"]) - examined_R
        error_R = _log_sigmoid(logits_R[self.chosen_R]) - relevance_R
        return slope(error_R, examined_R, relevance_R, self.keys["member_id"][self.chosen_R])

    def _log(self, chance_R: Floats) -> npt.NDArray[np.float64]:
        return np.log(chance_R[self.chosen_R].astype(np.float64))


def slope(error_R: Floats, examined_R: Floats, relevance_R: Floats, member_R: Ints) -> Slope:
    """The least-squares slope of the error on log propensity, log relevance beside it.

    Args:
        error_R: log score minus log relevance.
        examined_R: log propensity of the position where each impression was shown.
        relevance_R: log relevance.
        member_R: int64; members are drawn again for the interval.

    Returns:
        {value, low, high}, the 95% interval over members.

    Raises:
        ValueError: there is no impression, or all propensities are the same.
    """
    if not len(examined_R):
        raise ValueError("no impression with a position is scored; choose days that have some")
    if np.ptp(examined_R) < 1e-6:
        raise ValueError(
            "every impression was examined with the same probability: no position bias is planted; "
            "simulate with a position_exponent above 0"
        )
    member_S, place_R = np.unique(member_R, return_inverse=True)
    design_R3 = np.stack([np.ones_like(examined_R), examined_R, relevance_R], 1)
    products_R12 = np.concatenate(
        [(design_R3[:, :, None] * design_R3[:, None]).reshape(-1, 9), design_R3 * error_R[:, None]],
        axis=1,
    )
    products_S12 = np.zeros((len(member_S), 12))
    np.add.at(products_S12, place_R, products_R12)
    drawn_B12 = member_weights(member_S, RESAMPLES).T.astype(np.float64) @ products_S12
    solved = np.linalg.pinv(drawn_B12[:, :9].reshape(-1, 3, 3)) @ drawn_B12[:, 9:, None]
    return interval(solved[:, 1, 0])


def _scores(
    ranker: nn.Module, folder: Path, spec: Spec, position: int | None
) -> tuple[npt.NDArray[np.float64], dict[str, Ints]]:
    """Logits `[R, K]`, and by name what tells the impressions apart and their position."""
    batches = [(b.logits_RK, _keys(b)) for b in scored_batches(ranker, folder, spec, position)]
    if not batches:
        raise ValueError(f"the shards in {folder} hold no impression to score; choose other days")
    logits_RK = np.concatenate([logits for logits, _ in batches]).astype(np.float64)
    parts = [keys for _, keys in batches]
    return logits_RK, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _keys(batch: Scored) -> dict[str, Ints]:
    """The targets' member, post, time and position."""
    columns = {name: batch.packed.columns[name] for name in ("post_id", "event_time", "position")}
    of_targets = {name: all_M[batch.target_R].astype(np.int64) for name, all_M in columns.items()}
    return {"member_id": batch.member_R, **of_targets}


def _join_truth(keys: dict[str, Ints], layout: Layout, spec: Spec) -> dict[str, npt.NDArray[Any]]:
    """The truth's columns for each impression, joined by member, post and time."""
    days = np.unique(spec.day(keys["event_time"]))
    wanted = pa.table({**{n: keys[n] for n in KEYS}, "row": np.arange(len(keys["member_id"]))})
    # A visit that runs past midnight is in the file of the day it began on.
    names = [spec.day_name(int(day)) for day in np.unique(np.concatenate([days - 1, days]))]
    tables = [truth_day(layout, name) for name in names if has_truth(layout, name)]
    if tables:
        joined = wanted.join(pa.concat_tables(tables), list(KEYS), join_type="inner")
        if joined.num_rows == wanted.num_rows:
            joined = joined.sort_by("row")
            return {name: joined[name].to_numpy() for name in joined.column_names}
    raise ValueError(
        f"{layout.root} does not hold the truth of every impression that is scored; simulate the "
        "log there, with its truth"
    )


def _log_sigmoid(logits: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(-np.logaddexp(0.0, -logits))
